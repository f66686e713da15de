//! Who asks the API server.

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api as Resource, PostParams};
use serde_json::{Value, json};

use super::api::{Api, failed};
use super::pki::{Certificate, Pki, Subject};
use crate::error::Result;

/// A user of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// May do everything.
    Admin,
    /// `system:kube-controller-manager`.
    ControllerManager,
    /// `system:kube-proxy`, bound to the role `system:node-proxier` from the start.
    KubeProxy,
    /// A node's kubelet, for the Node authorizer.
    Kubelet(String),
    /// A service account, by a token. It must exist.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Any other user.
    User(String),
}

impl Identity {
    /// A name for files.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::ControllerManager => "kube-controller-manager".to_owned(),
            Self::KubeProxy => "kube-proxy".to_owned(),
            Self::Kubelet(node) => format!("kubelet-{node}"),
            Self::ServiceAccount { namespace, name } => format!("{namespace}-{name}"),
            Self::User(name) => format!("user-{}", name.replace([':', '/'], "-")),
        }
    }

    /// Its part of a kubeconfig.
    pub(super) fn user(&self, pki: &Pki, api: &Api) -> Result<Value> {
        match self {
            Self::ServiceAccount { namespace, name } => {
                token(api, namespace, name).map(|token| json!({"token": token}))
            }
            _ => self.certificate(pki).map(|certificate| certificate.user()),
        }
    }

    /// A client certificate.
    pub(super) fn certificate(&self, pki: &Pki) -> Result<Certificate> {
        let (user, group) = match self {
            Self::Admin => ("admin".to_owned(), Some("system:masters")),
            Self::ControllerManager => ("system:kube-controller-manager".to_owned(), None),
            Self::KubeProxy => ("system:kube-proxy".to_owned(), None),
            Self::Kubelet(node) => (format!("system:node:{node}"), Some("system:nodes")),
            Self::ServiceAccount { namespace, name } => {
                (format!("system:serviceaccount:{namespace}:{name}"), None)
            }
            Self::User(name) => (name.clone(), None),
        };
        let subject = Subject {
            common_name: &user,
            organization: group,
            ..Subject::default()
        };
        pki.issue(&self.name(), &subject)
    }
}

/// A token of a service account, good for an hour.
fn token(api: &Api, namespace: &str, name: &str) -> Result<String> {
    let (space, account) = (namespace.to_owned(), name.to_owned());
    let request = api.run(move |client| async move {
        let accounts: Resource<ServiceAccount> = Resource::namespaced(client, &space);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..Default::default()
            }),
            ..Default::default()
        };
        accounts
            .create_token_request(&account, &PostParams::default(), &request)
            .await
    });
    let what = format!("getting a token for the ServiceAccount {namespace}/{name}");
    let answer = request.map_err(failed(what))?;
    Ok(answer
        .status
        .and_then(|status| status.token)
        .unwrap_or_default())
}
