//! `--devices`.

use crate::devices::observed::Link;

/// `--devices`: which devices are uplinks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Names of the uplinks; `None`: found by the rule.
    pub uplinks: Option<Vec<String>>,
}

/// A value of `--devices` that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceConfigError {
    /// `auto` among names.
    #[error("`auto` can't be combined with names of devices")]
    Mixed,
    /// A name that no device can have.
    #[error("{0:?} is no name of a device")]
    Name(String),
}

impl DeviceConfig {
    /// Reads the values of the flag: names, or `auto`, which is also what no value means.
    pub fn parse(values: &[String]) -> Result<Self, DeviceConfigError> {
        /// `IFNAMSIZ` without the terminating zero.
        const LONGEST: usize = 15;
        let names: Vec<String> = values.iter().map(|name| name.trim().to_owned()).collect();
        if names.is_empty() || names == ["auto"] {
            return Ok(Self::default());
        }
        for name in &names {
            if name == "auto" {
                return Err(DeviceConfigError::Mixed);
            }
            if name.is_empty() || name.len() > LONGEST || name.contains(['/', ' ']) {
                return Err(DeviceConfigError::Name(name.clone()));
            }
        }
        Ok(Self {
            uplinks: Some(names),
        })
    }

    /// Whether the uplinks are found by the rule.
    pub(super) const fn is_auto(&self) -> bool {
        self.uplinks.is_none()
    }

    /// Whether a device is named.
    pub(super) fn names(&self, link: &Link) -> bool {
        self.uplinks
            .as_ref()
            .is_some_and(|names| names.contains(&link.name))
    }
}
