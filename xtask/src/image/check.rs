//! Reads an archive back as a container runtime does: every digest and size must match.

use std::{
    collections::BTreeMap,
    io::{Read, read_to_string},
};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::archive::Digest;

/// An archive in memory.
pub struct Archive {
    files: BTreeMap<String, Vec<u8>>,
}

/// What was found in one.
#[derive(Debug)]
pub struct Found {
    /// Of the manifest: the image's own.
    pub digest: String,
    pub config: Value,
    /// The root file system, a tar.
    pub layer: Vec<u8>,
}

impl Archive {
    pub fn read(archive: impl Read) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.insert(path, bytes);
        }
        Ok(Self { files })
    }

    /// Follows the index to the layer, and checks all on the way.
    pub fn check(&self) -> Result<Found> {
        self.json("oci-layout")?;
        let index = self.json("index.json")?;
        let described = &index["manifests"][0];
        let manifest = parse(self.blob(described)?)?;
        let config = parse(self.blob(&manifest["config"])?)?;
        let compressed = self.blob(&manifest["layers"][0])?;
        let mut layer = Vec::new();
        GzDecoder::new(compressed)
            .read_to_end(&mut layer)
            .context("the layer is no gzip")?;
        let diff_id = &config["rootfs"]["diff_ids"][0];
        ensure!(
            *diff_id == Digest::of(&layer).to_string(),
            "the layer's tar is not {diff_id}"
        );
        let for_docker = self.json("manifest.json")?;
        for (name, descriptor) in [
            (&for_docker[0]["Config"], &manifest["config"]),
            (&for_docker[0]["Layers"][0], &manifest["layers"][0]),
        ] {
            ensure!(
                name.as_str() == blob_path(descriptor).as_deref(),
                "manifest.json names {name}, the image has {descriptor}"
            );
        }
        let digest = described["digest"].as_str().unwrap_or_default().to_owned();
        Ok(Found {
            digest,
            config,
            layer,
        })
    }

    fn file(&self, path: &str) -> Result<&[u8]> {
        let bytes = self.files.get(path);
        Ok(bytes.with_context(|| format!("the archive has no {path}"))?)
    }

    fn json(&self, path: &str) -> Result<Value> {
        parse(self.file(path)?).with_context(|| format!("{path} is no JSON"))
    }

    /// What a descriptor names; of the digest and the size that it says.
    fn blob(&self, descriptor: &Value) -> Result<&[u8]> {
        let path = blob_path(descriptor).with_context(|| format!("no digest in {descriptor}"))?;
        let bytes = self.file(&path)?;
        ensure!(
            descriptor["digest"] == Digest::of(bytes).to_string()
                && descriptor["size"] == bytes.len(),
            "{path} is not what {descriptor} says"
        );
        Ok(bytes)
    }
}

fn blob_path(descriptor: &Value) -> Option<String> {
    let digest = descriptor["digest"].as_str()?.strip_prefix("sha256:")?;
    Some(format!("blobs/sha256/{digest}"))
}

fn parse(json: &[u8]) -> Result<Value> {
    Ok(serde_json::from_str(&read_to_string(json)?)?)
}
