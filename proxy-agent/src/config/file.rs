//! `--config`: kube-proxy's configuration file (`KubeProxyConfiguration`), as kubeadm keeps it. Fields that mean something
//! here are taken as flags that were not given; of the others it is said that they are not followed.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::nearest::did_you_mean;
use crate::files;

const KIND: &str = "KubeProxyConfiguration";
const GROUP: &str = "kubeproxy.config.k8s.io/";

/// Notices that are told one by one: more than kube-proxy has fields.
const MOST_NOTICES: usize = 50;
/// Fields that mean something here.
const FOLLOWED: [&str; 6] = [
    "hostnameOverride",
    "healthzBindAddress",
    "metricsBindAddress",
    "bindAddressHardFail",
    "nodePortAddresses",
    "clientConnection",
];

/// Fields that are kube-proxy's only, with what is here instead.
const NOT_FOLLOWED: &[(&str, &str)] = &[
    (
        "bindAddress",
        "use healthzBindAddress and metricsBindAddress",
    ),
    ("clusterCIDR", "sources are kept, so it need not be known"),
    ("configSyncPeriod", "objects are watched"),
    ("conntrack", "flows have tables of their own"),
    ("detectLocal", "sources are kept, so it need not be known"),
    (
        "detectLocalMode",
        "sources are kept, so it need not be known",
    ),
    ("enableProfiling", "there is nothing to profile over HTTP"),
    ("featureGates", "there are none"),
    ("iptables", "Services need no rules"),
    ("ipvs", "Services need no rules"),
    ("logging", "use --log-level and --log-json"),
    ("mode", "there is one"),
    ("nftables", "Services need no rules"),
    ("oomScoreAdj", "it is the pod's to set"),
    ("portRange", "kube-proxy does not follow it either"),
    ("showHiddenMetricsForVersion", "none is hidden"),
    ("windowsRunAsService", "this is Linux"),
    ("winkernel", "this is Linux"),
];

/// A flag as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name, without dashes in front.
    pub flag: &'static str,
    /// Value; `None`: a switch that is on.
    pub value: Option<String>,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Flags.
    pub settings: Vec<Setting>,
    /// What is not followed, and why.
    pub notices: Vec<String>,
}

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It can't be read.
    #[error("can't read the configuration {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is no YAML.
    #[error("the configuration {} is no YAML", .0.display())]
    Syntax(PathBuf, #[source] Box<serde_saphyr::Error>),
    /// It is something else.
    #[error("the configuration {} is no {KIND} of {GROUP}v1alpha1", .0.display())]
    Kind(PathBuf),
    /// A field has a value of another type.
    #[error("the configuration {} has a field {field} that is not {expected}", .path.display())]
    Type {
        /// File.
        path: PathBuf,
        /// Field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl Setting {
    /// As an argument of the command line.
    pub fn argument(&self) -> OsString {
        match &self.value {
            Some(value) => format!("--{}={value}", self.flag),
            None => format!("--{}", self.flag),
        }
        .into()
    }
}

impl ConfigFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigFileError> {
        let text = files::read_configuration(path)
            .map_err(|error| ConfigFileError::Read(path.to_owned(), error))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigFileError> {
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|error| ConfigFileError::Syntax(path.to_owned(), Box::new(error)))?;
        let is = |field: &str, prefix: &str| {
            value[field]
                .as_str()
                .is_some_and(|text| text.starts_with(prefix))
        };
        let Value::Object(fields) = &value else {
            return Err(ConfigFileError::Kind(path.to_owned()));
        };
        if !is("kind", KIND) || !is("apiVersion", GROUP) {
            return Err(ConfigFileError::Kind(path.to_owned()));
        }
        let mut file = Self::default();
        for (name, value) in fields.iter().filter(|(_, value)| says_something(value)) {
            file.take(path, name, value)?;
        }
        let more = file.notices.len().saturating_sub(MOST_NOTICES);
        if more > 0 {
            file.notices.truncate(MOST_NOTICES);
            file.notices
                .push(format!("{more} more fields are not followed"));
        }
        Ok(file)
    }

    fn take(&mut self, path: &Path, name: &str, value: &Value) -> Result<(), ConfigFileError> {
        let wrong = |field, expected| ConfigFileError::Type {
            path: path.to_owned(),
            field,
            expected,
        };
        let text = |field, value: &Value| {
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| wrong(field, "text"))
        };
        let (flag, value) = match name {
            "apiVersion" | "kind" => return Ok(()),
            "hostnameOverride" => ("hostname-override", Some(text("hostnameOverride", value)?)),
            "healthzBindAddress" => (
                "healthz-bind-address",
                Some(text("healthzBindAddress", value)?),
            ),
            "metricsBindAddress" => (
                "metrics-bind-address",
                Some(text("metricsBindAddress", value)?),
            ),
            // `false` says nothing.
            "bindAddressHardFail" if value.is_boolean() => ("bind-address-hard-fail", None),
            "bindAddressHardFail" => return Err(wrong("bindAddressHardFail", "true or false")),
            "nodePortAddresses" => {
                let list = value.as_array().into_iter().flatten();
                let texts: Option<Vec<&str>> = list.map(Value::as_str).collect();
                let texts = texts.filter(|texts| !texts.is_empty());
                let texts = texts.ok_or_else(|| wrong("nodePortAddresses", "a list of text"))?;
                ("nodeport-addresses", Some(texts.join(",")))
            }
            "clientConnection" => {
                let rest = value.as_object().into_iter().flatten();
                for (name, _) in
                    rest.filter(|(name, value)| *name != "kubeconfig" && says_something(value))
                {
                    self.notices
                        .push(format!("clientConnection.{name} is not followed"));
                }
                let kubeconfig = &value["kubeconfig"];
                if !says_something(kubeconfig) {
                    return Ok(());
                }
                let kubeconfig = text("clientConnection.kubeconfig", kubeconfig)?;
                ("kubeconfig", Some(kubeconfig))
            }
            other => {
                let known = NOT_FOLLOWED.iter().find(|(name, _)| *name == other);
                let notice = if let Some((_, why)) = known {
                    format!("{other} is not followed: {why}")
                } else {
                    let names = NOT_FOLLOWED.iter().map(|(name, _)| *name);
                    let hint = did_you_mean(other, names.chain(FOLLOWED));
                    format!("{other} is not known, and not followed{hint}")
                };
                self.notices.push(notice);
                return Ok(());
            }
        };
        self.settings.push(Setting { flag, value });
        Ok(())
    }
}

/// Whether a value is more than a default that was written out, as kubeadm writes them.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(text.as_str(), "" | "0s" | "0.0.0.0" | "::"),
        Value::Array(list) => list.iter().any(says_something),
        Value::Object(fields) => fields.values().any(says_something),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn parse(rest: &str) -> Result<ConfigFile, ConfigFileError> {
        ConfigFile::parse(Path::new("config.conf"), &format!("{HEAD}{rest}"))
    }

    #[test]
    fn what_kubeadm_writes_gives_what_it_says_and_no_noise() {
        let file = parse(
            "bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection:\n  acceptContentTypes: \"\"\n  burst: 0\n  contentType: \"\"\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\nclusterCIDR: 10.244.0.0/16\nconfigSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\n  min: null\n  tcpCloseWaitTimeout: null\ndetectLocal:\n  bridgeInterface: \"\"\nenableProfiling: false\nhealthzBindAddress: \"\"\nhostnameOverride: \"\"\niptables:\n  masqueradeAll: false\n  masqueradeBit: null\n  syncPeriod: 0s\nmetricsBindAddress: \"\"\nmode: \"\"\nnodePortAddresses: null\noomScoreAdj: null\n",
        )
        .unwrap();
        let kubeconfig = Setting {
            flag: "kubeconfig",
            value: Some("/var/lib/kube-proxy/kubeconfig.conf".to_owned()),
        };
        assert_eq!(file.settings, [kubeconfig]);
        assert_eq!(
            file.notices,
            ["clusterCIDR is not followed: sources are kept, so it need not be known"]
        );
    }

    #[test]
    fn fields_become_flags_and_what_is_not_followed_is_told() {
        let file = parse(
            "healthzBindAddress: 0.0.0.0:1\nmetricsBindAddress: '[::]:2'\nnodePortAddresses: [10.0.0.0/8, 'fd00::/8']\nhostnameOverride: a\nbindAddressHardFail: true\nconntrack: {min: 1}\nclientConnection: {qps: 5}\nfuture: 1\n",
        )
        .unwrap();
        let mut arguments: Vec<_> = file.settings.iter().map(Setting::argument).collect();
        arguments.sort_unstable();
        assert_eq!(
            arguments,
            [
                "--bind-address-hard-fail",
                "--healthz-bind-address=0.0.0.0:1",
                "--hostname-override=a",
                "--metrics-bind-address=[::]:2",
                "--nodeport-addresses=10.0.0.0/8,fd00::/8",
            ]
        );
        let mut notices = file.notices;
        notices.sort_unstable();
        assert_eq!(
            notices,
            [
                "clientConnection.qps is not followed",
                "conntrack is not followed: flows have tables of their own",
                "future is not known, and not followed",
            ]
        );
    }

    #[test]
    fn many_fields_that_nobody_knows_are_summed_up() {
        use std::fmt::Write as _;
        let mut text = String::new();
        for number in 0..1000 {
            writeln!(text, "field{number}: 1").unwrap();
        }
        let notices = parse(&text).unwrap().notices;
        assert_eq!(notices.len(), MOST_NOTICES + 1);
        assert_eq!(notices[MOST_NOTICES], "950 more fields are not followed");
    }

    #[test]
    fn a_file_of_another_kind_or_form_is_refused() {
        let kind = |text: &str| ConfigFile::parse(Path::new("x"), text);
        assert!(matches!(
            kind("kind: ConfigMap\n"),
            Err(ConfigFileError::Kind(_))
        ));
        assert!(matches!(kind("- 1\n"), Err(ConfigFileError::Kind(_))));
        assert!(matches!(kind("{\n"), Err(ConfigFileError::Syntax(..))));
        for wrong in [
            "hostnameOverride: 1\n",
            "bindAddressHardFail: yes please\n",
            "nodePortAddresses: 10.0.0.0/8\n",
            "clientConnection: {kubeconfig: [1]}\n",
        ] {
            assert!(
                matches!(parse(wrong), Err(ConfigFileError::Type { .. })),
                "{wrong}"
            );
        }
    }
}
