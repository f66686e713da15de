//! Reports environment variables that resemble ours but are unknown: without a report, a misspelt variable would be ignored
//! silently.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
};

use clap::Command;

use super::nearest::did_you_mean;

const PREFIX: &str = "PROXY_";
/// Variables that Kubernetes gives to a pod for each Service of its namespace.
const SERVICE_HOST: &str = "_SERVICE_HOST";

/// Problems of the names of variables. Values are not shown, because they may be secret.
pub fn review(command: &Command, variables: &[(OsString, OsString)]) -> Vec<String> {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    let names: Vec<(&str, &OsStr)> = variables
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?, value.as_os_str())))
        .collect();
    let services: BTreeSet<&str> = names
        .iter()
        .filter_map(|(name, _)| name.strip_suffix(SERVICE_HOST))
        .collect();
    let ours = names.iter().filter(|(name, _)| name.starts_with(PREFIX));
    let mut notices = Vec::new();
    for (name, value) in ours {
        if known.contains(*name) {
            if value.is_empty() {
                notices.push(format!("the environment variable {name} is empty"));
            }
        } else if !is_of_a_service(name, &services) {
            let hint = did_you_mean(name, known.iter().map(String::as_str));
            notices.push(format!(
                "the environment variable {name} is not known and has no effect{hint}"
            ));
        }
    }
    notices
}

/// All variables that set flags.
fn collect(command: &Command, known: &mut BTreeSet<String>) {
    let names = command.get_arguments().filter_map(clap::Arg::get_env);
    known.extend(names.filter_map(OsStr::to_str).map(str::to_owned));
    for command in command.get_subcommands() {
        collect(command, known);
    }
}

/// Whether a variable is `X_SERVICE_…`, `X_PORT` or `X_PORT_…` of a Service that the namespace has.
fn is_of_a_service(name: &str, services: &BTreeSet<&str>) -> bool {
    services.iter().any(|service| {
        name.strip_prefix(service).is_some_and(|rest| {
            rest == "_PORT" || rest.starts_with("_PORT_") || rest.starts_with("_SERVICE_")
        })
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn notices(variables: &[(&str, &str)]) -> Vec<String> {
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        review(&Cli::command(), &variables)
    }

    #[test]
    fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
        assert_eq!(
            notices(&[
                ("PROXY_MANAGE_FORWRAD", "off"),
                ("PROXY_SOURCE", "kube"),
                ("HTTPS_PROXY", "http://x"),
                ("PROXY_NODEPORT_ADDRESS", "primary"),
                ("PROXY_SOMETHING_ELSE_ENTIRELY", "secret"),
                ("PROXY_LOG", ""),
            ]),
            [
                "the environment variable PROXY_MANAGE_FORWRAD is not known and has no effect; did you mean PROXY_MANAGE_FORWARD?",
                "the environment variable PROXY_NODEPORT_ADDRESS is not known and has no effect; did you mean PROXY_NODEPORT_ADDRESSES?",
                "the environment variable PROXY_SOMETHING_ELSE_ENTIRELY is not known and has no effect",
                "the environment variable PROXY_LOG is empty",
            ]
        );
    }

    #[test]
    fn the_variables_that_kubernetes_gives_for_services_are_none_of_ours() {
        for service in ["PROXY", "PROXY_FOO", "PROXY_SOURCE"] {
            let variables: Vec<(String, &str)> = [
                ("_SERVICE_HOST", "10.96.0.9"),
                ("_SERVICE_PORT", "80"),
                ("_SERVICE_PORT_HTTP", "80"),
                ("_PORT", "tcp://10.96.0.9:80"),
                ("_PORT_80_TCP", "tcp://10.96.0.9:80"),
                ("_PORT_80_TCP_PROTO", "tcp"),
                ("_PORT_80_TCP_PORT", "80"),
                ("_PORT_80_TCP_ADDR", "10.96.0.9"),
            ]
            .map(|(end, value)| (format!("{service}{end}"), value))
            .into();
            let all: Vec<_> = variables
                .iter()
                .map(|(name, value)| (&**name, *value))
                .collect();
            assert_eq!(notices(&all), [""; 0]);
            // Without the Service, they belong to no Service.
            assert_eq!(notices(&all[3..4]).len(), 1);
        }
    }
}
