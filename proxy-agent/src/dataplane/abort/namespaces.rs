//! The network namespaces of this machine, as far as processes are in them: a pod's sockets are a process's.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The namespaces of all processes that this one can see, its own first, each once. They are opened one after the other:
/// a node may have thousands. Processes that end meanwhile are passed over, and so are those that may not be looked into:
/// a container's runtime may deny that of some, and others are in the same namespace.
pub fn namespaces() -> impl Iterator<Item = io::Result<File>> {
    let own = PathBuf::from("/proc/self");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .map(|entry| entry.path());
    let mut seen = BTreeSet::new();
    std::iter::once(own)
        .chain(processes)
        .filter_map(move |process| open(&process, &mut seen).transpose())
}

/// The namespace of a process, if it was not seen before.
fn open(process: &Path, seen: &mut BTreeSet<(u64, u64)>) -> io::Result<Option<File>> {
    let path = process.join("ns/net");
    let opened = fs::metadata(&path).and_then(|metadata| {
        let is_new = seen.insert((metadata.dev(), metadata.ino()));
        is_new.then(|| File::open(&path)).transpose()
    });
    match opened {
        Err(error) if is_out_of_reach(&error) => Ok(None),
        other => other,
    }
}

fn is_out_of_reach(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::EACCES)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_opened_once_and_a_process_that_is_out_of_reach_is_no_error() {
        let mut seen = BTreeSet::new();
        let own = Path::new("/proc/self");
        let first = open(own, &mut seen).expect("one's own can be read");
        assert!(first.is_some());
        assert!(open(own, &mut seen).expect("again").is_none());
        let ended = open(Path::new("/proc/0"), &mut seen);
        assert!(ended.expect("no error").is_none());
    }
}
