//! Slugs that clients upload, and what of a slug is given back.
//!
//! In: a file of [`super::uploads`] that a client put to the link of an announced slug. Out: its tree at its digest and its
//! row, as if it had been built; or nothing, and why. Source: devcenter "Deploying Slugs using the Platform API".
//!
//! The archive is unpacked where builds are: in a build dyno, by `slug-compiler`, which does nothing else with it.
//!
//! Invariants:
//! - Nothing is unpacked before the archive's checksum was compared.
//! - The row of an announced slug becomes that of a slug in one transaction, once the tree is on disk. A crash before leaves
//!   folders, which the collector removes, and the link takes the archive again.

use super::Builds;
use super::archive::{Archive, Place};
use super::collect::pack_into;
use super::deploy::{ARCHIVE_JOB, Attempt, Code, Origin, blocking, chain};
use super::error::BuildError;
use super::promote::slugs_folder;
use crate::crash_point;
use crate::error::ApiError;
use crate::node::now_ms;
use axum::body::Body;
use ferroku_core::app::App;
use ferroku_core::event::Actor;
use ferroku_core::protocol::build::BuildOutcome;
use ferroku_core::slug::{Slug, SlugUpload};
use ferroku_store::{StoreError, events, jobs, slug_uploads, write};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use std::io::Write;
use std::path::PathBuf;
use tokio_util::io::{ReaderStream, SyncIoBridge};
use tokio_util::sync::CancellationToken;

/// Slugs that the node unpacks at a time; others wait. Each is promised a build's memory.
pub const MAX_UNPACKING: usize = 2;
/// What waits for a reader of an archive, in bytes.
const PIPE_BYTES: usize = 256 * 1024;

/// Makes a slug of the archive at `file`. Not to be dropped midway.
///
/// # Errors
/// The archive is another one than was announced, or none of a slug; the app is being built; there is no room.
pub async fn take(
    service: &Builds,
    app: App,
    actor: Actor,
    upload: SlugUpload,
    file: PathBuf,
) -> Result<Slug, BuildError> {
    let sha256 = digest_of(&file).await?;
    if upload.sha256.as_ref().is_some_and(|wanted| *wanted != sha256) {
        return Err(BuildError::Checksum { actual: sha256 });
    }
    let _one_of_few = service.0.unpacking.acquire().await;
    let _slot = service.git().pushes.hold(app.id).ok_or_else(|| {
        let why =
            "The app is being built, or a push to it is under way. Wait until that has ended, and try again.";
        BuildError::Refused(why.to_owned())
    })?;
    if let Some(why) = service.why_disk_is_used_up(&app).await {
        return Err(BuildError::Refused(why));
    }
    let archive = Archive { place: Place::Upload(file), sha256: None };
    let (attempt, cancel) = Attempt::new(service, app, actor, Code::default(), None).await;
    let taken = unpack(&attempt, &archive, upload, sha256, &cancel).await;
    attempt.end().await;
    // Best effort: the collector removes texts of builds that never were.
    let _ = tokio::fs::remove_file(service.output_path(attempt.build_id)).await;
    taken
}

async fn unpack(
    attempt: &Attempt,
    archive: &Archive,
    upload: SlugUpload,
    sha256: String,
    cancel: &CancellationToken,
) -> Result<Slug, BuildError> {
    let workspace = attempt.workspace(false).await?;
    let taken = async {
        let built = attempt.make(Origin::Slug(archive), &workspace, Vec::new(), cancel).await?;
        let _held = attempt.promote(&workspace, &built).await?;
        let size_bytes = i64::try_from(built.sealed.archive_bytes).unwrap_or(i64::MAX);
        let slug = upload.into_slug(sha256, built.sealed.digest.clone(), size_bytes);
        crash_point::hit("slug_upload.before_commit");
        commit(attempt, &slug).await?;
        crash_point::hit("slug_upload.committed");
        attempt.service.0.collect.notify_one();
        Ok(slug)
    }
    .await;
    attempt.clear(workspace);
    taken
}

async fn commit(attempt: &Attempt, slug: &Slug) -> Result<(), StoreError> {
    let (store, now) = (&attempt.service.parts().store, now_ms());
    write!(store, tx => {
        slug_uploads::complete(&mut tx, slug).await?;
        let message = Some(format!("Upload slug {}", slug.id));
        events::append(&mut tx, attempt.event("slug.upload", message), now).await?;
        jobs::create(&mut tx, ARCHIVE_JOB, Some(slug.app_id), &slug.digest, now).await?;
        Ok(())
    })
}

/// An upload's SHA-256 in lower-case hex.
///
/// # Errors
/// It is gone, or cannot be read.
pub async fn digest_of(file: &std::path::Path) -> Result<String, BuildError> {
    let file = file.to_owned();
    blocking(move || {
        super::digest_of(&file).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BuildError::NoUpload,
            _ => BuildError::io("read the uploaded archive")(error),
        })
    })
    .await
}

impl Builds {
    /// A slug's tree as an archive, tar with gzip and everything below `app/`; `None` when it is not there any more. One that
    /// breaks off has no end.
    pub fn slug_archive(&self, slug: &Slug) -> Option<Body> {
        let tree = slugs_folder(&self.0.data).join(&slug.digest);
        if slug.deleted_at.is_some() || !tree.is_dir() {
            return None;
        }
        let (reader, writer) = tokio::io::duplex(PIPE_BYTES);
        let writer = SyncIoBridge::new(writer);
        let (failed, failure) = tokio::sync::oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let packed = pack_into(GzEncoder::new(writer, Compression::fast()), &tree)
                .and_then(GzEncoder::finish)
                .and_then(|mut writer| writer.flush());
            let _ = failed.send(packed);
        });
        // What went wrong comes behind the last byte, so that it is no whole answer.
        let end = futures::stream::once(async move {
            failure
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error)))
                .map(|()| bytes::Bytes::new())
        });
        Some(Body::from_stream(futures::StreamExt::chain(ReaderStream::new(reader), end)))
    }
}

/// For whoever uploads a slug.
impl From<BuildError> for ApiError {
    fn from(error: BuildError) -> Self {
        if error.is_internal() {
            tracing::error!("cannot take a slug: {}", chain(&error));
        }
        let text = error.text();
        let words =
            text.lines().map(|line| line.trim_start_matches([' ', '!'])).collect::<Vec<_>>().join(" ");
        match error {
            BuildError::Store(error) => error.into(),
            BuildError::DiskFull => Self::disk_full(),
            BuildError::NoRoom(_) | BuildError::TimedOut => Self::unavailable(words),
            BuildError::Compile(outcome, why) if outcome != BuildOutcome::Internal => {
                Self::invalid_params(why)
            }
            BuildError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", words),
            BuildError::Cancelled => Self::conflict("The app is being destroyed."),
            error if error.is_internal() => Self::internal(error),
            _ => Self::invalid_params(words),
        }
    }
}
