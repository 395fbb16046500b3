//! Deleting what may or may not be there, of any kind, without following links.

use crate::error::BuildError;
use std::path::Path;
use std::{fs, io};

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
