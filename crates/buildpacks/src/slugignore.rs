//! `.slugignore`: files of the repository that are no part of the app.
//!
//! Patterns as in `.gitignore`; what matches is deleted before any buildpack sees it. `.git` is deleted always.

use crate::error::BuildError;
use crate::files::delete;
use crate::spare;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::fs;
use std::io;
use std::path::Path;
use walkdir::WalkDir;

/// Largest `.slugignore`, in bytes.
const MAX_SLUGIGNORE_BYTES: u64 = 1024 * 1024;

/// Deletes what matches below `directory`. Gives the number of files deleted, or `None` if there is no `.slugignore`.
///
/// # Errors
/// A pattern cannot be read, or a file cannot be deleted.
pub fn apply(directory: &Path) -> Result<Option<usize>, BuildError> {
    delete(&directory.join(".git"))?;
    let path = directory.join(".slugignore");
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_SLUGIGNORE_BYTES => {}
        Ok(_) => {
            return Err(BuildError::Slugignore {
                line: 1,
                reason: "it is not a file of at most 1 MB".to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BuildError::io("read", &path, error)),
    }
    let bytes = fs::read(&path).map_err(|error| BuildError::io("read", &path, error))?;
    let matcher = matcher(directory, &String::from_utf8_lossy(&bytes))?;
    let mut deleted = 0;
    let mut walk = WalkDir::new(directory).min_depth(1).follow_links(false).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| BuildError::io("list", directory, error.into()))?;
        let relative = entry.path().strip_prefix(directory).unwrap_or(entry.path());
        let is_folder = entry.file_type().is_dir();
        if relative == Path::new(spare::PLACED) {
            walk.skip_current_dir();
            continue;
        }
        if !matcher.matched(relative, is_folder).is_ignore() {
            continue;
        }
        if is_folder {
            deleted +=
                WalkDir::new(entry.path()).into_iter().flatten().filter(|e| !e.file_type().is_dir()).count();
            walk.skip_current_dir();
        } else {
            deleted += 1;
        }
        delete(entry.path())?;
    }
    Ok(Some(deleted))
}

fn matcher(directory: &Path, text: &str) -> Result<Gitignore, BuildError> {
    let mut builder = GitignoreBuilder::new(directory);
    for (index, line) in text.lines().enumerate() {
        builder
            .add_line(None, line)
            .map_err(|error| BuildError::Slugignore { line: index + 1, reason: error.to_string() })?;
    }
    builder.build().map_err(|error| BuildError::Slugignore { line: 0, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes `files`, applies `ignore`, and expects exactly `left` and the number of `deleted` files.
    fn check(ignore: &str, files: &[&str], left: &[&str], deleted: usize) {
        let folder = tempfile::tempdir().expect("tempdir");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            fs::write(path, "x").expect("write");
        }
        fs::write(folder.path().join(".slugignore"), ignore).expect("write");
        assert_eq!(apply(folder.path()).expect("apply"), Some(deleted), "{ignore:?}");
        let mut found: Vec<String> = WalkDir::new(folder.path())
            .into_iter()
            .map(|entry| entry.expect("list"))
            .filter(|entry| entry.file_type().is_file() && entry.file_name() != ".slugignore")
            .map(|entry| entry.path().strip_prefix(folder.path()).expect("below").display().to_string())
            .collect();
        found.sort();
        assert_eq!(found, left, "{ignore:?}");
    }

    #[test]
    fn deletes_what_gitignore_patterns_name() {
        let files = ["Procfile", "docs/a.md", "docs/keep.txt", "src/docs/b.md", "test.psd", "x/y.psd"];
        check("", &files, &files, 0);
        check(
            "# comment\n\n*.psd\r\n",
            &files,
            &["Procfile", "docs/a.md", "docs/keep.txt", "src/docs/b.md"],
            2,
        );
        check("/docs\n", &files, &["Procfile", "src/docs/b.md", "test.psd", "x/y.psd"], 2);
        check("docs/\n", &files, &["Procfile", "test.psd", "x/y.psd"], 3);
        check(
            "docs/*\n!docs/keep.txt\n",
            &files,
            &["Procfile", "docs/keep.txt", "src/docs/b.md", "test.psd", "x/y.psd"],
            1,
        );
    }

    #[test]
    fn a_link_is_deleted_and_what_it_points_to_is_not() {
        let folder = tempfile::tempdir().expect("tempdir");
        let outside = tempfile::tempdir().expect("tempdir");
        fs::write(outside.path().join("kept"), "x").expect("write");
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).expect("link");
        std::os::unix::fs::symlink(outside.path(), folder.path().join(".git")).expect("link");
        fs::write(folder.path().join(".slugignore"), "link\n").expect("write");
        assert_eq!(apply(folder.path()).expect("apply"), Some(1));
        assert!(outside.path().join("kept").exists() && !folder.path().join(".git").exists());
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_named_by_its_line() {
        let folder = tempfile::tempdir().expect("tempdir");
        fs::write(folder.path().join(".slugignore"), "ok\na{b\n").expect("write");
        let error = apply(folder.path()).expect_err("unclosed").to_string();
        assert!(error.starts_with("Pattern 2 of .slugignore cannot be read"), "{error}");
    }
}
