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

use ferroku_core::uids::SLUG_UID;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use thiserror::Error;

/// Entries of a slug. The largest JavaScript apps have some 200,000 files.
const MAX_ENTRIES: usize = 1_000_000;
/// Folders inside folders. Each costs one open descriptor during the walk.
const MAX_DEPTH: usize = 200;
/// Read at once when hashing, in bytes.
const CHUNK_BYTES: usize = 128 * 1024;
/// One chunk in so many is compressed to estimate the archive's size.
const SAMPLE_EVERY: u64 = 8;
/// Compression level of the estimate; the archive's own is the same or better.
const SAMPLE_LEVEL: i32 = 3;
/// Removed entries that are named; the rest is only counted.
const MAX_NAMED: usize = 5;

/// Sum of the files' lengths, in bytes, holes included: what is hashed costs time whatever it costs on disk.
const MAX_TREE_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Sum of the lengths of all paths and link targets, in bytes: they are held in memory together.
const MAX_PATHS_BYTES: usize = 128 * 1024 * 1024;
/// Longest path below the tree's root, in bytes: Linux takes 4,095 in all, and the app's folder comes before it.
const MAX_PATH_BYTES: usize = 4_000;
/// A sample of this size, in bytes, is compressed at once instead of growing with its file.
const MAX_PENDING_BYTES: usize = 1024 * 1024;

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

enum Kind {
    Folder,
    File { size: u64, links: u64, inode: (u64, u64) },
    Link { target: Vec<u8> },
}

struct Entry {
    /// Relative to the root; never empty.
    path: CString,
    mode: u32,
    kind: Kind,
}

struct Walk {
    purpose: Purpose,
    device: u64,
    entries: Vec<Entry>,
    removed: Vec<PathBuf>,
    removed_count: usize,
    /// Sum of the lengths of the files so far.
    bytes: u64,
    /// Sum of the lengths of the paths so far.
    paths_bytes: usize,
}

#[derive(Default)]
struct Sample {
    /// Not yet compressed: the samples of neighbouring files together, as the archive has them.
    pending: Vec<u8>,
    read_bytes: u64,
    compressed_bytes: u64,
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

/// What a tree is walked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Seal,
    /// Nothing may be changed: it is a slug that runs.
    Reread,
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

fn walk_folder(
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

fn open_below(folder: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        folder,
        path,
        flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

impl Purpose {
    fn normalise(self, file: BorrowedFd<'_>, status: &Stat, path: &CStr) -> Result<(), SealError> {
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
fn break_outside_links(top: BorrowedFd<'_>, entries: &mut [Entry]) -> Result<(), SealError> {
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

fn tree_bytes(entries: &[Entry]) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let count = |entry: &Entry| match entry.kind {
        Kind::File { size, links, inode } if links == 1 || seen.insert(inode) => size,
        _ => 0,
    };
    entries.iter().map(count).sum()
}

type FileDigest = [u8; 32];

/// Normalises and hashes every file, by so many threads. Digests are in the order of `entries`; zeros for others.
fn hash_files(
    top: BorrowedFd<'_>,
    entries: &[Entry],
    workers: usize,
    purpose: Purpose,
) -> Result<(Vec<FileDigest>, Sample), SealError> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<SealError>> = Mutex::new(None);
    let work = || {
        if purpose == Purpose::Reread {
            // This thread's alone, on Linux. One that is not nice hashes as well.
            let _ = rustix::process::setpriority_process(None, 19);
        }
        let mut done = Vec::new();
        let mut sample = Sample::default();
        let mut buffer = vec![0u8; CHUNK_BYTES];
        // Taken in runs of 32: neighbours are in the same folder.
        loop {
            let start = next.fetch_add(32, Ordering::Relaxed);
            if start >= entries.len() || failure.lock().is_ok_and(|failure| failure.is_some()) {
                sample.compress();
                return (done, sample);
            }
            sample.compress();
            for (index, entry) in entries.iter().enumerate().skip(start).take(32) {
                let Kind::File { .. } = entry.kind else { continue };
                match hash_file(top, entry, purpose, &mut buffer, &mut sample) {
                    Ok(digest) => done.push((index, digest)),
                    Err(error) => {
                        if let Ok(mut failure) = failure.lock() {
                            failure.get_or_insert(error);
                        }
                        return (done, sample);
                    }
                }
            }
        }
    };
    let mut digests = vec![[0u8; 32]; entries.len()];
    let mut total = Sample::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let (done, sample) = thread.join().expect("hashing does not panic");
            for (index, digest) in done {
                digests[index] = digest;
            }
            total.read_bytes += sample.read_bytes;
            total.compressed_bytes += sample.compressed_bytes;
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok((digests, total)),
    }
}

fn hash_file(
    top: BorrowedFd<'_>,
    entry: &Entry,
    purpose: Purpose,
    buffer: &mut [u8],
    sample: &mut Sample,
) -> Result<FileDigest, SealError> {
    let file = open_below(top, &entry.path, OFlags::empty()).map_err(io("open", &entry.path))?;
    let status = rustix::fs::fstat(&file).map_err(io("read", &entry.path))?;
    let size = status.st_size.cast_unsigned();
    purpose.normalise(file.as_fd(), &status, &entry.path)?;
    let mut hasher = Sha256::new();
    let mut chunk: u64 = 0;
    loop {
        let count = rustix::io::read(&file, &mut *buffer).map_err(io("read", &entry.path))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        if (size + chunk).is_multiple_of(SAMPLE_EVERY) {
            sample.add(&buffer[..count]);
        }
        chunk += 1;
        if count < buffer.len() && (chunk - 1) * CHUNK_BYTES as u64 + count as u64 >= size {
            break;
        }
    }
    Ok(hasher.finalize().into())
}

/// The tree's digest. Numbers are little-endian u64; paths and targets have their length before them.
fn combine(entries: &[Entry], digests: &[FileDigest]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"ferroku slug 1\n");
    let text = |hasher: &mut Sha256, bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (entry, digest) in entries.iter().zip(digests) {
        let kind = match entry.kind {
            Kind::Folder => b'd',
            Kind::File { .. } => b'f',
            Kind::Link { .. } => b'l',
        };
        hasher.update([kind]);
        text(&mut hasher, entry.path.as_bytes());
        match &entry.kind {
            Kind::Folder => hasher.update(u64::from(entry.mode).to_le_bytes()),
            Kind::File { size, .. } => {
                hasher.update(u64::from(entry.mode).to_le_bytes());
                hasher.update(size.to_le_bytes());
                hasher.update(digest);
            }
            Kind::Link { target } => text(&mut hasher, target),
        }
    }
    hex::encode(hasher.finalize())
}

// === impl Sample ===

impl Sample {
    fn add(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > MAX_PENDING_BYTES {
            self.compress();
        }
    }

    /// Compresses what is pending. Called at fixed places of the tree, so that a rebuild prints the same size.
    fn compress(&mut self) {
        if let Ok(compressed) = zstd::bulk::compress(&self.pending, SAMPLE_LEVEL) {
            self.read_bytes += self.pending.len() as u64;
            self.compressed_bytes += compressed.len() as u64;
        }
        self.pending.clear();
    }

    /// The sampled ratio applied to `total_bytes`; the whole where there is no sample.
    fn scale(&self, total_bytes: u64) -> u64 {
        if self.read_bytes == 0 {
            return total_bytes;
        }
        let scaled =
            u128::from(total_bytes) * u128::from(self.compressed_bytes) / u128::from(self.read_bytes);
        u64::try_from(scaled).unwrap_or(total_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("bin")).expect("new");
        std::fs::write(folder.path().join("bin/web"), "#!/bin/sh\n").expect("written");
        std::fs::write(folder.path().join("Procfile"), "web: bin/web\n").expect("written");
        symlink("bin/web", folder.path().join("web")).expect("new");
        folder
    }

    #[test]
    fn the_digest_is_over_content_and_modes_and_nothing_else() {
        let (one, two) = (tree(), tree());
        let first = seal(one.path()).expect("sealed");
        std::fs::File::open(two.path().join("Procfile"))
            .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))
            .expect("ours");
        assert_eq!(first, seal(two.path()).expect("sealed"), "the same, built at another time");
        assert_eq!((first.entries, first.tree_bytes), (4, 23));
        let again = seal(one.path()).expect("sealed");
        assert_eq!(first, again, "sealing is idempotent");
        let changes: [(&str, fn(&Path)); 4] = [
            ("content", |path| std::fs::write(path.join("Procfile"), "web: bin/wab\n").expect("written")),
            ("mode", |path| {
                std::fs::set_permissions(path.join("bin/web"), PermissionsExt::from_mode(0o755))
                    .expect("ours");
            }),
            ("link", |path| {
                std::fs::remove_file(path.join("web")).expect("there");
                symlink("bin/wab", path.join("web")).expect("new");
            }),
            ("folder", |path| std::fs::create_dir(path.join("empty")).expect("new")),
        ];
        for (what, change) in changes {
            let other = tree();
            change(other.path());
            assert_ne!(first.digest, seal(other.path()).expect("sealed").digest, "{what}");
        }
    }

    #[test]
    fn a_hostile_tree_is_made_harmless() {
        let outside = tempfile::tempdir().expect("a folder");
        std::fs::write(outside.path().join("shadow"), "root only").expect("written");
        std::fs::set_permissions(outside.path().join("shadow"), PermissionsExt::from_mode(0o600))
            .expect("ours");
        let folder = tree();
        let path = folder.path();
        symlink(outside.path(), path.join("out")).expect("new");
        symlink(outside.path().join("shadow"), path.join("shadow")).expect("new");
        std::fs::hard_link(outside.path().join("shadow"), path.join("hard")).expect("one file system");
        std::fs::write(path.join("root"), "").expect("written");
        std::fs::set_permissions(path.join("root"), PermissionsExt::from_mode(0o6755)).expect("ours");
        std::fs::set_permissions(path.join("bin"), PermissionsExt::from_mode(0o3777)).expect("ours");
        rustix::fs::setxattr(path.join("root"), "user.x", b"1", rustix::fs::XattrFlags::empty())
            .expect("ours");
        let fifo = rustix::fs::CWD;
        rustix::fs::mknodat(fifo, path.join("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("new");
        rustix::fs::mknodat(fifo, path.join("null"), FileType::CharacterDevice, Mode::RUSR, 0x103)
            .expect("new");
        let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).expect("bound");

        let sealed = seal(path).expect("sealed");
        assert_eq!(sealed.removed_count, 3, "{:?}", sealed.removed);
        for name in ["fifo", "null", "socket"] {
            assert!(!path.join(name).exists(), "{name}");
        }
        let shadow = std::fs::metadata(outside.path().join("shadow")).expect("untouched");
        assert_eq!((shadow.uid(), shadow.mode() & 0o777, shadow.nlink()), (0, 0o600, 1));
        let copy = std::fs::metadata(path.join("hard")).expect("a copy");
        assert_eq!((copy.uid(), copy.nlink()), (SLUG_UID, 1));
        assert_eq!(std::fs::read_to_string(path.join("hard")).expect("a copy"), "root only");
        assert_eq!(std::fs::metadata(outside.path()).expect("untouched").uid(), 0);
        let root = std::fs::metadata(path.join("root")).expect("there");
        assert_eq!((root.uid(), root.mode() & 0o7777), (SLUG_UID, 0o755));
        assert_eq!(std::fs::metadata(path.join("bin")).expect("there").mode() & 0o7777, 0o777);
        assert!(rustix::fs::getxattr(path.join("root"), "user.x", &mut [0u8; 8]).is_err());
        assert_eq!(std::fs::symlink_metadata(path.join("out")).expect("a link").uid(), SLUG_UID);
    }

    #[test]
    fn hard_links_inside_the_tree_stay_and_count_once() {
        let folder = tree();
        std::fs::hard_link(folder.path().join("Procfile"), folder.path().join("Procfile.2")).expect("new");
        let sealed = seal(folder.path()).expect("sealed");
        assert_eq!(sealed.tree_bytes, 23);
        assert_eq!(std::fs::metadata(folder.path().join("Procfile")).expect("there").nlink(), 2);
    }

    #[test]
    #[ignore = "a measurement: set SEAL_TREE to a folder"]
    fn measure() {
        let root = std::env::var("SEAL_TREE").expect("set");
        for _ in 0..3 {
            let started = std::time::Instant::now();
            let sealed = seal(Path::new(&root)).expect("sealed");
            eprintln!("{:?} {sealed:?}", started.elapsed());
        }
    }

    #[test]
    fn reading_again_gives_the_same_digest_and_changes_nothing() {
        let folder = tree();
        let sealed = seal(folder.path()).expect("sealed");
        // A backup by hard links, and an owner that somebody changed.
        let backup = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("Procfile");
        std::fs::hard_link(&file, backup.path().join("Procfile")).expect("one file system");
        std::os::unix::fs::chown(folder.path().join("bin"), Some(7), Some(7)).expect("root");
        std::os::unix::fs::lchown(folder.path().join("web"), Some(7), Some(7)).expect("root");
        let inode = std::fs::metadata(&file).expect("there").ino();
        assert_eq!(digest_again(folder.path()).expect("read"), sealed.digest);
        let after = std::fs::metadata(&file).expect("there");
        assert_eq!((after.ino(), after.nlink()), (inode, 2));
        for name in ["bin", "web"] {
            let status = std::fs::symlink_metadata(folder.path().join(name)).expect("there");
            assert_eq!(status.uid(), 7, "{name}");
        }
        std::os::unix::net::UnixListener::bind(folder.path().join("socket")).expect("bound");
        assert!(matches!(digest_again(folder.path()), Err(SealError::Special { .. })));
        assert!(folder.path().join("socket").exists());
    }

    #[test]
    fn a_path_that_no_program_could_open_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut at = std::fs::File::open(folder.path()).expect("there");
        for _ in 0..17 {
            let name = "d".repeat(250);
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("made");
            at = rustix::fs::openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).expect("there").into();
        }
        assert!(matches!(seal(folder.path()), Err(SealError::PathTooLong { .. })));
    }

    #[test]
    fn nesting_has_an_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 2).collect();
        std::fs::create_dir_all(folder.path().join(deep)).expect("new");
        assert!(matches!(seal(folder.path()), Err(SealError::TooDeep { .. })));
    }
}
