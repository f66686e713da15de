//! A container image in one file: an OCI image layout in a tar, with the index that older `docker load`s read beside it.
//!
//! The same content gives the same bytes: names in order, no times, no owners.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::Write,
};

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the image is.
pub struct Image<'a> {
    /// `name:tag`.
    pub reference: &'a str,
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: &'a str,
    pub version: &'a str,
    pub entrypoint: &'a [&'a str],
    pub arguments: &'a [&'a str],
    pub files: &'a [Entry],
}

/// A file of the image.
pub struct Entry {
    /// From the root, without a leading slash.
    pub path: &'static str,
    pub mode: u32,
    pub bytes: Vec<u8>,
}

/// A SHA-256 digest, written as `sha256:…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let mut hex = String::new();
        for byte in Sha256::digest(bytes) {
            // Writing to a String does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }

    /// Where the layout keeps a blob of this digest.
    pub fn path(&self) -> String {
        format!("blobs/sha256/{}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// Blobs by digest.
#[derive(Default)]
struct Blobs(BTreeMap<Digest, Vec<u8>>);

impl Blobs {
    fn add(&mut self, bytes: Vec<u8>) -> (Digest, usize) {
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        self.0.insert(digest.clone(), bytes);
        (digest, size)
    }

    /// Adds a document, and returns its digest and descriptor.
    fn add_json(&mut self, media_type: &str, document: &Value) -> Result<(Digest, Value)> {
        let (digest, size) = self.add(json_bytes(document)?);
        let descriptor = descriptor(media_type, &digest, size);
        Ok((digest, descriptor))
    }
}

/// Writes the archive; returns the digest of the image's manifest, which is what names the image.
pub fn write(image: &Image<'_>, out: impl Write) -> Result<Digest> {
    let mut blobs = Blobs::default();
    let layer = layer(image.files)?;
    let diff_id = Digest::of(&layer);
    let (layer, size) = blobs.add(compress(&layer)?);
    let (config, config_descriptor) = blobs.add_json(CONFIG, &config(image, &diff_id))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config_descriptor,
        "layers": [descriptor(LAYER, &layer, size)],
    });
    let (manifest, mut described) = blobs.add_json(MANIFEST, &manifest)?;
    described["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    let tag = image.reference.rsplit(':').next().unwrap_or_default();
    described["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag,
        // What containerd calls it, whole: the kubelet asks for `kube-proxy-ebpf:0.1.0` by this name.
        "io.containerd.image.name": format!("docker.io/library/{}", image.reference),
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]});
    let for_docker = json!([{
        "Config": config.path(),
        "RepoTags": [image.reference],
        "Layers": [layer.path()],
    }]);

    let mut archive = tar::Builder::new(out);
    file(
        &mut archive,
        "oci-layout",
        0o644,
        &json_bytes(&json!({"imageLayoutVersion": "1.0.0"}))?,
    )?;
    file(&mut archive, "index.json", 0o644, &json_bytes(&index)?)?;
    file(
        &mut archive,
        "manifest.json",
        0o644,
        &json_bytes(&for_docker)?,
    )?;
    for (digest, bytes) in &blobs.0 {
        file(&mut archive, &digest.path(), 0o644, bytes)?;
    }
    archive.into_inner()?.flush()?;
    Ok(manifest)
}

fn config(image: &Image<'_>, diff_id: &Digest) -> Value {
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Cmd": image.arguments,
            "Labels": {
                "org.opencontainers.image.title": "kube-proxy-ebpf",
                "org.opencontainers.image.version": image.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
    })
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

/// The root file system as a tar, with the folders that files are in.
fn layer(files: &[Entry]) -> Result<Vec<u8>> {
    let mut names: BTreeMap<String, Option<&Entry>> = BTreeMap::new();
    for entry in files {
        names.insert(entry.path.to_owned(), Some(entry));
        for (at, _) in entry.path.match_indices('/') {
            names.insert(entry.path[..=at].to_owned(), None);
        }
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (name, entry) in names {
        if let Some(entry) = entry {
            file(&mut archive, &name, entry.mode, &entry.bytes)?;
        } else {
            let mut header = header(0o755, 0);
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, &name, std::io::empty())?;
        }
    }
    Ok(archive.into_inner()?)
}

fn file(archive: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    Ok(archive.append_data(&mut header(mode, bytes.len() as u64), path, bytes)?)
}

/// Of root, from 1970.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Keys in order: `serde_json` sorts them.
fn json_bytes(document: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(document)?)
}
