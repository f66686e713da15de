//! `proxy-agent`: see `proxy-agent --help` and `docs/operation.md`.

use std::process::ExitCode;

use proxy_agent::{
    cli::{Cli, CliError, complaint},
    telemetry, text,
};

fn main() -> ExitCode {
    let (cli, notices) = match Cli::load(std::env::args_os().collect()) {
        Ok(loaded) => loaded,
        Err(CliError::Arguments(error)) if error.use_stderr() => {
            eprint!("{}", complaint(&error));
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
        // --help, --version.
        Err(CliError::Arguments(error)) => error.exit(),
        Err(error) => return fail(&telemetry::chain(&error)),
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
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("proxy-agent: {}", text::plain(why, text::ERROR));
    ExitCode::FAILURE
}
