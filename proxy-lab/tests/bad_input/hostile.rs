//! Files that are made, or grew, to harm their reader.

use std::fmt::Write as _;

use proxy_lab::{Folder, Result, eventually};
use serde_json::json;

use super::{FOLLOWED, Setup};

/// Malformed files. Each kind has crashed some program. Name, and a word of the expected report.
const HOSTILE: [(&str, &str); 7] = [
    ("nested.yaml", "document 1"),
    ("huge.yaml", "larger than"),
    ("loop.yaml", "can't be read"),
    ("binary.yaml", "not UTF-8"),
    ("aliases.yaml", "document 1"),
    ("device.yaml", "can't be read"),
    ("folder.yaml", "can't be read"),
];

fn put_hostile(folder: &Folder) -> Result<()> {
    folder.write("nested.yaml", &format!("kind: {}", "[".repeat(100_000)))?;
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 8].join(", ");
        writeln!(aliases, "a{level}: &a{level} [{below}]").expect("a String grows");
    }
    folder.write(
        "aliases.yaml",
        &format!("{aliases}kind: Service\nspec: *a11\n"),
    )?;
    let path = |name: &str| folder.path().join(name);
    let can = "can be put there";
    std::fs::write(path("binary.yaml"), [0xff, 0xfe, 0, 1]).expect(can);
    std::os::unix::fs::symlink("loop.yaml", path("loop.yaml")).expect(can);
    // A terabyte, that takes no room; a device and a folder that are no files.
    let huge = std::fs::File::create(path("huge.yaml")).expect(can);
    huge.set_len(1 << 40).expect(can);
    std::os::unix::fs::symlink("/dev/zero", path("device.yaml")).expect(can);
    std::fs::create_dir(path("folder.yaml")).expect(can);
    Ok(())
}

#[test]
fn hostile_files_are_told_at_the_start_and_live() -> Result<()> {
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
               "spec": {"clusterIP": "10.96.0.256", "ports": [{"port": 70_000}]}})
    };
    let put = |source: &Folder| {
        source.put(service("wrong-at-the-start"))?;
        put_hostile(source)
    };
    let Some(setup) = Setup::beside("badstart", put)? else {
        return Ok(());
    };
    setup.serves("wrong from the start")?;
    for (file, words) in HOSTILE {
        setup.told(&["WARN", file, words])?;
    }
    setup.told(&["WARN", "Service default/wrong-at-the-start", "10.96.0.256"])?;
    let files = f64::from(HOSTILE.len() as u32);
    assert_eq!(setup.counted("file")?, Some(files));
    assert_eq!(setup.counted("Service")?, Some(2.0));
    setup.goes_on("wrong from the start")?;

    for (file, _) in HOSTILE {
        let path = setup.source.path().join(file);
        std::fs::remove_file(&path)
            .or_else(|_| std::fs::remove_dir(&path))
            .expect("can be removed");
    }
    // Seen to be gone: what comes back sooner is what was told already.
    setup.goes_on("gone again")?;
    put_hostile(&setup.source)?;
    setup.source.put(service("wrong-live"))?;
    eventually("all is counted again", FOLLOWED, || {
        Ok(setup.counted("file")? == Some(2.0 * files))
    })?;
    setup.told(&["WARN", "Service default/wrong-live", "70000"])?;
    setup.goes_on("wrong live")
}
