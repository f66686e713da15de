//! `unsafe` stays in the shell: a short list of files that talk to the kernel.

use std::path::Path;

use super::sources::{Sources, code};

/// Files, or beginnings of paths, that may say `unsafe`.
const SHELL: &[&str] = &[
    // Entry points, maps, packet pointers.
    "proxy-ebpf/src/",
    // System calls that no crate of ours wraps, and plain memory for maps.
    "proxy-agent/src/dataplane/sys",
    // The lab's packet socket, and the ioctls that turn a device's offloads and open a tun device.
    "proxy-lab/src/capture/socket.rs",
    "proxy-lab/src/offload.rs",
    "proxy-lab/src/tun.rs",
];

/// Every line of code with `unsafe` outside of the shell.
pub fn check(sources: &Sources) -> Vec<String> {
    sources
        .rust()
        .filter(|(path, _)| !is_shell(path))
        .flat_map(|(path, text)| {
            let lines = text.lines().enumerate().filter(|(_, line)| says_unsafe(&code(line)));
            lines.map(move |(number, _)| {
                format!(
                    "{}:{}: `unsafe` outside of the shell; move it there, or add the file to the list in {}",
                    path.display(),
                    number + 1,
                    file!()
                )
            })
        })
        .collect()
}

fn is_shell(path: &Path) -> bool {
    SHELL
        .iter()
        .any(|shell| path.to_str().is_some_and(|path| path.starts_with(shell)))
}

fn says_unsafe(code: &str) -> bool {
    code.split(|character: char| !character.is_alphanumeric() && character != '_')
        .any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_is_found_in_code_only_and_outside_of_the_shell_only() {
        let sources = Sources::of(&[
            (
                "proxy-agent/src/plan.rs",
                "// unsafe\n#![forbid(unsafe_code)]\nlet a = unsafe { b() };\n\"unsafe\"\n",
            ),
            ("proxy-agent/src/dataplane/sys/link.rs", "unsafe { c() }"),
        ]);
        let findings = check(&sources);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].starts_with("proxy-agent/src/plan.rs:3:"),
            "{findings:?}"
        );
    }
}
