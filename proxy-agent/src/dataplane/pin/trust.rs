//! Whether a folder can be trusted: it is not a link, it is owned by the agent's user or by root, and nobody else may write
//! to it.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::Path,
};

use nix::unistd::geteuid;

use super::{PinError, failed};

/// Bits of the mode with which others may write to a folder.
const OTHERS_WRITE: u32 = 0o022;
/// Bits of the mode with which others have any access to a folder.
const OTHERS: u32 = 0o077;
/// In a folder with this bit, others can't remove or rename our files and folders.
const STICKY: u32 = 0o1000;

/// Creates a folder that nobody else may open, unless it exists.
pub(super) fn make(path: &Path) -> Result<(), PinError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    match made {
        Ok(()) => open(path).map(drop),
        // A link to nothing, or a file.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(path).map(drop),
        Err(error) => Err(failed("create", path)(error)),
    }
}

/// Fails if a folder is the root of a mount that others may open. Others may use the mount, so the agent must not close it.
pub(super) fn refuse_open_mount(path: &Path) -> Result<(), PinError> {
    let Ok(own) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let above = path.parent().map(fs::symlink_metadata);
    let is_mount = above.is_none_or(|above| above.is_ok_and(|above| above.dev() != own.dev()));
    if is_mount && own.mode() & OTHERS != 0 {
        return Err(PinError::SharedRoot(path.to_owned()));
    }
    Ok(())
}

/// Opens a folder, if it can be trusted.
pub(super) fn open(path: &Path) -> Result<File, PinError> {
    let untrusted = |why: &str| PinError::Untrusted {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let kind = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    if !kind.is_dir() {
        let is_link = kind.file_type().is_symlink();
        return Err(untrusted(if is_link {
            "is a link"
        } else {
            "is no folder"
        }));
    }
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed("open", path))?;
    let metadata = folder.metadata().map_err(failed("examine", path))?;
    match fault(Owner::of(&metadata), metadata.mode(), 0) {
        Some(why) => Err(untrusted(&why)),
        None => Ok(folder),
    }
}

/// Opens a folder as [`open`] does, and denies others all access: earlier versions let others read it.
pub(super) fn close(path: &Path) -> Result<File, PinError> {
    let folder = open(path)?;
    let mode = folder.metadata().map_err(failed("examine", path))?.mode();
    if mode & OTHERS != 0 {
        let ours_alone = Permissions::from_mode(mode & 0o700);
        folder
            .set_permissions(ours_alone)
            .map_err(failed("close to others", path))?;
    }
    Ok(folder)
}

/// Fails if others could replace this folder by another one. Some of the folders above it may be missing.
pub(super) fn check_parents(path: &Path) -> Result<(), PinError> {
    let examine = |folder: &Path| {
        let metadata = fs::symlink_metadata(folder).map_err(failed("examine", folder))?;
        // The owner of a link can change where it leads. The mode of a link lets everybody "write" to it.
        let mode = if metadata.is_symlink() {
            0
        } else {
            metadata.mode()
        };
        match fault(Owner::of(&metadata), mode, STICKY) {
            Some(why) => Err(PinError::Untrusted {
                path: folder.to_owned(),
                why,
            }),
            None => Ok(()),
        }
    };
    let mut above = path.ancestors().skip(1);
    let nearest = above.find(|folder| folder.is_dir());
    let nearest = nearest.unwrap_or(Path::new("/"));
    let real = fs::canonicalize(nearest).map_err(failed("examine", nearest))?;
    let named = nearest
        .ancestors()
        .filter(|folder| !folder.as_os_str().is_empty());
    named.chain(real.ancestors()).try_for_each(examine)
}

/// Whether a path leads to an open folder.
pub(super) fn is_at(folder: &File, path: &Path) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    match (folder.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

/// Owner of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Trusted,
    Other(u32),
}

impl Owner {
    fn of(metadata: &Metadata) -> Self {
        match metadata.uid() {
            uid if uid == 0 || uid == geteuid().as_raw() => Self::Trusted,
            uid => Self::Other(uid),
        }
    }
}

/// Why a folder can't be trusted. With the bit `excuse` in the mode, others may write to it.
fn fault(owner: Owner, mode: u32, excuse: u32) -> Option<String> {
    match owner {
        Owner::Other(uid) => Some(format!("belongs to user {uid}")),
        Owner::Trusted if mode & OTHERS_WRITE != 0 && mode & excuse == 0 => Some(format!(
            "may be written to by others (mode {:04o})",
            mode & 0o7777
        )),
        Owner::Trusted => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::PathBuf};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("trust-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn at_mode(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_that_we_make_is_ours_alone() {
        let folder = Folder::new("new");
        let base = folder.0.join("base");
        make(&base).unwrap();
        assert_eq!(mode(&base), 0o700);
        assert!(is_at(&close(&base).unwrap(), &base));
    }

    #[test]
    fn one_that_an_earlier_version_made_is_closed() {
        let folder = Folder::new("old");
        let base = folder.at_mode("base", 0o755);
        make(&base).unwrap();
        assert_eq!(mode(&base), 0o755);
        close(&base).unwrap();
        assert_eq!(mode(&base), 0o700);
    }

    #[test]
    fn one_that_others_may_have_filled_is_refused_and_left_as_it_is() {
        let folder = Folder::new("others");
        for others in [0o777, 0o1777, 0o770, 0o702] {
            let base = folder.at_mode(&format!("{others:o}"), others);
            for refused in [make(&base).err(), open(&base).err(), close(&base).err()] {
                assert!(
                    matches!(refused, Some(PinError::Untrusted { .. })),
                    "{refused:?}"
                );
            }
            assert_eq!(mode(&base), others);
        }
        assert!(
            fault(Owner::Other(1000), 0o700, STICKY)
                .unwrap()
                .contains("user 1000")
        );
    }

    #[test]
    fn links_and_files_are_not_followed() {
        let folder = Folder::new("links");
        let ours = folder.at_mode("ours", 0o700);
        let link = folder.0.join("link");
        for to in [&ours, &folder.0.join("nowhere")] {
            symlink(to, &link).unwrap();
            let refused = make(&link).unwrap_err().to_string();
            assert!(refused.contains("is a link"), "{refused}");
            fs::remove_file(&link).unwrap();
        }
        fs::write(&link, "").unwrap();
        assert!(
            make(&link)
                .unwrap_err()
                .to_string()
                .contains("is no folder")
        );
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_within_one_where_others_may_rename_it_is_refused() {
        let folder = Folder::new("parents");
        let sticky = folder.at_mode("sticky", 0o1777);
        check_parents(&sticky.join("base")).unwrap();
        let open_to_all = folder.at_mode("open", 0o777);
        let refused = check_parents(&open_to_all.join("base"))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("written to by others (mode 0777)"),
            "{refused}"
        );
    }

    #[test]
    fn the_root_of_a_mount_that_others_may_open_is_refused() {
        let error = refuse_open_mount(Path::new("/proc")).unwrap_err();
        assert!(matches!(error, PinError::SharedRoot(_)), "{error}");
        let folder = Folder::new("mount");
        refuse_open_mount(&folder.at_mode("open", 0o755)).unwrap();
        refuse_open_mount(&folder.0.join("missing")).unwrap();
    }
}
