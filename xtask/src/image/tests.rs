use std::collections::BTreeMap;
use std::io::Read as _;

use super::archive::{self, Digest, Entry, Image};
use super::check::Archive;
use super::{REFERENCE, files};

fn pack(files: &[Entry]) -> (Vec<u8>, Digest) {
    let image = Image {
        reference: "kube-proxy-ebpf:1.2.3",
        architecture: "amd64",
        version: "1.2.3",
        entrypoint: &["/proxy-agent"],
        arguments: &["run"],
        files,
    };
    let mut archive = Vec::new();
    let digest = archive::write(&image, &mut archive).expect("is written to memory");
    (archive, digest)
}

#[test]
fn digests_are_sha_256() {
    let of_nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(Digest::of(b"").to_string(), of_nothing);
}

#[test]
fn the_same_content_gives_the_same_archive_and_other_content_another() {
    let (archive, digest) = pack(&files(b"program".to_vec()));
    let (again, same) = pack(&files(b"program".to_vec()));
    assert!(archive == again && digest == same);
    let (_, other) = pack(&files(b"another".to_vec()));
    assert!(other != digest);
}

#[test]
fn an_archive_holds_the_files_and_how_they_are_started() {
    let (archive, digest) = pack(&files(b"program".to_vec()));
    let found = Archive::read(archive.as_slice())
        .and_then(|archive| archive.check())
        .expect("is whole");
    assert_eq!(found.digest, digest.to_string());
    assert_eq!(found.config["architecture"], "amd64");
    assert_eq!(found.config["config"]["Entrypoint"][0], "/proxy-agent");

    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(found.layer.as_slice())
        .entries()
        .expect("is a tar")
    {
        let mut entry = entry.expect("is an entry");
        let header = entry.header();
        let (mode, mtime) = (
            header.mode().expect("has one"),
            header.mtime().expect("too"),
        );
        assert_eq!((header.uid().ok(), mtime), (Some(0), 0));
        let path = entry.path().expect("has one").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("is in memory");
        files.insert(path, (mode, bytes));
    }
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["etc/", "etc/nsswitch.conf", "proxy-agent"]);
    assert_eq!(files["proxy-agent"], (0o755, b"program".to_vec()));
}

#[test]
fn a_changed_byte_is_found() {
    let (archive, _) = pack(&files(b"program".to_vec()));
    let read = |bytes: &[u8]| Archive::read(bytes).and_then(|archive| archive.check());
    // In the middle of each file of the archive, by their headers: every 512 bytes one begins or goes on.
    let mut found = 0;
    for (at, &byte) in archive.iter().enumerate() {
        let in_content = byte != 0 && (at / 512) % 2 == 1;
        if in_content {
            let mut changed = archive.clone();
            changed[at] ^= 1;
            found += usize::from(read(&changed).is_err());
        }
    }
    assert!(found > 500, "{found} changes of content were found");
}

#[test]
fn the_manifests_name_this_image() {
    let text = include_str!("../../../manifests/daemonset.yaml");
    let images: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: "))
        .collect();
    assert!(!images.is_empty());
    assert!(images.iter().all(|image| *image == REFERENCE), "{images:?}");
}
