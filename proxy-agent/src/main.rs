//! `proxy-agent`: see `proxy-agent --help` and the README.

use std::process::ExitCode;

use clap::Parser as _;
use proxy_agent::{cli::Cli, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(&cli.log);
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("proxy-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
