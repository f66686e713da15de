//! What `nft -j` writes.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::OURS;

/// A list of items.
#[derive(Deserialize)]
pub(super) struct Output {
    pub nftables: Vec<Item>,
}

/// Of the many kinds of items, those that matter.
#[derive(Deserialize)]
pub(super) struct Item {
    pub chain: Option<ChainItem>,
    pub rule: Option<RuleItem>,
}

#[derive(Deserialize)]
pub(super) struct ChainItem {
    pub family: String,
    pub table: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub hook: Option<String>,
    pub policy: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct RuleItem {
    pub handle: u64,
    comment: Option<String>,
    #[serde(default)]
    pub expr: Vec<Map<String, Value>>,
}

impl RuleItem {
    /// The comment of a rule of ours.
    pub fn ours(&self) -> Option<&str> {
        self.comment
            .as_deref()
            .filter(|text| text.starts_with(OURS))
    }
}
