//! Spare dependency trees: why a push that changes no dependency does not pay for copying them.
//!
//! A Django app's installed packages are some 5,000 files in 2,700 folders; to copy them costs a second and more,
//! to rename their root folder nothing. So after a release the node copies the slug's dependency trees aside
//! ([`keep`], in the background), before the next build it moves those copies into the build folder under the name
//! [`PLACED`] ([`place`]), and a language's buildpack renames its own to where it belongs if it still fits. What a
//! build did not use, or left there for the next one, goes back ([`take_back`]).
//!
//! ```no_run
//! # use ferroku_buildpacks::spare;
//! # use std::path::Path;
//! # fn push(spares: &Path, build_dir: &Path, slug_dir: &Path) -> std::io::Result<()> {
//! spare::place(spares, build_dir)?; // before the build dyno starts
//! spare::take_back(spares, build_dir)?; // once it is dead, before the tree is sealed
//! spare::keep(slug_dir, spares)?; // some seconds after the release, on a thread of its own
//! # Ok(())
//! # }
//! ```
//!
//! Only the node calls these functions, outside of any dyno. Invariants: the trees were written by apps, so no link
//! in them is followed; a spare tree shares no inode with a slug, because a build may write into it and a slug never
//! changes; `spare_dir` (one an app, on the file system of the build folders) is not visible inside any dyno.

use crate::remove::remove_tree;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timestamps};
use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Folder of the spare trees inside a build folder. No source archive can bring a file of this name.
pub const PLACED: &str = ".ferroku-spare";

/// Spare tree of the Python buildpack, in [`PLACED`].
pub const PYTHON: &str = "python";

/// Spare tree of the Node.js buildpack, in [`PLACED`].
pub const NODE: &str = "node";

/// File inside a dependency tree that says what it was made from; a tree without it is not kept.
pub const MARKER: &str = "ferroku.json";

/// What is worth keeping: name of the spare tree, and where it is in a slug.
const TREES: [(&str, &[&str]); 2] = [(PYTHON, &[".heroku", "python"]), (NODE, &["node_modules"])];

/// Largest tree that is kept, in bytes, all of an app together; one that is larger is installed anew by each build.
const MAX_SPARE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Deepest folder that is copied: real package trees have some 15 levels; the copy is recursive.
const MAX_DEPTH: usize = 100;

/// Before a build: moves the spare trees of the app, if there are any, into its (empty) build folder.
/// Gives whether there was one.
///
/// # Errors
/// It could not be moved, for example because the two folders are on different file systems.
pub fn place(spare_dir: &Path, build_dir: &Path) -> io::Result<bool> {
    match fs::rename(spare_dir.join("tree"), build_dir.join(PLACED)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// After a build, once all of its processes are dead and before its folder becomes a slug: takes the spare trees that
/// are in it out again.
///
/// # Errors
/// It could be neither moved back nor deleted.
pub fn take_back(spare_dir: &Path, build_dir: &Path) -> io::Result<()> {
    let placed = build_dir.join(PLACED);
    let is_folder = fs::symlink_metadata(&placed).is_ok_and(|metadata| metadata.is_dir());
    let keep = || fs::create_dir_all(spare_dir).and_then(|()| fs::rename(&placed, spare_dir.join("tree")));
    if is_folder && keep().is_ok() { Ok(()) } else { remove(&placed) }
}

/// After a release, in the background: copies the dependency trees of the slug at `slug_dir` to `spare_dir`, with
/// owners and times. Gives whether the slug had one. `spare_dir` is made if it is absent.
///
/// # Errors
/// Something could not be copied; then `spare_dir` has no new tree of that name.
pub fn keep(slug_dir: &Path, spare_dir: &Path) -> io::Result<bool> {
    let mut room = MAX_SPARE_BYTES;
    let mut kept = false;
    for (name, place) in TREES {
        let Some(source) = open_below(slug_dir, place)? else { continue };
        if is_regular_file(source.as_fd(), MARKER) {
            keep_tree(source.as_fd(), name, spare_dir, &mut room)?;
            kept = true;
        }
    }
    Ok(kept)
}

fn keep_tree(source: BorrowedFd<'_>, name: &str, spare_dir: &Path, room: &mut u64) -> io::Result<()> {
    fs::create_dir_all(spare_dir)?;
    // Two releases close to each other: one copies after the other. Closing the folder unlocks it.
    let lock = File::open(spare_dir)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let (fresh, trees) = (spare_dir.join("fresh"), spare_dir.join("tree"));
    remove(&fresh)?;
    fs::create_dir(&fresh)?;
    if let Err(error) = copy_folder(source, File::open(&fresh)?.as_fd(), 0, room) {
        remove(&fresh)?;
        return Err(error);
    }
    match fs::create_dir(&trees) {
        // The next build moves trees out of this folder and into it: it must be its own.
        Ok(()) => copy_metadata(&rustix::fs::fstat(source)?, File::open(&trees)?.as_fd())?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    remove(&trees.join(name))?;
    fs::rename(&fresh, trees.join(name))
}

/// The folder at `place` below `root`; `None` if it is not there, or a link on the way.
fn open_below(root: &Path, place: &[&str]) -> io::Result<Option<OwnedFd>> {
    let mut folder = OwnedFd::from(File::open(root)?);
    for name in place {
        folder = match open_folder(folder.as_fd(), OsStr::new(name)) {
            Ok(folder) => folder,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
    }
    Ok(Some(folder))
}

fn remove(path: &Path) -> io::Result<()> {
    remove_tree(path, None).map(drop)
}

fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn is_regular_file(parent: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize, room: &mut u64) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("the dependency tree has more than {MAX_DEPTH} levels")));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy_entry(from, to, name, depth, room)?;
    }
    copy_metadata(&rustix::fs::fstat(from)?, to)
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    room: &mut u64,
) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let name = OsStr::from_bytes(name.to_bytes());
            copy_folder(open_folder(from, name)?.as_fd(), open_folder(to, name)?.as_fd(), depth + 1, room)
        }
        FileType::RegularFile => {
            // Its length, not its blocks: a copy fills holes.
            *room = room.checked_sub(stat.st_size.cast_unsigned()).ok_or_else(|| {
                io::Error::other(format!("the dependency tree is over {} GB", MAX_SPARE_BYTES >> 30))
            })?;
            let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
            let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut copy = File::from(rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
            io::copy(&mut source, &mut copy)?;
            copy_metadata(&stat, copy.as_fd())
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)?;
            let (owner, group) = owners(&stat);
            Ok(rustix::fs::chownat(to, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        _ => Err(io::Error::other("the dependency tree has a device, pipe or socket in it")),
    }
}

/// Owner, mode without setuid, and times: Python compares its byte code with the source's time.
fn copy_metadata(stat: &rustix::fs::Stat, to: BorrowedFd<'_>) -> io::Result<()> {
    let (owner, group) = owners(stat);
    rustix::fs::fchown(to, owner, group)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    let times = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 },
    };
    Ok(rustix::fs::futimens(to, &times)?)
}

fn owners(stat: &rustix::fs::Stat) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (Some(rustix::fs::Uid::from_raw(stat.st_uid)), Some(rustix::fs::Gid::from_raw(stat.st_gid)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn a_tree_goes_round_and_shares_nothing_with_the_slug() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (slug, spare, build) =
            (folder.path().join("slug"), folder.path().join("spare"), folder.path().join("b"));
        let python = slug.join(".heroku/python");
        fs::create_dir_all(python.join("lib/x")).expect("mkdir");
        fs::create_dir(&build).expect("mkdir");
        fs::write(python.join("lib/x/a.py"), "a").expect("write");
        symlink("/etc", python.join("lib/etc")).expect("link");
        assert!(!keep(&slug, &spare).expect("no marker"), "a tree without a marker is not kept");
        assert!(!place(&spare, &build).expect("nothing there"));

        fs::write(python.join(MARKER), "{}").expect("write");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(keep(&slug, &spare).expect("keep, one after the other")));
            }
        });
        assert!(place(&spare, &build).expect("place"));
        let placed = build.join(PLACED).join(PYTHON);
        let (original, copy) = (python.join("lib/x/a.py"), placed.join("lib/x/a.py"));
        let (original, copy) = (fs::metadata(original).expect("there"), fs::metadata(copy).expect("there"));
        assert_ne!(original.ino(), copy.ino());
        assert_eq!((original.mtime(), original.mtime_nsec()), (copy.mtime(), copy.mtime_nsec()));
        assert_eq!(fs::read_link(placed.join("lib/etc")).expect("a link still"), Path::new("/etc"));
        take_back(&spare, &build).expect("take back");
        assert!(!build.join(PLACED).exists() && spare.join("tree/python").join(MARKER).exists());
        take_back(&spare, &build).expect("nothing to do");
    }

    #[test]
    fn trees_of_two_languages_and_what_a_build_left_are_kept_side_by_side() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (slug, spare, build) =
            (folder.path().join("slug"), folder.path().join("spare"), folder.path().join("b"));
        for path in [".heroku/python", "node_modules"] {
            fs::create_dir_all(slug.join(path)).expect("mkdir");
            fs::write(slug.join(path).join(MARKER), path).expect("write");
        }
        fs::create_dir_all(build.join(PLACED).join("left")).expect("mkdir");
        take_back(&spare, &build).expect("the first tree of all");
        assert!(keep(&slug, &spare).expect("keep"));
        assert!(place(&spare, &build).expect("place"));
        let mut names: Vec<_> = fs::read_dir(build.join(PLACED))
            .expect("list")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["left", NODE, PYTHON]);
    }

    #[test]
    fn links_that_an_app_planted_are_not_followed() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (slug, spare, build) =
            (folder.path().join("slug"), folder.path().join("spare"), folder.path().join("b"));
        let outside = folder.path().join("outside");
        for path in [&slug, &build, &outside.join("python")] {
            fs::create_dir_all(path).expect("mkdir");
        }
        fs::write(outside.join("python").join(MARKER), "{}").expect("write");
        symlink(&outside, slug.join(".heroku")).expect("link");
        assert!(!keep(&slug, &spare).expect("a link is no folder"));
        symlink(&outside, build.join(PLACED)).expect("link");
        take_back(&spare, &build).expect("removes the link");
        take_back(&spare, &build).expect("nothing to do");
        assert!(!build.join(PLACED).exists() && outside.join("python").exists());
    }
    #[test]
    fn a_tree_that_cannot_be_kept_goes() {
        let folder = tempfile::tempdir().expect("tempdir");
        let (spare, build) = (folder.path().join("spare"), folder.path().join("b"));
        let placed = build.join(PLACED);
        fs::create_dir_all(placed.join("sub")).expect("mkdir");
        // In the way of the folder.
        fs::write(&spare, "").expect("write");
        take_back(&spare, &build).expect("removed");
        assert!(!placed.exists() && build.exists());
    }
}
