//! Source archives that clients upload before they have them built: `DIR/sources/<account-id>/<source-id>`.
//!
//! A client asks for a source and gets two links, one that takes the archive and one that gives it back. A link names one
//! file of one account, is sealed with the node's key, and is good for an hour: whoever has it needs nothing else. Slugs
//! that clients upload ([`super::slugs`]) pass through here as well.
//!
//! Invariants:
//! - A file has its name only when all of it has come; one that breaks off leaves nothing. A build that has begun keeps
//!   its own link to the file, whatever becomes of the name.
//! - An account has [`MAX_ACCOUNT_BYTES`] here at most, and what is older than [`LIFETIME`] is removed, used or not.

use crate::git::disk_is_full;
use axum::body::Body;
use ferroku_core::{AccountId, AuthorizationId, Millis, SourceId};
use ferroku_store::MasterKey;
use futures::StreamExt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// How long a link is good, in milliseconds: as Heroku's.
pub const LINK_LIFETIME_MS: Millis = 3_600_000;
/// How long an archive stays after it has come: as long as its link may have been good for the one who reads it last.
pub const LIFETIME: Duration = Duration::from_secs(2 * 3_600);
/// Largest upload, in bytes: as the archive of a push.
pub const MAX_UPLOAD_BYTES: u64 = crate::git::push::MAX_ARCHIVE_BYTES;
/// What the uploads of one account come to at most, in bytes: three of the largest.
pub const MAX_ACCOUNT_BYTES: u64 = 3 * MAX_UPLOAD_BYTES;
/// Most uploads of one account at a time: an empty file takes room on the disk, too.
const MAX_ACCOUNT_FILES: usize = 500;
/// Room is looked at whenever so many more bytes have come.
const CHECK_BYTES: u64 = 8 * 1024 * 1024;
/// An upload may stand still for so long: as a request to an app (H28).
const STALL_TIMEOUT: Duration = Duration::from_secs(55);
/// What files are called that have not come whole.
const PARTIAL: &str = ".partial";

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Put,
    Get,
    /// Of a slug, whose id is in the place of the source's.
    PutSlug,
    GetSlug,
}

/// What a link says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub source_id: SourceId,
    pub account_id: AccountId,
    /// Which asked for the link.
    pub authorization_id: AuthorizationId,
    pub until: Millis,
}

/// An upload was not taken.
#[derive(Debug, Error)]
pub enum UploadError {
    #[error("The archive is larger than {} MB. Leave large files out of it.", MAX_UPLOAD_BYTES >> 20)]
    TooLarge,
    #[error("Nothing was uploaded: send the tar archive as the request's body.")]
    Empty,
    #[error(
        "Your uploads take more than {} MB together. They are removed two hours after they came; try again then.",
        MAX_ACCOUNT_BYTES >> 20
    )]
    UsedUp,
    #[error("{0}")]
    DiskFull(String),
    #[error("The upload broke off before it was complete. Send it again.")]
    BrokenOff,
    #[error("cannot keep the upload")]
    Io(#[from] io::Error),
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "source/put/1",
            Self::Get => "source/get/1",
            Self::PutSlug => "slug/put/1",
            Self::GetSlug => "slug/get/1",
        }
    }
}

impl Grant {
    /// The token of a link for this.
    pub fn seal(&self, key: &MasterKey, action: Action) -> String {
        let Self { source_id, account_id, authorization_id, until } = self;
        let text = format!("{source_id} {account_id} {authorization_id} {until}");
        key.seal(action.name(), text.as_bytes())
    }

    /// What a token of a link for `action` to `source_id` says; None when it is not ours, for something else, or too old.
    pub fn open(
        key: &MasterKey,
        action: Action,
        source_id: SourceId,
        token: &str,
        now: Millis,
    ) -> Option<Self> {
        let text = key.unseal(action.name(), token).ok()?;
        let mut words = std::str::from_utf8(&text).ok()?.split(' ');
        let grant = Self {
            source_id: words.next()?.parse().ok()?,
            account_id: words.next()?.parse().ok()?,
            authorization_id: words.next()?.parse().ok()?,
            until: words.next()?.parse().ok()?,
        };
        (grant.source_id == source_id && now < grant.until).then_some(grant)
    }
}

/// The uploads of a node.
#[derive(Debug, Clone)]
pub struct Uploads {
    folder: PathBuf,
}

/// A file that is removed unless it comes whole.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

impl Uploads {
    /// Those of the data folder `data`.
    pub fn new(data: &Path) -> Self {
        Self { folder: data.join("sources") }
    }

    /// Where the archive is, or will be.
    pub fn place(&self, grant: &Grant) -> PathBuf {
        self.folder.join(grant.account_id.to_string()).join(grant.source_id.to_string())
    }

    /// Takes an archive, in place of one that came before by the same link. Gives its size in bytes.
    ///
    /// # Errors
    /// It is too large, breaks off, or there is no room.
    pub async fn receive(&self, grant: &Grant, body: Body) -> Result<u64, UploadError> {
        let place = self.place(grant);
        let folder = place.parent().expect("each account has its folder");
        std::fs::create_dir_all(folder)?;
        // Only root passes; the archive itself is then read by builds, which see nothing else of this.
        std::fs::set_permissions(&self.folder, PermissionsExt::from_mode(0o700))?;
        let partial = Partial(place.with_extension(format!("{}{PARTIAL}", uuid::Uuid::new_v4())));
        let mut file = tokio::fs::File::create_new(&partial.0).await?;
        self.check(folder)?;
        let (mut bytes, mut checked) = (0u64, 0u64);
        let mut pieces = body.into_data_stream();
        loop {
            let piece = timeout(STALL_TIMEOUT, pieces.next()).await.map_err(|_| UploadError::BrokenOff)?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|_| UploadError::BrokenOff)?;
            bytes += piece.len() as u64;
            if bytes > MAX_UPLOAD_BYTES {
                return Err(UploadError::TooLarge);
            }
            file.write_all(&piece).await?;
            if bytes >= checked + CHECK_BYTES {
                checked = bytes;
                file.flush().await?;
                self.check(folder)?;
            }
        }
        file.flush().await?;
        self.check(folder)?;
        if bytes == 0 {
            return Err(UploadError::Empty);
        }
        std::fs::set_permissions(&partial.0, PermissionsExt::from_mode(0o644))?;
        std::fs::rename(&partial.0, &place)?;
        Ok(bytes)
    }

    /// Refuses when the account has too much, or the node too little.
    fn check(&self, folder: &Path) -> Result<(), UploadError> {
        let (mut bytes, mut files) = (0, 0);
        for entry in std::fs::read_dir(folder)? {
            // One that has gone meanwhile takes nothing.
            bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
            files += 1;
        }
        if bytes > MAX_ACCOUNT_BYTES || files > MAX_ACCOUNT_FILES {
            return Err(UploadError::UsedUp);
        }
        disk_is_full(folder).map_or(Ok(()), |why| Err(UploadError::DiskFull(why)))
    }

    /// Removes what came before `before`; with `partial`, also all that has not come whole: to be said at the node's
    /// start, when nothing is on its way.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove_old(&self, before: SystemTime, partial: bool) -> io::Result<()> {
        let folders = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            folders => folders?,
        };
        for folder in folders {
            let folder = folder?.path();
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let is_old =
                    entry.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|at| at < before);
                let is_partial = entry.file_name().to_string_lossy().ends_with(PARTIAL);
                if is_old || (partial && is_partial) {
                    std::fs::remove_file(entry.path())?;
                }
            }
            // It stays while there is something in it.
            let _ = std::fs::remove_dir(&folder);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn grant() -> Grant {
        Grant {
            source_id: SourceId(Uuid::from_u128(1)),
            account_id: AccountId(Uuid::from_u128(2)),
            authorization_id: AuthorizationId(Uuid::from_u128(4)),
            until: 100,
        }
    }

    #[test]
    fn a_link_is_for_one_thing_and_for_a_while() {
        let (key, other) = (MasterKey::new("k", [1; 32]), MasterKey::new("k", [2; 32]));
        let (grant, id) = (grant(), grant().source_id);
        let token = grant.seal(&key, Action::Put);
        assert_eq!(Grant::open(&key, Action::Put, id, &token, 99), Some(grant));
        assert_eq!(Grant::open(&key, Action::Put, id, &token, 100), None, "too old");
        for action in [Action::Get, Action::PutSlug, Action::GetSlug] {
            assert_eq!(Grant::open(&key, action, id, &token, 99), None, "for something else");
        }
        assert_eq!(Grant::open(&key, Action::Put, SourceId(Uuid::from_u128(3)), &token, 99), None, "another");
        assert_eq!(Grant::open(&other, Action::Put, id, &token, 99), None, "another node's");
        assert_eq!(Grant::open(&key, Action::Put, id, "", 99), None);
    }

    #[tokio::test]
    async fn an_upload_comes_whole_or_not_at_all_and_goes_when_it_is_old() {
        let data = tempfile::tempdir().expect("a folder");
        let uploads = Uploads::new(data.path());
        let place = uploads.place(&grant());
        for content in ["first", "second"] {
            assert_eq!(
                uploads.receive(&grant(), Body::from(content)).await.expect("taken"),
                content.len() as u64
            );
            assert_eq!(std::fs::read_to_string(&place).expect("there"), content);
        }
        let broken = futures::stream::iter([Ok("x"), Err(io::Error::other("gone"))]);
        let refused = uploads.receive(&grant(), Body::from_stream(broken)).await;
        assert!(matches!(refused, Err(UploadError::BrokenOff)));
        assert!(matches!(uploads.receive(&grant(), Body::empty()).await, Err(UploadError::Empty)));
        let folder = place.parent().expect("a folder").to_owned();
        let names = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
        assert_eq!((names(), std::fs::read_to_string(&place).expect("there")), (1, "second".to_owned()));

        let large = std::fs::File::create(folder.join("large")).expect("new");
        large.set_len(MAX_ACCOUNT_BYTES).expect("sparse");
        assert!(matches!(uploads.receive(&grant(), Body::from("x")).await, Err(UploadError::UsedUp)));
        std::fs::remove_file(folder.join("large")).expect("there");

        std::fs::write(folder.join(format!("x{PARTIAL}")), "half").expect("written");
        uploads.remove_old(SystemTime::UNIX_EPOCH, false).expect("nothing is so old");
        assert_eq!(names(), 2);
        uploads.remove_old(SystemTime::UNIX_EPOCH, true).expect("removed");
        assert_eq!(names(), 1, "a start removes what has not come whole");
        uploads.remove_old(SystemTime::now() + Duration::from_secs(9), false).expect("removed");
        assert!(!folder.exists());
    }
}
