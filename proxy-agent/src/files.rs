//! Files that others wrote. Only regular files on file systems that store data are read, and only up to a maximum size. A
//! pipe, a device or a file of a kernel file system may have no end, or block its reader forever.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::dataplane::sys::process;

/// File systems whose files the kernel generates, by their magic numbers (include/uapi/linux/magic.h).
const KERNELS: [i64; 10] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6165_676c, // pstore
];

/// Maximum size of a configuration file, in bytes.
pub const LARGEST_CONFIGURATION: u64 = 4 << 20;

/// Opens a regular file. Neither opening nor reading it blocks.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening a device may have side effects, so its kind is checked before it is opened.
    check_kind(&fs::metadata(path)?)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    // The path may lead to another file by now.
    check_kind(&file.metadata()?)?;
    if KERNELS.contains(&process::filesystem_magic(&file)?) {
        return Err(io::Error::other(
            "it is a file of the kernel's, not one that keeps data",
        ));
    }
    Ok(file)
}

/// Reads an open file of at most `most` bytes.
pub fn read(file: File, most: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        let limit = if most < 1 << 20 {
            format!("{most} bytes")
        } else {
            format!("{} MiB", most >> 20)
        };
        io::Error::other(format!("it is larger than {limit}"))
    };
    if file.metadata()?.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // The file may have grown.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Reads a configuration file.
pub fn read_configuration(path: &Path) -> io::Result<String> {
    let bytes = read(open(path)?, LARGEST_CONFIGURATION)?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

/// Fails if a file can't be read as configuration. For files that a library reads.
pub fn check_configuration(path: &Path) -> io::Result<()> {
    read(open(path)?, LARGEST_CONFIGURATION).map(drop)
}

fn check_kind(metadata: &fs::Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::other(format!(
        "it is {what}, not a regular file"
    )))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn why(path: &Path) -> String {
        read_configuration(path).unwrap_err().to_string()
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_waits() {
        let folder = std::env::temp_dir().join(format!("files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let fifo = folder.join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(why(&fifo).contains("a pipe"));
        let socket = folder.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(why(&socket).contains("a socket"));
        assert!(why(&folder).contains("a folder"));
        // For stat(2), the last is a regular file. Reading it blocks.
        for (to, told) in [
            ("fifo", "a pipe"),
            ("/dev/zero", "a device"),
            ("/proc/self/status", "of the kernel's"),
            ("/proc/kmsg", ""),
        ] {
            let link = folder.join("link");
            symlink(to, &link).unwrap();
            assert!(why(&link).contains(told), "{to}: {}", why(&link));
            fs::remove_file(link).unwrap();
        }
        let plain = folder.join("plain");
        fs::write(&plain, "ä").unwrap();
        symlink("plain", folder.join("link")).unwrap();
        assert_eq!(read_configuration(&folder.join("link")).unwrap(), "ä");
        File::create(&plain)
            .unwrap()
            .set_len(LARGEST_CONFIGURATION + 1)
            .unwrap();
        assert!(why(&plain).contains("larger than 4 MiB"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
