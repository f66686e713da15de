//! `on-host`: a program of the host, for the agent in a container.

use std::{io::ErrorKind, process::ExitCode};

use crate::{netfilter::host, text};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct OnHostArgs {
    /// Name of the program.
    program: String,

    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Becomes the program, or says why it cannot.
pub fn run(args: &OnHostArgs) -> ExitCode {
    let error = host::become_program(&args.program, &args.arguments);
    let why = format!("{}: {error}", args.program);
    eprintln!("{}", text::plain(&why, text::SENTENCE));
    if error.kind() == ErrorKind::NotFound {
        u8::try_from(host::NOT_INSTALLED).map_or(ExitCode::FAILURE, ExitCode::from)
    } else {
        ExitCode::FAILURE
    }
}
