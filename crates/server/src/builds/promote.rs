//! Promotion: a sealed tree becomes `slugs/<digest>/`, for good.
//!
//! Invariants:
//! - A folder under its digest is whole and on disk: the file system is synced before the rename, and the rename
//!   before the release that names the slug is written. A crash at any point leaves either a build folder, which the
//!   next start removes, or a slug that nobody refers to, which the collector removes.
//! - A tree that is there already is never replaced, but for one that was found damaged ([`put_aside`]).

use crate::crash_point;
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

/// Takes a damaged tree from its digest; the collector removes it. Dynos that run have it mounted and keep it. Blocks.
///
/// # Errors
/// The disk is broken.
pub fn put_aside(data: &Path, digest: &str) -> io::Result<()> {
    let trash = data.join("trash");
    std::fs::create_dir_all(&trash)?;
    match std::fs::rename(
        slugs_folder(data).join(digest),
        trash.join(format!("slugs.{}", uuid::Uuid::new_v4())),
    ) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
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
}
