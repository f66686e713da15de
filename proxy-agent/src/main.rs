//! `proxy-agent`: see `proxy-agent --help` and the README.

use std::process::ExitCode;

use proxy_agent::{
    cli::{Cli, CliError},
    telemetry,
};

fn main() -> ExitCode {
    let (cli, notices) = match Cli::load(std::env::args_os().collect()) {
        Ok(loaded) => loaded,
        Err(CliError::Arguments(error)) => error.exit(),
        Err(error) => {
            eprintln!("proxy-agent: {}", telemetry::chain(&error));
            return ExitCode::FAILURE;
        }
    };
    telemetry::init(&cli.log);
    for notice in cli.review_environment() {
        tracing::warn!("{notice}");
    }
    for notice in notices {
        tracing::warn!("--config: {notice}");
    }
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("proxy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
