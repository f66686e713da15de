//! The command line. Each command has a module of its own under `commands`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{
    ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ContextValue,
    parser::ValueSource,
};

use crate::{
    commands,
    config::{
        environment,
        file::{ConfigFile, ConfigFileError, Setting},
    },
    netfilter::host,
    telemetry::LogArgs,
    text,
};

/// Service proxy in eBPF, in place of kube-proxy.
#[derive(Debug, Parser)]
#[command(name = "proxy-agent", version, about)]
pub struct Cli {
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: keep this node's programs and maps in step with Services
    Run(Box<commands::run::RunArgs>),
    /// Print what the agent would program on a node, without touching the node
    Plan(Box<commands::plan::PlanArgs>),
    /// Print the programmed Services, read from the maps
    Services(commands::services::ServicesArgs),
    /// Print the translated flows, read from the maps
    Flows(commands::flows::FlowsArgs),
    /// Ask this node's agent for its health; the exit status is 0 if it is well
    Health(commands::health::HealthArgs),
    /// Detach all programs, remove all maps and netfilter rules
    Cleanup(commands::cleanup::CleanupArgs),
    /// Run a program of the host from a container that shares the host's PID namespace
    #[command(name = host::COMMAND, hide = true)]
    OnHost(commands::on_host::OnHostArgs),
    /// Print the version
    Version,
}

/// What was given can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// On the command line, or by environment.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// In the file of `--config`.
    #[error(transparent)]
    File(#[from] ConfigFileError),
}

impl Cli {
    /// Reads the command line, and the file of `run --config`, whose fields stand for flags that were not given; returns
    /// what of the file is not followed, too.
    pub fn load(mut arguments: Vec<OsString>) -> Result<(Self, Vec<String>), CliError> {
        let matches = Self::matches(&arguments)?;
        let Some((run, path)) = config_of(&matches) else {
            return Ok((Self::from_arg_matches(&matches)?, Vec::new()));
        };
        let file = ConfigFile::read(path)?;
        let news = file
            .settings
            .iter()
            .filter(|setting| !is_given(run, setting.flag));
        arguments.extend(news.map(Setting::argument));
        let matches = Self::matches(&arguments)?;
        Ok((Self::from_arg_matches(&matches)?, file.notices))
    }

    fn matches(arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
        let matches = Self::command().try_get_matches_from(arguments);
        matches.map_err(plain)
    }

    /// What is wrong with the names of environment variables.
    pub fn review_environment(&self) -> Vec<String> {
        // That is part of a run, which has told.
        if matches!(self.command, Command::OnHost(_)) {
            return Vec::new();
        }
        environment::review(&Self::command(), &std::env::vars_os().collect::<Vec<_>>())
    }

    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => commands::run::run(*args),
            Command::Plan(args) => commands::plan::run(*args),
            Command::Services(args) => commands::services::run(&args),
            Command::Flows(args) => commands::flows::run(&args),
            Command::Cleanup(args) => commands::cleanup::run(&args),
            Command::Health(args) => return commands::health::run(&args),
            Command::OnHost(args) => return Ok(commands::on_host::run(&args)),
            Command::Version => {
                commands::version::run();
                Ok(())
            }
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// What is said of wrong arguments: short lines, of which none is forged.
pub fn complaint(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text
        .lines()
        .map(|line| text::plain(line, text::SENTENCE) + "\n");
    lines.collect()
}

/// The error with the values that it quotes made fit for a terminal: they may come from a file or the environment.
fn plain(mut error: clap::Error) -> clap::Error {
    let values: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(value) => Some((kind, value.clone())),
            _ => None,
        })
        .collect();
    for (kind, value) in values {
        let value = text::plain(&value, text::SENTENCE).into_owned();
        error.insert(kind, ContextValue::String(value));
    }
    error
}

/// `run`, and its file.
fn config_of(matches: &ArgMatches) -> Option<(&ArgMatches, &PathBuf)> {
    let run = matches.subcommand_matches("run")?;
    Some((run, run.get_one("config")?))
}

/// Whether a flag is on the command line or in the environment.
fn is_given(run: &ArgMatches, flag: &str) -> bool {
    let source = run.value_source(&flag.replace('-', "_"));
    matches!(
        source,
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a flag of `run` is when a file has this field, as it is shown, and more behind it; and the notices.
    fn merged(field: &str, arguments: &[&str], id: &str) -> (String, Vec<String>) {
        let folder = std::env::temp_dir().join(format!("proxy-config-{}-{id}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config.conf");
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        std::fs::write(&path, format!("{head}{field}\nmode: ipvs\n")).unwrap();
        let config = format!("--config={}", path.display());
        let mut all = vec!["proxy-agent", "run", "--source=file:x", &config];
        all.extend(arguments);
        let loaded = Cli::load(all.into_iter().map(OsString::from).collect());
        std::fs::remove_dir_all(&folder).unwrap();
        let (cli, notices) = loaded.unwrap();
        let Command::Run(run) = cli.command else {
            panic!("it is run");
        };
        let text = format!("{run:?}");
        let (_, value) = text.split_once(&format!("{id}: ")).unwrap();
        (value.to_owned(), notices)
    }

    #[test]
    fn a_file_stands_for_flags_that_are_not_given() {
        let field = "healthzBindAddress: 192.0.2.1:1";
        let (value, notices) = merged(field, &[], "healthz_bind_address");
        assert!(value.contains("192.0.2.1:1"), "{value:?}");
        assert_eq!(notices, ["mode is not followed: there is one"]);
        let given = ["--healthz-bind-address=192.0.2.2"];
        let (value, _) = merged(field, &given, "healthz_bind_address");
        assert!(
            value.starts_with("BindAddress(Some(192.0.2.2:10256))"),
            "{value:?}"
        );
        let field = "bindAddressHardFail: true";
        let (value, _) = merged(field, &[], "bind_address_hard_fail");
        assert!(value.starts_with("true"));
        let field = "nodePortAddresses: [10.0.0.0/8, 'fd00::/8']";
        let (value, _) = merged(field, &[], "nodeport_addresses");
        assert!(
            value.starts_with("[\"10.0.0.0/8\", \"fd00::/8\"]"),
            "{value:?}"
        );
        let field = "clientConnection: {kubeconfig: /k}";
        let (value, _) = merged(field, &[], "kubeconfig");
        assert!(value.starts_with("Some(\"/k\")"), "{value:?}");
    }

    #[test]
    fn h2_the_probes_of_the_daemon_set_ask_the_agent_itself() {
        let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        let text = std::fs::read_to_string(format!("{package}/../manifests/daemonset.yaml"));
        let daemon_set: serde_json::Value = serde_saphyr::from_str(&text.unwrap()).unwrap();
        let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
        for probe in ["livenessProbe", "readinessProbe"] {
            let command = container[probe]["exec"]["command"].as_array();
            let words = command.unwrap().iter().filter_map(|word| word.as_str());
            let cli = Cli::try_parse_from(words).unwrap();
            assert!(matches!(cli.command, Command::Health(_)), "{probe}");
        }
    }

    #[test]
    fn values_that_errors_quote_are_fit_for_a_terminal() {
        let hostile = format!("10\u{1b}[2J\nerror: forged {}", "x".repeat(100_000));
        for flag in [
            "--slow-start",
            "--snat-ports",
            "--tc",
            "--api-server",
            "--source",
        ] {
            let arguments = ["proxy-agent", "run", "--source=file:x", flag, &hostile];
            let loaded = Cli::load(arguments.map(OsString::from).to_vec());
            let Err(CliError::Arguments(error)) = loaded else {
                panic!("{flag}: {loaded:?}");
            };
            let text = complaint(&error);
            assert!(!text.contains('\u{1b}'), "{flag}: {text:?}");
            assert!(!text.contains("\nerror: forged"), "{flag}: {text:?}");
            assert!(text.len() < 5000, "{flag}: {}", text.len());
        }
    }

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
