//! The limit of open files of this process. Sockets, maps and links count as files.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The agent never needs more. Programs that it starts inherit the limit, and some close every number up to the limit.
const MOST: u64 = 1 << 20;
/// With a lower limit, many devices or a flood of connections may leave too few descriptors for the agent's own work.
const FEW: u64 = 4096;

/// Raises the soft limit as far as the hard limit allows, and logs the result.
pub fn raise() {
    match raised() {
        Ok(limit) if limit < FEW => tracing::warn!(
            limit,
            "the limit of open files is low; raise the hard limit (RLIMIT_NOFILE) of the container runtime"
        ),
        Ok(limit) => tracing::info!(limit, "limit of open files"),
        Err(error) => {
            tracing::warn!(%error, limit = limit(), "the limit of open files can't be raised");
        }
    }
}

fn raised() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(MOST);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(soft.max(wanted))
}

/// The soft limit. If it can't be read, the number that every process can open.
pub fn limit() -> usize {
    const POSIX: u64 = 1024;
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(POSIX, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one_and_never_lowered() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let low = hard / 2;
        setrlimit(Resource::RLIMIT_NOFILE, low, hard).unwrap();
        let wanted = hard.min(MOST);
        assert_eq!(raised().unwrap(), wanted);
        assert_eq!(limit() as u64, wanted);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (wanted, hard));
        assert_eq!(raised().unwrap(), wanted, "again");
    }
}
