//! Every Rust file must be compiled: a file without a `mod` declaration rots unseen.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use super::sources::{Sources, code};

/// Every file under `src`, `tests`, `benches` or `examples` that no target of cargo's reaches.
pub fn check(sources: &Sources) -> Vec<String> {
    let mut reached = BTreeSet::new();
    for (path, _) in sources.rust().filter(|(path, _)| is_root(path)) {
        // The modules of a target's root lie beside it.
        let folder = path.parent().unwrap_or(Path::new(""));
        reach(sources, path, folder, &mut reached);
    }
    sources
        .rust()
        .filter(|(path, _)| !reached.contains(*path))
        .map(|(path, _)| {
            format!(
                "{}: no target reaches this file: declare it with `mod`, or remove it",
                path.display()
            )
        })
        .collect()
}

/// Whether cargo makes a target of this file by itself.
fn is_root(path: &Path) -> bool {
    let parts: Vec<&str> = path
        .components()
        .filter_map(|part| part.as_os_str().to_str())
        .collect();
    match parts.as_slice() {
        [_, "build.rs"] | [_, "src", "main.rs" | "lib.rs"] => true,
        [_, "src", "bin", rest @ ..] | [_, "tests" | "benches" | "examples", rest @ ..] => {
            matches!(rest, [_] | [_, "main.rs"])
        }
        _ => false,
    }
}

/// Follows the `mod` declarations of a file whose modules lie in `folder`.
fn reach(sources: &Sources, file: &Path, folder: &Path, reached: &mut BTreeSet<PathBuf>) {
    let Some(text) = sources.get(file) else {
        return;
    };
    if !reached.insert(file.to_path_buf()) {
        return;
    }
    let mut given = None;
    for line in text.lines() {
        if let Some(path) = path_attribute(line) {
            given = Some(path);
        } else if let Some(name) = declared_module(&code(line)) {
            let inner = folder.join(name);
            match given.take() {
                Some(path) => {
                    let file = plain(&file.parent().unwrap_or(Path::new("")).join(path));
                    let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
                    reach(sources, &file, &folder, reached);
                }
                None => {
                    for file in [inner.with_added_extension("rs"), inner.join("mod.rs")] {
                        reach(sources, &file, &inner, reached);
                    }
                }
            }
        }
    }
}

/// `b` of `pub mod b;`.
fn declared_module(code: &str) -> Option<&str> {
    let code = code.trim().strip_suffix(';')?;
    let (visibility, name) = code.rsplit_once("mod ")?;
    let visibility = visibility.trim();
    (visibility.is_empty() || visibility.starts_with("pub") || visibility.ends_with(']'))
        .then_some(name.trim())
}

/// `x.rs` of `#[path = "x.rs"]`.
fn path_attribute(line: &str) -> Option<&str> {
    line.trim().strip_prefix("#[path = \"")?.split('"').next()
}

/// The path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_file_that_nobody_declares_is_found() {
        let sources = Sources::of(&[
            ("a/src/lib.rs", "pub mod one;\nmod three { mod four; }"),
            ("a/src/one.rs", "pub(crate) mod two; // said\n"),
            ("a/src/one/two.rs", ""),
            (
                "a/src/bin/tool.rs",
                "#[path = \"../shared_code.rs\"]\nmod shared;\n",
            ),
            ("a/src/shared_code.rs", ""),
            ("a/tests/all.rs", "mod scenario;\n// mod dead;\n"),
            ("a/tests/scenario/mod.rs", "mod first;"),
            ("a/tests/scenario/first.rs", ""),
            ("a/tests/all/dead.rs", ""),
            ("a/build.rs", ""),
        ]);
        let findings = check(&sources);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].starts_with("a/tests/all/dead.rs:"),
            "{findings:?}"
        );
    }
}
