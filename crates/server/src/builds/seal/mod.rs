//! Sealing a built tree: what a build left becomes harmless, canonical, and gets its digest.
//!
//! In: a folder that an app's own code filled, once every process of the build is dead. Out: the same folder with
//! one owner, no setuid bits, no extended attributes, nothing but files, folders and links; the digest of its
//! content; its size.
//!
//! Invariants:
//! - Nothing is followed: every step is `openat2` below the tree's root, without links and without mounts. What a
//!   link points to is never looked at.
//! - A file that has a name outside the tree is replaced by a copy, so that nobody else can change the slug.
//! - The same content gives the same digest, whoever built it and when: times and owners are not part of it.
//!
//! The digest is SHA-256 over the entries in the order of their paths' bytes; see [`Sealed::digest`]. Hashing the
//! files takes most of the time and is spread over the processors. Digests of an earlier build are not reused by size
//! and time: two builds make such files differ without notice (archives unpack with one fixed date), and hashing a
//! Django app's 8,000 files takes about a tenth of a second.

mod digest;
#[cfg(test)]
mod tests;
mod walk;

use digest::{combine, hash_files};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use walk::{Purpose, Walk, break_outside_links, tree_bytes, walk_folder};

/// Entries of a slug. The largest JavaScript apps have some 200,000 files.
const MAX_ENTRIES: usize = 1_000_000;
/// Folders inside folders. Each costs one open descriptor during the walk.
const MAX_DEPTH: usize = 200;

/// Sum of the files' lengths, in bytes, holes included: what is hashed costs time whatever it costs on disk.
const MAX_TREE_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Sum of the lengths of all paths and link targets, in bytes: they are held in memory together.
const MAX_PATHS_BYTES: usize = 128 * 1024 * 1024;
/// Longest path below the tree's root, in bytes: Linux takes 4,095 in all, and the app's folder comes before it.
const MAX_PATH_BYTES: usize = 4_000;

/// A tree could not be sealed.
#[derive(Debug, Error)]
pub enum SealError {
    #[error("the slug has more than {MAX_ENTRIES} files and folders")]
    TooManyEntries,
    #[error("the slug's files are more than {} GB long in all", MAX_TREE_BYTES >> 30)]
    TooLarge,
    #[error("the slug's paths are more than {} MB long in all", MAX_PATHS_BYTES >> 20)]
    PathsTooLong,
    #[error("a path in the slug has more than {MAX_PATH_BYTES} bytes; it begins with {}", begin.display())]
    PathTooLong { begin: PathBuf },
    #[error("folders are nested more than {MAX_DEPTH} deep in the slug, at {}", path.display())]
    TooDeep { path: PathBuf },
    #[error("{} in the slug is no file, folder or link", path.display())]
    Special { path: PathBuf },
    #[error("something else is mounted in the slug, at {}", path.display())]
    Mount { path: PathBuf },
    #[error("cannot {action} {} of the slug", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
}

/// What sealing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Lower-case hex SHA-256 of, for each entry: its kind, mode, path, and content's digest or link's target.
    pub digest: String,
    /// Bytes of all files, a hard-linked file counted once.
    pub tree_bytes: u64,
    /// About how large the compressed archive will be, in bytes: from samples, usually a little too high.
    pub archive_bytes: u64,
    pub entries: usize,
    /// Sockets, pipes and devices, which no slug may have: the first few names.
    pub removed: Vec<PathBuf>,
    pub removed_count: usize,
}

fn io(action: &'static str, path: &CStr) -> impl FnOnce(Errno) -> SealError {
    let path = to_path(path);
    move |source| SealError::Io { action, path, source: source.into() }
}

fn to_path(path: &CStr) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path.to_bytes()))
}

/// Seals the tree at `root` in place. Blocks: reads every file.
///
/// # Errors
/// The tree breaks a limit, or cannot be read or changed.
pub fn seal(root: &Path) -> Result<Sealed, SealError> {
    seal_by(root, std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8), Purpose::Seal)
}

/// The digest of a tree that was sealed already, without haste and without changing it: one thread of the lowest priority.
/// Blocks.
///
/// # Errors
/// As [`seal`].
pub fn digest_again(root: &Path) -> Result<String, SealError> {
    seal_by(root, 1, Purpose::Reread).map(|sealed| sealed.digest)
}

fn seal_by(root: &Path, workers: usize, purpose: Purpose) -> Result<Sealed, SealError> {
    let top = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| SealError::Io {
        action: "open",
        path: root.to_owned(),
        source: source.into(),
    })?;
    let status = rustix::fs::fstat(&top).map_err(io("read", c"."))?;
    let mut walk = Walk {
        purpose,
        device: status.st_dev,
        entries: Vec::new(),
        removed: Vec::new(),
        removed_count: 0,
        bytes: 0,
        paths_bytes: 0,
    };
    purpose.normalise(top.as_fd(), &status, c".")?;
    walk_folder(&mut walk, top.as_fd(), &[], 0)?;
    if purpose == Purpose::Seal {
        break_outside_links(top.as_fd(), &mut walk.entries)?;
    }
    walk.entries.sort_unstable_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    let (digests, sample) = hash_files(top.as_fd(), &walk.entries, workers, purpose)?;
    let tree_bytes = tree_bytes(&walk.entries);
    Ok(Sealed {
        digest: combine(&walk.entries, &digests),
        tree_bytes,
        archive_bytes: sample.scale(tree_bytes),
        entries: walk.entries.len(),
        removed: walk.removed,
        removed_count: walk.removed_count,
    })
}
