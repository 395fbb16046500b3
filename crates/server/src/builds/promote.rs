//! Promotion: a sealed tree becomes `slugs/<digest>/`, for good.
//!
//! Invariants:
//! - A folder under its digest is whole and on disk: the file system is synced before the rename, and the rename
//!   before the release that names the slug is written. A crash at any point leaves either a build folder, which the
//!   next start removes, or a slug that nobody refers to, which the collector removes.
//! - A tree that is there already is never replaced, but for one that was found damaged ([`replace`]): its successor is on
//!   disk before, at no moment is there none, and dynos that run keep their files, because the damaged one stays beside it.

use crate::crash_point;
use rustix::fs::{CWD, RenameFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Where slugs are.
pub fn slugs_folder(data: &Path) -> PathBuf {
    data.join("slugs")
}

/// Starts writing what the build left to disk, while it is still being hashed. Blocks.
pub fn sync_ahead(tree: &Path) {
    // Only a head start: a failure shows again, and counts, in `promote`.
    if let Ok(folder) = File::open(tree) {
        let _ = rustix::fs::syncfs(&folder);
    }
}

/// Puts the sealed `tree` in the place of a damaged one. That stays as `<digest>.aside-<id>`, as long as rows have its
/// digest: dynos have it mounted. Blocks.
///
/// # Errors
/// The disk is full or broken; the damaged tree is still in its place.
pub fn replace(data: &Path, tree: &Path, digest: &str) -> io::Result<()> {
    let slugs = slugs_folder(data);
    let place = slugs.join(digest);
    if !place.exists() {
        return promote(data, tree, digest);
    }
    rustix::fs::syncfs(File::open(tree)?)?;
    // Beside it first: a crash after the exchange must not leave the old one where build folders are removed.
    let aside = slugs.join(format!("{digest}.aside-{}", uuid::Uuid::new_v4()));
    std::fs::rename(tree, &aside)?;
    rustix::fs::renameat_with(CWD, &aside, CWD, &place, RenameFlags::EXCHANGE)?;
    File::open(&slugs)?.sync_all()
}

/// Moves the sealed `tree` to its digest. Blocks.
///
/// # Errors
/// The disk is full or broken.
pub fn promote(data: &Path, tree: &Path, digest: &str) -> io::Result<()> {
    let slugs = slugs_folder(data);
    let place = slugs.join(digest);
    if place.is_dir() {
        return Ok(());
    }
    rustix::fs::syncfs(File::open(tree)?)?;
    crash_point::hit("slug.before_rename");
    match std::fs::rename(tree, &place) {
        Ok(()) => {}
        // The same slug of another app, promoted a moment ago.
        Err(error) if place.is_dir() => tracing::debug!("slug {digest} is there already: {error}"),
        Err(error) => return Err(error),
    }
    File::open(&slugs)?.sync_all()?;
    crash_point::hit("slug.renamed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_moves_once_and_is_never_replaced() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(slugs_folder(data.path())).expect("new");
        for content in ["first", "second"] {
            let tree = data.path().join(content);
            std::fs::create_dir(&tree).expect("new");
            std::fs::write(tree.join("file"), content).expect("written");
            promote(data.path(), &tree, "abc").expect("promoted");
        }
        let kept = std::fs::read_to_string(slugs_folder(data.path()).join("abc/file")).expect("there");
        assert_eq!(kept, "first");
        assert!(data.path().join("second").exists(), "the caller removes what was not needed");
    }

    #[test]
    fn a_damaged_tree_is_replaced_in_one_step_and_who_has_it_open_keeps_it() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(slugs_folder(data.path())).expect("new");
        let make = |content: &str| {
            let tree = data.path().join("tree");
            std::fs::create_dir(&tree).expect("new");
            std::fs::write(tree.join("file"), content).expect("written");
            tree
        };
        replace(data.path(), &make("damaged"), "abc").expect("there was none");
        let place = slugs_folder(data.path()).join("abc");
        // As a dyno has it mounted.
        let open = File::open(&place).expect("there");
        replace(data.path(), &make("whole"), "abc").expect("replaced");
        assert_eq!(std::fs::read_to_string(place.join("file")).expect("there"), "whole");
        let flags = rustix::fs::OFlags::RDONLY;
        let kept = rustix::fs::openat(&open, "file", flags, rustix::fs::Mode::empty()).expect("there");
        assert_eq!(io::read_to_string(File::from(kept)).expect("read"), "damaged");
        let names = std::fs::read_dir(slugs_folder(data.path())).expect("there");
        let mut names: Vec<_> = names.map(|one| one.expect("read").file_name()).collect();
        names.sort();
        assert!(names.len() == 2 && names[1].to_string_lossy().starts_with("abc.aside-"), "{names:?}");
    }

    #[test]
    fn a_tree_that_cannot_be_replaced_stays() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(slugs_folder(data.path()).join("abc/sub")).expect("new");
        replace(data.path(), &data.path().join("none"), "abc").expect_err("no successor");
        assert!(slugs_folder(data.path()).join("abc/sub").exists());
    }
}
