//! Certificates of a cluster, and kubeconfigs with them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::error::{LabError, Result};

/// A certificate authority with its folder.
#[derive(Debug)]
pub(super) struct Pki {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// What was issued, by name. Whoever writes a file holds it.
    issued: Mutex<BTreeMap<String, Certificate>>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// The two halves of a key pair, as files.
#[derive(Debug)]
pub(super) struct SigningKeys {
    pub(super) private: PathBuf,
    pub(super) public: PathBuf,
}

/// Whom a certificate is for.
#[derive(Debug, Default)]
pub(super) struct Subject<'a> {
    /// The user, or the server's name.
    pub(super) common_name: &'a str,
    /// The user's group.
    pub(super) organization: Option<&'a str>,
    /// Under which names a server is reached.
    pub(super) names: &'a [&'a str],
    /// At which addresses a server is reached.
    pub(super) addresses: &'a [IpAddr],
}

impl Pki {
    /// A new authority; its certificate is in `ca.crt`.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(LabError::file("creating", folder))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "lab");
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().map_err(failed("the authority"))?;
        let certificate = params.self_signed(&key).map_err(failed("the authority"))?;
        let pki = Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
            issued: Mutex::default(),
        };
        write(&pki.authority(), &certificate.pem())?;
        Ok(pki)
    }

    /// The authority's certificate.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A certificate for a server, a client or both, in the files `NAME.crt` and `NAME.key`. One that is there stays: others
    /// may be reading it.
    pub(super) fn issue(&self, name: &str, subject: &Subject<'_>) -> Result<Certificate> {
        let mut issued = self.issued();
        if let Some(files) = issued.get(name) {
            return Ok(files.clone());
        }
        let names = subject.names.iter().map(|&name| name.to_owned());
        let names: Vec<_> = names
            .chain(subject.addresses.iter().map(ToString::to_string))
            .collect();
        let mut params = CertificateParams::new(names).map_err(failed(name))?;
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name);
        if let Some(organization) = subject.organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed(name))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed(name))?;
        let files = Certificate {
            certificate: self.folder.join(format!("{name}.crt")),
            key: self.folder.join(format!("{name}.key")),
        };
        write(&files.certificate, &certificate.pem())?;
        write(&files.key, &key.serialize_pem())?;
        issued.insert(name.to_owned(), files.clone());
        Ok(files)
    }

    fn issued(&self) -> MutexGuard<'_, BTreeMap<String, Certificate>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key pair without certificate, for signing tokens.
    pub(super) fn signing_keys(&self, name: &str) -> Result<SigningKeys> {
        let key = KeyPair::generate().map_err(failed(name))?;
        let files = SigningKeys {
            private: self.folder.join(format!("{name}.key")),
            public: self.folder.join(format!("{name}.pub")),
        };
        write(&files.private, &key.serialize_pem())?;
        write(&files.public, &key.public_key_pem())?;
        Ok(files)
    }

    /// A kubeconfig for a server. `user` is the user entry in YAML or JSON.
    pub(super) fn kubeconfig(
        &self,
        name: &str,
        server: &str,
        user: &serde_json::Value,
    ) -> Result<PathBuf> {
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": self.authority()}}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            "current-context": "lab",
        });
        let file = self.folder.join(format!("{name}.kubeconfig"));
        let _writing = self.issued();
        write(&file, &format!("{text:#}\n"))?;
        Ok(file)
    }
}

impl Certificate {
    /// The user of a kubeconfig who has it.
    pub(super) fn user(&self) -> serde_json::Value {
        serde_json::json!({"client-certificate": self.certificate, "client-key": self.key})
    }
}

/// Replaces the file atomically: a concurrent reader gets the old or the new content.
fn write(file: &Path, text: &str) -> Result<()> {
    let new = file.with_added_extension("new");
    std::fs::write(&new, text).map_err(LabError::file("writing", &new))?;
    std::fs::rename(&new, file).map_err(LabError::file("replacing", file))
}

fn failed(name: &str) -> impl FnOnce(rcgen::Error) -> LabError {
    let action = format!("making a certificate for {name}");
    move |error| LabError::Kernel {
        action,
        source: std::io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_and_its_key_belong_together_whoever_asks_for_them_at_once() {
        let folder = std::env::temp_dir().join(format!("plab-pki-{}", std::process::id()));
        let pki = Pki::create(&folder).expect("an authority");
        let read = |files: &Certificate| {
            let text = |path: &Path| std::fs::read_to_string(path).expect("a file");
            (text(&files.certificate), text(&files.key))
        };
        let pairs: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let files = pki.issue("one", &Subject::default());
                        read(&files.expect("a certificate"))
                    })
                })
                .collect();
            let pairs = asking.into_iter().map(|one| one.join().expect("a pair"));
            pairs.collect()
        });
        std::fs::remove_dir_all(&folder).expect("the folder goes");
        assert!(pairs.iter().all(|pair| *pair == pairs[0]));
    }
}
