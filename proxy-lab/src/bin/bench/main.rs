//! Measurements that need the lab and the real control plane. `cargo xtask bench …` builds what they need and runs them;
//! what they print is Markdown for `docs/benchmarks.md`. `cargo xtask bench packets` is in `benches/packets`.

mod api_latency;
mod api_start;
mod cluster;
mod figures;
mod rolling_update;

use std::process::ExitCode;

const USAGE: &str = "\
Measures the agent on the real control plane, in a lab (needs root; a quiet machine).

usage: bench api-latency [CHANGES [SERVICES…]]   from an API write to traffic, beside kube-proxy (200 changes at 100 and 5000)
       bench api-start [SERVICES]                start with Services of four endpoints each (10000)
       bench rolling-update [RATE]               connections lost while local pods are replaced, beside kube-proxy (1000 a second)
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next();
    let numbers: Option<Vec<usize>> = words.map(|word| word.parse().ok()).collect();
    let (Some(name), Some(numbers)) = (name, numbers) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = proxy_lab::take_down_on_signals().and_then(|()| match name.as_str() {
        "api-latency" => {
            let (changes, services) = numbers
                .split_first()
                .map_or((200, &[][..]), |(first, rest)| (*first, rest));
            let services = if services.is_empty() {
                &[100, 5000]
            } else {
                services
            };
            api_latency::run(changes, services).map(|()| true)
        }
        "rolling-update" => {
            let rate = numbers
                .first()
                .map_or(Some(1000), |rate| u32::try_from(*rate).ok());
            rate.map_or(Ok(false), |rate| rolling_update::run(rate).map(|()| true))
        }
        "api-start" => api_start::run(numbers.first().copied().unwrap_or(10_000)).map(|()| true),
        _ => Ok(false),
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("cannot go on: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}
