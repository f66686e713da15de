//! The programs of iptables and nftables, as kube-proxy uses them. In a container that has none, they are the host's.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    process::{Command, Output, Stdio},
};

use super::host;

/// Why a program did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ToolError {
    /// It is not there.
    #[error("{0} is not installed")]
    Missing(String),
    /// It could not be run.
    #[error("`{line}` could not be run: {problem}")]
    Run {
        /// Command line.
        line: String,
        /// Why not.
        problem: String,
    },
    /// It failed.
    #[error("`{line}` failed: {said}")]
    Failed {
        /// Command line.
        line: String,
        /// What it wrote to its standard error.
        said: String,
    },
}

/// What runs programs in this network namespace, and reads what the kernel says of it.
pub trait Tools {
    /// Runs a program with this input, and returns its output.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, ToolError>;

    /// The tables of `iptables-legacy` (or `ip6tables-legacy`) that there are, one a line: asking the program would make
    /// them.
    fn legacy_tables(&self, v6: bool) -> String;
}

/// Those that are installed here, else those of the host that this is a container of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Installed;

impl Installed {
    /// Runs a program until its end; `NotFound` where it is not installed.
    fn finish(program: &str, arguments: &[&str], input: &str) -> std::io::Result<Output> {
        let here = feed(Command::new(program).args(arguments), input);
        match here {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let Some(mut there) = host::command(program) else {
                    return Err(error);
                };
                let output = feed(there.args(arguments), input)?;
                if output.status.code() == Some(host::NOT_INSTALLED) {
                    return Err(error);
                }
                Ok(output)
            }
            here => here,
        }
    }
}

/// Runs a command with this input.
fn feed(command: &mut Command, input: &str) -> std::io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A program that ends without reading says why on its standard error.
    let _ = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(input.as_bytes()));
    child.wait_with_output()
}

impl Tools for Installed {
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
        let line = || [&[program], arguments].concat().join(" ");
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => ToolError::Missing(program.to_owned()),
            _ => ToolError::Run {
                line: line(),
                problem: error.to_string(),
            },
        };
        let output = Self::finish(program, arguments, input).map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(ToolError::Failed {
            line: line(),
            said: said.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }

    fn legacy_tables(&self, v6: bool) -> String {
        let name = if v6 { "ip6" } else { "ip" };
        // Not there: the kernel does not have them.
        fs::read_to_string(format!("/proc/self/net/{name}_tables_names")).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod fake {
    use std::cell::RefCell;

    use super::{ToolError, Tools};

    /// A node with these programs; their output is given by what their command lines begin with.
    #[derive(Default)]
    pub struct Node {
        /// An empty output: the program is not there; `error: …`: it fails and says that.
        pub outputs: Vec<(&'static str, &'static str)>,
        pub legacy: &'static str,
        pub ran: RefCell<Vec<String>>,
    }

    impl Node {
        /// How often something was run whose command line, and input, begin so.
        pub fn ran(&self, begin: &str) -> usize {
            let ran = self.ran.borrow();
            ran.iter().filter(|line| line.starts_with(begin)).count()
        }
    }

    impl Tools for Node {
        fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
            let line = [&[program], arguments].concat().join(" ");
            let found = self
                .outputs
                .iter()
                .find(|(begin, _)| line.starts_with(begin));
            self.ran.borrow_mut().push(format!("{line}\n{input}"));
            match found {
                Some((_, "")) | None => Err(ToolError::Missing(program.to_owned())),
                Some((_, output)) => match output.strip_prefix("error: ") {
                    Some(said) => Err(ToolError::Failed {
                        line,
                        said: said.to_owned(),
                    }),
                    None => Ok((*output).to_owned()),
                },
            }
        }

        fn legacy_tables(&self, _v6: bool) -> String {
            self.legacy.to_owned()
        }
    }
}
