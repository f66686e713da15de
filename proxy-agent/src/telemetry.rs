//! Logging, to the standard error.

use tracing_subscriber::EnvFilter;

const CLIENT_OFF: &str = "kube_client=off";

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
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    if args.log_json {
        subscriber.json().init();
    } else {
        subscriber.with_ansi(false).init();
    }
    if let Some(error) = wrong {
        tracing::warn!(%error, filter = args.log_level, "--log-level is not understood, info is used");
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
