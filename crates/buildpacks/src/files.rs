//! Deleting and copying what an app's own code may have put there: of any kind, without following links.

use crate::error::BuildError;
use std::path::Path;
use std::{fs, io};
use walkdir::{DirEntry, WalkDir};

/// Deletes a file, a link, or a folder with all that is in it; nothing there is no error.
///
/// # Errors
/// It is there and cannot be deleted.
pub fn delete(path: &Path) -> Result<(), BuildError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BuildError::io("delete", path, error)),
        _ => Ok(()),
    }
}

/// Copies the folder `from` to `to`, links as links, without what `keep` does not want.
///
/// # Errors
/// Something cannot be read or written.
pub fn copy_tree(from: &Path, to: &Path, keep: impl Fn(&DirEntry) -> bool) -> Result<(), BuildError> {
    for entry in WalkDir::new(from).into_iter().filter_entry(keep) {
        let entry = entry.map_err(|error| BuildError::io("read", from, error.into()))?;
        let target = to.join(entry.path().strip_prefix(from).unwrap_or(entry.path()));
        let kind = entry.file_type();
        let copied = if kind.is_dir() {
            fs::create_dir_all(&target)
        } else if kind.is_symlink() {
            fs::read_link(entry.path()).and_then(|link| std::os::unix::fs::symlink(link, &target))
        } else {
            fs::copy(entry.path(), &target).map(|_| ())
        };
        copied.map_err(|error| BuildError::io("copy to", &target, error))?;
    }
    Ok(())
}

/// Links `link` to `target`, in place of whatever was there.
///
/// # Errors
/// It cannot be made.
pub fn link(target: &Path, link: &Path) -> Result<(), BuildError> {
    delete(link)?;
    std::os::unix::fs::symlink(target, link).map_err(|error| BuildError::io("link", link, error))
}

/// Makes a folder and those above it.
///
/// # Errors
/// It cannot be made.
pub fn create_folder(path: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(path).map_err(|error| BuildError::io("create", path, error))
}
