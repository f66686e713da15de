//! The programs of iptables and nftables, as kube-proxy uses them. In a container that has none, they are the host's.

use std::{
    fs,
    io::{self, ErrorKind},
    process::{Command, Output},
    time::{Duration, Instant},
};

use super::{child, host};
use crate::text;

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

/// How long one program may take. It waits for the lock of iptables for 5 s (`-w 5`).
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long all programs of one look may take together.
const LOOK: Duration = Duration::from_secs(30);
/// The longest that a program's complaint is told, in bytes.
const LONGEST_COMPLAINT: usize = 600;

/// Those that are installed here, else those of the host that this is a container of; for one look at the rules. None is
/// waited for for long.
#[derive(Clone, Copy, Debug)]
pub struct Installed {
    until: Instant,
}

impl Installed {
    /// For a look that begins now.
    pub fn for_a_look() -> Self {
        Self {
            until: Instant::now() + LOOK,
        }
    }

    /// Runs a program until its end; `NotFound` where it is not installed.
    fn finish(&self, program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
        let finish = |command: &mut Command| {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let problem = "no time was left for it: others before it took too long";
                return Err(io::Error::new(ErrorKind::TimedOut, problem));
            }
            child::finish(command.args(arguments), input, TIMEOUT)
        };
        match finish(&mut Command::new(program)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let Some(mut there) = host::command(program) else {
                    return Err(error);
                };
                let output = finish(&mut there)?;
                if output.status.code() == Some(host::NOT_INSTALLED) {
                    return Err(error);
                }
                Ok(output)
            }
            here => here,
        }
    }
}

impl Tools for Installed {
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
        let line = || [&[program], arguments].concat().join(" ");
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => ToolError::Missing(program.to_owned()),
            _ => ToolError::Run {
                line: line(),
                problem: error.to_string(),
            },
        };
        let output = self.finish(program, arguments, input).map_err(failed)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(ToolError::Failed {
            line: line(),
            said: text::plain(&said, LONGEST_COMPLAINT).into_owned(),
        })
    }

    fn legacy_tables(&self, v6: bool) -> String {
        let name = if v6 { "ip6" } else { "ip" };
        // Not there: the kernel does not have them.
        fs::read_to_string(format!("/proc/self/net/{name}_tables_names")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_short_and_one_that_hung_leaves_no_time_for_others() {
        let tools = Installed::for_a_look();
        assert_eq!(tools.run("cat", &[], "text").unwrap(), "text");
        let script = "head -c 300000 /dev/zero | tr '\\0' x >&2; printf '\\033[2J' >&2; exit 1";
        let error = tools.run("sh", &["-c", script], "").unwrap_err();
        let ToolError::Failed { said, .. } = error else {
            panic!("{error}");
        };
        assert!(
            said.len() <= LONGEST_COMPLAINT && said.ends_with("\\u{1b}[2J"),
            "{said}"
        );

        let late = Installed {
            until: Instant::now(),
        };
        let error = late.run("true", &[], "").unwrap_err().to_string();
        assert!(error.contains("no time was left"), "{error}");
        assert!(matches!(
            tools.run("no-such-program-here", &[], ""),
            Err(ToolError::Missing(_))
        ));
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
