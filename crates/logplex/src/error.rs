//! What can go wrong with log files.

use ferroku_core::AppId;
use std::path::PathBuf;
use thiserror::Error;

/// Shorthand.
pub type Result<T, E = LogplexError> = std::result::Result<T, E>;

/// Why log lines could not be written or read.
#[derive(Debug, Error)]
pub enum LogplexError {
    #[error("cannot make the log folder {path}; check that the data folder is writable")]
    MakeFolder { path: PathBuf, source: std::io::Error },
    #[error("the log folder {path} is in use by another server; stop it first")]
    InUse { path: PathBuf },
    #[error("cannot read the log folder {path}")]
    ReadFolder { path: PathBuf, source: std::io::Error },
    #[error("cannot open the log segment {path}")]
    OpenSegment { path: PathBuf, source: std::io::Error },
    #[error("cannot read the log segment {path}")]
    ReadSegment { path: PathBuf, source: std::io::Error },
    #[error("cannot write to the log segment {path}; is the disk full?")]
    WriteSegment { path: PathBuf, source: std::io::Error },
    #[error("cannot remove the log files in {path}")]
    Remove { path: PathBuf, source: std::io::Error },
    #[error("cannot start a thread for the log files")]
    StartThread { source: std::io::Error },
    #[error(
        "log lines are waiting in memory because they cannot be written; see the node's log for the cause"
    )]
    NotWritten,
    #[error("the logs of app {app_id} are gone: the app was destroyed")]
    Removed { app_id: AppId },
    #[error("there are already {limit} live tail sessions; close one and try again")]
    TooManyTails { limit: usize },
}
