//! Certificates of a cluster, and kubeconfigs with them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

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
        };
        write(&pki.authority(), &certificate.pem())?;
        Ok(pki)
    }

    /// The authority's certificate.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A certificate for a server, a client or both, in the files `NAME.crt` and `NAME.key`.
    pub(super) fn issue(&self, name: &str, subject: &Subject<'_>) -> Result<Certificate> {
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
        Ok(files)
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

    /// A kubeconfig for a server; `user` is the YAML (or JSON) of its user.
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

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(LabError::file("writing", file))
}

fn failed(name: &str) -> impl FnOnce(rcgen::Error) -> LabError {
    let action = format!("making a certificate for {name}");
    move |error| LabError::Kernel {
        action,
        source: std::io::Error::other(error),
    }
}
