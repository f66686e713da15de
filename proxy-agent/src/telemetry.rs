//! Logging, to the standard error. Whatever is logged is made plain here, so that no place that logs need think of it.

pub mod flood;
mod json;

use std::{fmt, io};

use tracing::{Dispatch, field::Field};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        MakeWriter,
        format::{Writer, debug_fn},
    },
    util::SubscriberInitExt as _,
};

use self::json::Lines;
use crate::text;

const CLIENT_OFF: &str = "kube_client=off";

/// The longest that a message or the value of a field is shown, in bytes.
const LONGEST: usize = 2000;

/// How to log.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Log level (error, warn, info, debug or trace), or a filter in tracing-subscriber's syntax.
    #[arg(
        long,
        env = "PROXY_LOG",
        global = true,
        default_value = "info",
        value_name = "FILTER"
    )]
    log_level: String,

    /// Log one JSON object per line.
    #[arg(long, env = "PROXY_LOG_JSON", global = true)]
    log_json: bool,
}

/// Starts logging. A filter that is not understood is reported, and `info` taken instead.
pub fn init(args: &LogArgs) {
    let (filter, wrong) = match EnvFilter::try_new(&args.log_level) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let filter = quiet(filter, &args.log_level);
    dispatch(filter, args.log_json, io::stderr).init();
    if let Some(error) = wrong {
        tracing::warn!(%error, filter = args.log_level, "--log-level is not understood, info is used");
    }
}

fn dispatch<W>(filter: EnvFilter, json: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false);
    if json {
        builder.json().with_writer(Lines(writer)).into()
    } else {
        builder
            .fmt_fields(debug_fn(write_field))
            .with_ansi(false)
            .with_writer(writer)
            .into()
    }
}

/// One field of a line of text.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let value = text::plain(&value, LONGEST);
    match field.name() {
        "message" => write!(writer, "{value}"),
        // Where a record of the crate `log` comes from.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, " {}={value}", name.trim_start_matches("r#")),
    }
}

/// Without the client's own word on each request that failed, which its user has too, unless it is asked for.
fn quiet(filter: EnvFilter, asked: &str) -> EnvFilter {
    match CLIENT_OFF.parse() {
        Ok(directive) if !asked.contains("kube_client") => filter.add_directive(directive),
        _ => filter,
    }
}

/// An error with all its causes, for a log field.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
