//! Services and their slices as files of a folder, each in one of its own.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

pub const ENDPOINTS: u32 = 4;
pub const PORT: u16 = 80;
pub const TARGET_PORT: u16 = 8080;

/// A folder that is followed, and one beside it where files are written before they are moved.
pub struct Files {
    base: PathBuf,
}

impl Files {
    pub fn new(base: PathBuf) -> Self {
        let files = Self { base };
        for folder in [files.folder(), files.staging()] {
            fs::create_dir_all(folder).unwrap();
        }
        files
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    pub fn folder(&self) -> PathBuf {
        self.base.join("objects")
    }

    fn staging(&self) -> PathBuf {
        self.base.join("staging")
    }

    /// Writes a file aside; returns it, and where it is to be moved to.
    pub fn stage(&self, name: &str, text: &str) -> (PathBuf, PathBuf) {
        let staged = self.staging().join(name);
        fs::write(&staged, text).unwrap();
        (staged, self.folder().join(name))
    }

    pub fn put(&self, name: &str, text: &str) {
        let (from, to) = self.stage(name, text);
        fs::rename(from, to).unwrap();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.base).ok();
    }
}

pub const fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a60_0000 + service)
}

pub const fn endpoint(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0000 + service * 256 + number)
}

pub fn service(number: u32) -> String {
    let ip = cluster_ip(number);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: service-{number}, namespace: load}}
spec:
  clusterIP: {ip}
  clusterIPs: [{ip}]
  ports: [{{name: http, port: {PORT}, targetPort: {TARGET_PORT}}}]
"
    )
}

/// The endpoints from `first` on.
pub fn slice(number: u32, first: u32) -> String {
    let endpoints: Vec<_> = (first..first + ENDPOINTS)
        .map(|n| endpoint(number, n))
        .map(|ip| format!("- {{addresses: [{ip}], conditions: {{ready: true}}}}\n"))
        .collect();
    let endpoints = endpoints.concat();
    format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: service-{number}-a
  namespace: load
  labels: {{kubernetes.io/service-name: service-{number}}}
addressType: IPv4
ports: [{{name: http, port: {TARGET_PORT}}}]
endpoints:
{endpoints}"
    )
}
