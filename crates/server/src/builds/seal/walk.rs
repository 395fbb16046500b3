//! Walking a tree that an app made, and making its entries harmless.

use super::{
    MAX_DEPTH, MAX_ENTRIES, MAX_PATH_BYTES, MAX_PATHS_BYTES, MAX_TREE_BYTES, SealError, io, to_path,
};
use ferroku_core::uids::SLUG_UID;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Removed entries that are named; the rest is only counted.
const MAX_NAMED: usize = 5;

/// What a tree is walked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Seal,
    /// Nothing may be changed: it is a slug that runs.
    Reread,
}

pub(super) enum Kind {
    Folder,
    File { size: u64, links: u64, inode: (u64, u64) },
    Link { target: Vec<u8> },
}

pub(super) struct Entry {
    /// Relative to the root; never empty.
    pub(super) path: CString,
    pub(super) mode: u32,
    pub(super) kind: Kind,
}

pub(super) struct Walk {
    pub(super) purpose: Purpose,
    pub(super) device: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) removed: Vec<PathBuf>,
    pub(super) removed_count: usize,
    /// Sum of the lengths of the files so far.
    pub(super) bytes: u64,
    /// Sum of the lengths of the paths so far.
    pub(super) paths_bytes: usize,
}

pub(super) fn walk_folder(
    walk: &mut Walk,
    folder: BorrowedFd<'_>,
    prefix: &[u8],
    depth: usize,
) -> Result<(), SealError> {
    let at = |name: &[u8]| {
        let mut path = prefix.to_vec();
        path.extend_from_slice(name);
        CString::new(path).expect("names have no NUL")
    };
    if depth > MAX_DEPTH {
        return Err(SealError::TooDeep { path: to_path(&at(b"")) });
    }
    let listing = Dir::read_from(folder).map_err(io("list", &at(b"")))?;
    for entry in listing {
        let entry = entry.map_err(io("list", &at(b"")))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let path = at(name.to_bytes());
        if path.as_bytes().len() > MAX_PATH_BYTES {
            let begin = OsStr::from_bytes(&path.as_bytes()[..100]).into();
            return Err(SealError::PathTooLong { begin });
        }
        if walk.entries.len() == MAX_ENTRIES {
            return Err(SealError::TooManyEntries);
        }
        walk.paths_bytes += path.as_bytes().len();
        if walk.paths_bytes > MAX_PATHS_BYTES {
            return Err(SealError::PathsTooLong);
        }
        let status =
            rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io("read", &path))?;
        if status.st_dev != walk.device {
            return Err(SealError::Mount { path: to_path(&path) });
        }
        let mode = status.st_mode & 0o777;
        let kind = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                let child = open_below(folder, name, OFlags::DIRECTORY).map_err(io("open", &path))?;
                walk.purpose.normalise(child.as_fd(), &status, &path)?;
                walk.entries.push(Entry { path: path.clone(), mode, kind: Kind::Folder });
                let mut below = path.into_bytes();
                below.push(b'/');
                walk_folder(walk, child.as_fd(), &below, depth + 1)?;
                continue;
            }
            FileType::RegularFile => {
                let size = status.st_size.cast_unsigned();
                walk.bytes = walk.bytes.saturating_add(size);
                if walk.bytes > MAX_TREE_BYTES {
                    return Err(SealError::TooLarge);
                }
                Kind::File { size, links: status.st_nlink, inode: (status.st_dev, status.st_ino) }
            }
            FileType::Symlink => {
                if walk.purpose == Purpose::Seal {
                    own_link(folder, name, &status).map_err(io("give an owner to", &path))?;
                }
                let target =
                    rustix::fs::readlinkat(folder, name, Vec::new()).map_err(io("read the link", &path))?;
                Kind::Link { target: target.into_bytes() }
            }
            // None is in a sealed tree.
            _ if walk.purpose == Purpose::Reread => return Err(SealError::Special { path: to_path(&path) }),
            _ => {
                rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(io("remove", &path))?;
                walk.removed_count += 1;
                if walk.removed.len() < MAX_NAMED {
                    walk.removed.push(to_path(&path));
                }
                continue;
            }
        };
        walk.entries.push(Entry { path, mode, kind });
    }
    Ok(())
}

pub(super) fn open_below(folder: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        folder,
        path,
        flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

impl Purpose {
    pub(super) fn normalise(self, file: BorrowedFd<'_>, status: &Stat, path: &CStr) -> Result<(), SealError> {
        if self == Self::Seal { normalise(file, status, path) } else { Ok(()) }
    }
}

/// The canonical owner, no setuid, setgid or sticky bit, no extended attributes.
fn normalise(file: BorrowedFd<'_>, status: &Stat, path: &CStr) -> Result<(), SealError> {
    if status.st_uid != SLUG_UID || status.st_gid != SLUG_UID {
        rustix::fs::fchown(file, Some(Uid::from_raw(SLUG_UID)), Some(Gid::from_raw(SLUG_UID)))
            .map_err(io("give an owner to", path))?;
    }
    if status.st_mode & 0o7000 != 0 {
        rustix::fs::fchmod(file, Mode::from_raw_mode(status.st_mode & 0o777))
            .map_err(io("set the mode of", path))?;
    }
    drop_attributes(file).map_err(io("drop the extended attributes of", path))
}

fn drop_attributes(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let length = match rustix::fs::flistxattr_query(file) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        Ok(length) => length,
        Err(error) => return Err(error),
    };
    let mut names = vec![0u8; length];
    let length = rustix::fs::flistxattr(file, &mut names[..])?;
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match rustix::fs::fremovexattr(file, name) {
            // The kernel's own (a security module's label) cannot be removed and carries no privilege.
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::ACCESS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn own_link(folder: BorrowedFd<'_>, name: &CStr, status: &Stat) -> Result<(), Errno> {
    if status.st_uid == SLUG_UID && status.st_gid == SLUG_UID {
        return Ok(());
    }
    let owner = (Some(Uid::from_raw(SLUG_UID)), Some(Gid::from_raw(SLUG_UID)));
    rustix::fs::chownat(folder, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
}

/// Replaces each file that also has a name outside the tree by a copy of its own.
pub(super) fn break_outside_links(top: BorrowedFd<'_>, entries: &mut [Entry]) -> Result<(), SealError> {
    let mut inside: HashMap<(u64, u64), u64> = HashMap::new();
    for entry in entries.iter() {
        if let Kind::File { links: 2.., inode, .. } = entry.kind {
            *inside.entry(inode).or_default() += 1;
        }
    }
    for entry in entries.iter_mut() {
        let Kind::File { links, inode, .. } = &mut entry.kind else { continue };
        if *links < 2 || inside.get(inode) == Some(links) {
            continue;
        }
        let status = copy_in_place(top, &entry.path, entry.mode).map_err(io("copy", &entry.path))?;
        *links = 1;
        *inode = (status.st_dev, status.st_ino);
    }
    Ok(())
}

fn copy_in_place(top: BorrowedFd<'_>, path: &CStr, mode: u32) -> Result<Stat, Errno> {
    let bytes = path.to_bytes();
    let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (&b"."[..], bytes),
    };
    let parent = CString::new(parent).expect("a path has no NUL");
    let name = CString::new(name).expect("a path has no NUL");
    let parent = open_below(top, &parent, OFlags::DIRECTORY)?;
    let mut source = std::fs::File::from(open_below(top, path, OFlags::empty())?);
    let copy_name = CString::new(format!(".ferroku-copy-{}", uuid::Uuid::new_v4())).expect("hex has no NUL");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut copy = std::fs::File::from(rustix::fs::openat(&parent, &copy_name, flags, Mode::RUSR)?);
    std::io::copy(&mut source, &mut copy)
        .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(mode))?;
    rustix::fs::renameat(&parent, &copy_name, &parent, &name)?;
    rustix::fs::fstat(&copy)
}

pub(super) fn tree_bytes(entries: &[Entry]) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let count = |entry: &Entry| match entry.kind {
        Kind::File { size, links, inode } if links == 1 || seen.insert(inode) => size,
        _ => 0,
    };
    entries.iter().map(count).sum()
}
