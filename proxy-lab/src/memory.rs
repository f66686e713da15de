//! What memory a process has, as the kernel counts it.

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it (`VmRSS`): also the pages of files, and of eBPF maps that it has mapped.
    pub resident: u64,
    /// What belongs to it alone, heap and stacks (`RssAnon`).
    pub anonymous: u64,
    /// The most that was resident at once (`VmHWM`).
    pub peak: u64,
}

impl Memory {
    /// That of a process, while it lives.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    /// Reads `/proc/PID/status`, `proc_pid_status(5)`.
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
            Some(kib * 1024)
        };
        Some(Self {
            resident: field("VmRSS:")?,
            anonymous: field("RssAnon:")?,
            peak: field("VmHWM:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_lives_has_memory_and_one_that_has_ended_has_none() {
        let status = "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t 200 kB\nRssAnon:\t  50 kB\n";
        let memory = Memory {
            resident: 200 << 10,
            anonymous: 50 << 10,
            peak: 300 << 10,
        };
        assert_eq!(Memory::parse(status), Some(memory));
        assert_eq!(Memory::parse("Name:\tx\nState:\tZ (zombie)\n"), None);
        let own = Memory::of(std::process::id()).expect("lives");
        assert!(own.anonymous > 0 && own.resident > own.anonymous && own.peak >= own.resident);
    }
}
