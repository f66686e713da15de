//! Reports annotations that resemble ours but are unknown: without a report, a misspelt annotation would be ignored silently.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Reporter;
use crate::config::nearest::did_you_mean;

const DOMAIN: &str = "kube-proxy-ebpf.io";

/// Reports annotations in our domain, or in a misspelling of it, that are not `known` for this kind of object.
pub(super) fn check(metadata: &ObjectMeta, known: &[&str], reporter: &mut Reporter) {
    let keys = metadata.annotations.iter().flatten().map(|(key, _)| key);
    for key in keys.filter(|key| is_ours(key) && !known.contains(&key.as_str())) {
        let hint = did_you_mean(key, known.iter().copied());
        reporter.report(format!(
            "annotation {key:?} is not known here, and has no effect{hint}"
        ));
    }
}

/// Reports labels in our domain. The agent reads no labels in this domain.
pub(super) fn check_labels(metadata: &ObjectMeta, reporter: &mut Reporter) {
    let keys = metadata.labels.iter().flatten().map(|(key, _)| key);
    for key in keys.filter(|key| is_ours(key)) {
        reporter.report(format!(
            "label {key:?} has no effect: it must be an annotation"
        ));
    }
}

fn is_ours(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    domain == DOMAIN
        || domain.len().abs_diff(DOMAIN.len()) <= 2
            && strsim::damerau_levenshtein(domain, DOMAIN) <= 2
}
