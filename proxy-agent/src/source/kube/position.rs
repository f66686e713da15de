//! Where following goes on after a list or a watch has ended.

use kube::api::{ListParams, VersionMatch};

/// Objects of one part of a list that is read in parts.
const PAGE: u32 = 500;

/// Where the story goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// With a list.
    List(Version),
    /// With what came after this version.
    After(String),
}

/// How new a list must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// As the server has it at hand.
    Any,
    /// Not older than this: that would take back what is known.
    NotOlderThan(String),
    /// The newest there is.
    Newest,
}

impl Version {
    /// How to ask for a list, or for its next part.
    pub(super) fn params(
        &self,
        labels: Option<&str>,
        fields: Option<&str>,
        next: Option<String>,
    ) -> ListParams {
        let (resource_version, version_match, limit) = match self {
            // From the server's memory, all in one, as it would be in any case.
            Self::Any => (Some("0".to_owned()), None, None),
            Self::NotOlderThan(version) => (
                Some(version.clone()),
                Some(VersionMatch::NotOlderThan),
                None,
            ),
            Self::Newest => (None, None, Some(PAGE)),
        };
        ListParams {
            label_selector: labels.map(str::to_owned),
            field_selector: fields.map(str::to_owned),
            limit,
            continue_token: next,
            resource_version,
            version_match,
            ..ListParams::default()
        }
    }
}
