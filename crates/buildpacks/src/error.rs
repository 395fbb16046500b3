//! Why a build fails, and what is told to the person who pushed.

use crate::golang::error::GoError;
use crate::nodejs::error::NodeError;
use crate::python::error::PythonError;
use crate::static_site::StaticError;
use ferroku_core::procfile::ProcfileError;
use ferroku_core::protocol::build::BuildOutcome;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a build failed. `Display` is the text for the user, of one or more lines.
#[derive(Debug, Error)]
pub enum BuildError {
    #[error("Cannot {action} {}: {source}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("The build plan {} cannot be read: {source}", .path.display())]
    Plan { path: PathBuf, source: serde_json::Error },
    #[error(
        "The disk is full{detail}.\n\nThe build was given up; the app's current release is not touched. Free disk space on the node, remove\nlarge files from the app (.slugignore), or clear its build cache, and push again."
    )]
    DiskFull { detail: String },
    #[error("The source archive cannot be unpacked: {0}")]
    Source(String),
    #[error("Pattern {line} of .slugignore cannot be read: {reason}\n\nWrite it as in a .gitignore file.")]
    Slugignore { line: usize, reason: String },
    #[error("{0}")]
    Procfile(#[from] ProcfileError),
    #[error(
        "No default language could be detected for this app.\n\t\t\tHINT: This occurs when Ferroku cannot detect the buildpack to use for this application automatically.\n\t\t\t{hint}"
    )]
    NoLanguage { hint: String },
    #[error(
        "Error: There is no buildpack named '{name}' on this node.\n\nBuilt in: {built_in}.\nAny other buildpack is set by its address, such as\n\n    heroku buildpacks:set https://github.com/OWNER/REPOSITORY.git"
    )]
    UnknownBuildpack { name: String, built_in: String },
    #[error(
        "Error: The buildpack {url} could not be fetched.\n\n{reason}\n\nCheck the address with: heroku buildpacks"
    )]
    FetchBuildpack { url: String, reason: String },
    /// Told by its own lines, not by this text.
    #[error("App not compatible with buildpack: {url}")]
    Incompatible { url: String, help: Vec<String> },
    #[error("{0}")]
    Go(#[from] GoError),
    #[error("{0}")]
    Node(#[from] NodeError),
    #[error("{0}")]
    Python(#[from] PythonError),
    #[error("{0}")]
    Static(#[from] StaticError),
    #[error("Error: {step} of {url} failed: {reason}")]
    Classic { url: String, step: &'static str, reason: String },
}

impl BuildError {
    /// An I/O step that failed; a full disk becomes its own error.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match is_disk_full(&source) {
            true => Self::DiskFull { detail: format!(": cannot {action} {}", path.display()) },
            false => Self::Io { action, path: path.to_owned(), source },
        }
    }

    #[must_use]
    pub fn outcome(&self) -> BuildOutcome {
        match self {
            Self::Io { .. } | Self::Plan { .. } => BuildOutcome::Internal,
            Self::DiskFull { .. } => BuildOutcome::DiskFull,
            Self::Source(_) | Self::Slugignore { .. } => BuildOutcome::SourceInvalid,
            Self::Procfile(_) => BuildOutcome::ProcfileInvalid,
            Self::NoLanguage { .. } => BuildOutcome::NoLanguageDetected,
            Self::UnknownBuildpack { .. } | Self::FetchBuildpack { .. } => BuildOutcome::BuildpackUnavailable,
            Self::Incompatible { .. } => BuildOutcome::DetectFailed,
            Self::Go(_) | Self::Node(_) | Self::Python(_) | Self::Static(_) | Self::Classic { .. } => {
                BuildOutcome::CompileFailed
            }
        }
    }
}

/// Whether an I/O error means that there is no room: the disk is full, or a quota is used up.
#[must_use]
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the file system of `path` has (almost) no room left: tells why a program failed that only said "failed".
#[must_use]
pub fn has_no_room(path: &Path) -> bool {
    /// Less than this many bytes free means that a write of ordinary size has failed.
    const ROOM_BYTES: u64 = 64 * 1024;
    rustix::fs::statvfs(path).is_ok_and(|stat| {
        stat.f_bavail * stat.f_frsize < ROOM_BYTES || (stat.f_files > 0 && stat.f_favail == 0)
    })
}
