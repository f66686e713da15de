//! `--ready-file`: a file that the agent creates when the first full list is programmed.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Removes the file of an earlier run. Anything but an empty regular file does not belong to the agent, and stays.
pub fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => fs::remove_file(path),
        Ok(_) => Err(io::Error::other("the path exists and is not an empty file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates the file. An existing file is not written to, and a link is not followed, because others know the path.
pub fn announce(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::other(
        "the path exists and is not a regular file",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_but_our_own_file_is_removed_or_written_to() {
        let folder = std::env::temp_dir().join(format!("ready-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let ready = folder.join("ready");
        clear(&ready).unwrap();
        announce(&ready).unwrap();
        announce(&ready).unwrap();
        assert!(ready.exists());
        clear(&ready).unwrap();
        assert!(!ready.exists());

        let precious = folder.join("precious");
        fs::write(&precious, "text").unwrap();
        for to in ["precious", "new"] {
            symlink(to, &ready).unwrap();
            clear(&ready).unwrap_err();
            announce(&ready).unwrap_err();
            fs::remove_file(&ready).unwrap();
        }
        assert!(!folder.join("new").exists());
        clear(&precious).unwrap_err();
        announce(&precious).unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"text");
        fs::remove_dir_all(&folder).unwrap();
    }
}
