//! Why a build did not end in a release, and what the person who pushed is told.

use super::seal::SealError;
use super::text;
use crate::fetch::FetchError;
use crate::git::push::ArchiveError;
use ferroku_core::protocol::build::BuildOutcome;
use ferroku_core::room::Shortage;
use ferroku_runtime::RuntimeError;
use ferroku_store::StoreError;
use std::io;
use thiserror::Error;

/// A build failed.
#[derive(Debug, Error)]
pub enum BuildError {
    #[error("it was cancelled")]
    Cancelled,
    #[error("it took longer than 15 minutes")]
    TimedOut,
    /// With its reason in one line.
    #[error("the compiler said {0:?}")]
    Compile(BuildOutcome, String),
    #[error("it used more memory than a build dyno has")]
    OutOfMemory,
    #[error("the build dyno ended with status {0} and no result")]
    NoResult(i32),
    #[error("the build dyno could not be started: {0}")]
    NotStarted(String),
    #[error("a compressed slug of {0} bytes is over the limit")]
    TooLarge(u64),
    #[error("the node's disk is full")]
    DiskFull,
    #[error("the node has no room for a build: {0}")]
    NoRoom(Shortage),
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("the source archive cannot be fetched: {0}")]
    Fetch(#[source] FetchError),
    #[error("the upload is not there")]
    NoUpload,
    #[error("the archive has the checksum SHA256:{actual}")]
    Checksum { actual: String },
    #[error("the slug cannot be taken over")]
    Seal(#[source] SealError),
    #[error("the build dyno failed")]
    Runtime(#[from] RuntimeError),
    #[error("{0}")]
    Refused(String),
    #[error("the store failed")]
    Store(#[source] StoreError),
    #[error("cannot {action}")]
    Io { action: &'static str, source: io::Error },
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => Self::Refused(why),
            error if error.is_disk_full() => Self::DiskFull,
            error => Self::Store(error),
        }
    }
}

impl From<FetchError> for BuildError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::DiskFull => Self::DiskFull,
            FetchError::Io(source) => Self::io("write the source archive")(source),
            error => Self::Fetch(error),
        }
    }
}

impl From<Shortage> for BuildError {
    fn from(shortage: Shortage) -> Self {
        match shortage {
            Shortage::Disk => Self::DiskFull,
            shortage @ Shortage::Memory { .. } => Self::NoRoom(shortage),
        }
    }
}

impl BuildError {
    /// For `map_err`: names the step; a full disk is told apart.
    pub fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| if is_disk_full(&source) { Self::DiskFull } else { Self::Io { action, source } }
    }

    /// What the person who pushed reads; empty where the compiler has said it already, or nobody listens.
    pub fn text(&self) -> String {
        let say = |text: &str| format!(" !     {text}\n");
        match self {
            Self::Cancelled | Self::Archive(ArchiveError::Gone) => String::new(),
            Self::Compile(outcome, _) if *outcome != BuildOutcome::Internal => String::new(),
            Self::TimedOut => say("The build took longer than the limit of 15 minutes and was stopped."),
            Self::OutOfMemory => {
                say("The build used more memory than a build dyno has (2.5 GB) and was stopped.")
            }
            Self::TooLarge(bytes) => text::slug_too_large(*bytes),
            Self::DiskFull => say(
                "The node's disk is full. Nothing was changed; free some space on the node and deploy again.",
            ),
            Self::NoRoom(shortage) => say(&format!(
                "The node has no room for a build: {shortage}. Nothing was changed; deploy again when less runs.",
            )),
            Self::Archive(error) => match error {
                ArchiveError::Io(source) if is_disk_full(source) => Self::DiskFull.text(),
                error => say(&format!("The source cannot be read: {error}.")),
            },
            Self::Fetch(error) => say(&format!("The source archive cannot be fetched: {error}.")),
            Self::NoUpload => say(
                "The source archive is not there: nothing was uploaded to its put_url, or longer than two hours ago.",
            ),
            Self::Checksum { actual } => say(&format!(
                "The source archive is not the one that was meant: its checksum is SHA256:{actual}.",
            )),
            Self::Seal(error) => match error {
                SealError::Io { source, .. } if is_disk_full(source) => Self::DiskFull.text(),
                error => say(&format!("The slug cannot be taken over: {error}.")),
            },
            Self::Refused(why) => say(why),
            Self::Settings(message) => say(&format!("The node's build settings are wrong: {message}.")),
            Self::NoResult(status) => {
                say(&format!("The build ended early, with status {status}; the text above may say why."))
            }
            Self::Compile(..) | Self::NotStarted(_) | Self::Runtime(_) | Self::Store(_) | Self::Io { .. } => {
                say("The node could not build this app; its log says why. Nothing was changed.")
            }
        }
    }

    /// Whether it is the node's own fault and belongs into its log.
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::NotStarted(_)
                | Self::Runtime(_)
                | Self::Store(_)
                | Self::Io { .. }
                | Self::Settings(_)
                | Self::DiskFull
        ) || matches!(self, Self::Compile(BuildOutcome::Internal, _))
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
