//! The sources that are mutated: a copy of the workspace, never the workspace itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// How cargo marks its target folders.
const CACHE: &str = "CACHEDIR.TAG";
const MANIFEST: &str = "Cargo.toml";
/// Where the workspace's manifest says which version our crates are, and what follows the copy's.
const VERSION: &str = "\nversion = \"";
const MARK: &str = "+mutant";

/// Makes `copy` equal to the sources in `root`, but for one file's text. Files that are equal already keep their times,
/// so that cargo builds nothing anew because of them.
///
/// The copy's crates are another version: in the build folder that both workspaces share, cargo then keeps their
/// artifacts apart, and those of dependencies are the same.
pub fn update(root: &Path, copy: &Path, file: &Path, text: String) -> Result<()> {
    let manifest = fs::read_to_string(root.join(MANIFEST))
        .with_context(|| format!("could not read {}", root.join(MANIFEST).display()))?;
    let changes = BTreeMap::from([
        (root.join(MANIFEST), mark_version(&manifest)?),
        (root.join(file), text),
    ]);
    mirror(root, copy, &changes)
        .with_context(|| format!("could not copy {} to {}", root.display(), copy.display()))
}

fn mark_version(manifest: &str) -> Result<String> {
    let mut parts = manifest.splitn(2, VERSION);
    let (before, after) = (parts.next(), parts.next());
    let version = after.and_then(|after| after.split_once('"'));
    let (Some(before), Some((version, after))) = (before, version) else {
        anyhow::bail!("the workspace's {MANIFEST} has no line that begins with `version = \"`");
    };
    ensure!(
        !after.contains(VERSION),
        "the workspace's {MANIFEST} has more than one line with a version"
    );
    Ok(format!("{before}{VERSION}{version}{MARK}\"{after}"))
}

fn mirror(from: &Path, to: &Path, changes: &BTreeMap<PathBuf, String>) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if !is_source(&path, &name) {
            continue;
        }
        let copy = to.join(&name);
        there.insert(name);
        if path.is_dir() {
            mirror(&path, &copy, changes)?;
            continue;
        }
        let text = match changes.get(&path) {
            Some(text) => text.clone().into_bytes(),
            None => fs::read(&path)?,
        };
        if fs::read(&copy).ok().as_ref() != Some(&text) {
            fs::write(&copy, text)?;
        }
    }
    for entry in fs::read_dir(to)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if there.contains(&name) {
            continue;
        }
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Neither hidden nor a target folder.
fn is_source(path: &Path, name: &OsString) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    !hidden && name != "target" && !path.join(CACHE).exists()
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("xtask-{name}-{}", process::id()));
            fs::create_dir_all(&path).expect("a temporary folder");
            Self(path)
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }

        fn read(&self, file: &str) -> Option<String> {
            fs::read_to_string(self.0.join(file)).ok()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // Left over at worst.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MARKED: &str = "[workspace.package]\nversion = \"1.2.3+mutant\"\n";

    #[test]
    fn the_copy_has_the_sources_and_one_other_text() {
        let (root, copy) = (Folder::new("sources"), Folder::new("copy"));
        root.write(MANIFEST, &MARKED.replace(MARK, ""));
        root.write("a/src/lib.rs", "right");
        root.write("a/src/other.rs", "other");
        root.write("target/debug/a", "built");
        root.write("elsewhere/CACHEDIR.TAG", "");
        root.write(".git/HEAD", "ref");
        copy.write("a/src/gone.rs", "old");
        copy.write("b/lib.rs", "old");

        update(
            &root.0,
            &copy.0,
            Path::new("a/src/lib.rs"),
            "wrong".to_owned(),
        )
        .expect("copied");
        assert_eq!(copy.read(MANIFEST).as_deref(), Some(MARKED));
        assert_eq!(copy.read("a/src/lib.rs").as_deref(), Some("wrong"));
        for absent in [
            "a/src/gone.rs",
            "b/lib.rs",
            "target/debug/a",
            "elsewhere/CACHEDIR.TAG",
            ".git/HEAD",
        ] {
            assert_eq!(copy.read(absent), None, "{absent}");
        }
        assert_eq!(root.read("a/src/lib.rs").as_deref(), Some("right"));

        // The next one: what was wrong is right again, what did not change was not written.
        let time = |file: &str| {
            let data = fs::metadata(copy.0.join(file)).expect("is there");
            data.modified().expect("has a time")
        };
        let before = time("a/src/other.rs");
        update(&root.0, &copy.0, Path::new("a/src/new.rs"), String::new()).expect("copied");
        assert_eq!(copy.read("a/src/lib.rs").as_deref(), Some("right"));
        assert_eq!(time("a/src/other.rs"), before);
    }

    #[test]
    fn the_version_is_in_one_place() {
        assert!(mark_version("[workspace]\n").is_err());
        assert!(mark_version("\nversion = \"1\"\nversion = \"2\"\n").is_err());
    }
}
