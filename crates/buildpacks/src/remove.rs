//! Removes folders in which an app may have made anything: as deep as it liked, with links anywhere, and perhaps still
//! writing there.
//!
//! Invariants: every step is relative to an open folder and follows no link; at most [`MAX_OPEN`] folders are open at once,
//! and no path has a length. What lies deeper is moved up first.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::time::Instant;

/// Folders that are open at once.
const MAX_OPEN: usize = 64;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cleared {
    All,
    /// Folders that were too deep are at the top now.
    MovedUp,
    OutOfTime,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// That the disk has more now: what has other names stays.
    pub bytes: u64,
    /// Nothing is left of it.
    pub is_whole: bool,
}

/// Removes a file, or a folder with all in it, until `deadline`. What is not there is removed.
///
/// # Errors
/// The first thing that cannot be removed.
pub fn remove_tree(path: &Path, deadline: Option<Instant>) -> io::Result<Removed> {
    let mut bytes = 0;
    let top = match rustix::fs::open(path, FOLDER, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(Removed { bytes, is_whole: true }),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            bytes = freed(&rustix::fs::lstat(path)?);
            std::fs::remove_file(path)?;
            return Ok(Removed { bytes, is_whole: true });
        }
        Err(error) => return Err(error.into()),
    };
    loop {
        match clear(top.as_fd(), top.as_fd(), 1, deadline, &mut bytes)? {
            Cleared::All => break,
            Cleared::MovedUp => {}
            Cleared::OutOfTime => return Ok(Removed { bytes, is_whole: false }),
        }
    }
    std::fs::remove_dir(path)?;
    Ok(Removed { bytes, is_whole: true })
}

fn clear(
    folder: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    open: usize,
    deadline: Option<Instant>,
    bytes: &mut u64,
) -> io::Result<Cleared> {
    let mut done = Cleared::All;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let status = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            status => status?,
        };
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
            *bytes += freed(&status);
        } else if open == MAX_OPEN {
            rustix::fs::renameat(folder, name, top, format!(".deep-{}", uuid::Uuid::new_v4()))?;
            done = Cleared::MovedUp;
        } else {
            let child = rustix::fs::openat(folder, name, FOLDER, Mode::empty())?;
            match clear(child.as_fd(), top, open + 1, deadline, bytes)? {
                Cleared::OutOfTime => return Ok(Cleared::OutOfTime),
                Cleared::MovedUp => done = Cleared::MovedUp,
                Cleared::All => {}
            }
            rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
            *bytes += freed(&status);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Cleared::OutOfTime);
        }
    }
    Ok(done)
}

/// Bytes on disk that go with this name.
fn freed(status: &Stat) -> u64 {
    let is_folder = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    if is_folder || status.st_nlink <= 1 { u64::try_from(status.st_blocks).unwrap_or(0) * 512 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    fn python(script: &str, folder: &Path) {
        let status = Command::new("python3").args(["-c", script]).current_dir(folder).status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    #[test]
    fn a_tree_as_deep_as_an_app_likes_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).expect("made");
        // Deeper than any stack or table of open files, and longer than any path.
        let nest = "import os\nfor i in range(20_000): os.mkdir('d'); os.chdir('d')\nopen('end', 'w').write('x' * 9000)";
        python(nest, &tree);
        python("import os\nfor _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)", &tree);
        let removed = remove_tree(&tree, None).expect("removed");
        assert!(removed.is_whole && removed.bytes >= 9_000, "{removed:?}");
        assert!(!tree.exists());
        assert_eq!(remove_tree(&tree, None).expect("nothing is there").bytes, 0);
    }

    #[test]
    fn no_link_is_followed_not_even_in_place_of_the_tree_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("kept"), "kept").expect("written");
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("sub")).expect("made");
        std::os::unix::fs::symlink(&outside, tree.join("sub/link")).expect("made");
        std::os::unix::fs::symlink(&outside, folder.path().join("root")).expect("made");
        assert!(remove_tree(&tree, None).expect("removed").is_whole);
        assert!(remove_tree(&folder.path().join("root"), None).expect("removed").is_whole);
        assert!(!folder.path().join("root").exists() && !tree.exists());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn what_there_is_no_time_for_stays_for_the_next_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).expect("made");
        for name in ["a", "b", "c"] {
            fs::write(tree.join(name), "x").expect("written");
        }
        assert!(!remove_tree(&tree, Some(Instant::now())).expect("began").is_whole);
        assert_eq!(fs::read_dir(&tree).expect("there").count(), 2);
        assert!(remove_tree(&tree, None).expect("removed").is_whole);
    }
}
