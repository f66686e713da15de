//! `version`: of the program, and of what it pins.

use proxy_common::abi::ABI_VERSION;

/// Prints both.
pub fn run() {
    println!(
        "proxy-agent {} (maps v{ABI_VERSION})",
        env!("CARGO_PKG_VERSION")
    );
}
