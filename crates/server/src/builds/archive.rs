//! Builds of source archives: where an archive is, getting it, and a build that goes on by itself.
//!
//! Invariant: nothing of an archive is unpacked before its checksum, where the client gave one, was compared.

use super::deploy::{Attempt, Code, Origin, blocking};
use super::error::BuildError;
use super::{Builds, text};
use crate::fetch::Fetcher;
use crate::git::push::MAX_ARCHIVE_BYTES;
use ferroku_core::app::App;
use ferroku_core::build::{Build, BuildSource};
use ferroku_core::event::Actor;
use ferroku_store::StoreError;
use reqwest::Url;
use std::path::{Path, PathBuf};

/// A source archive: tar, plain or gzip.
#[derive(Debug, Clone)]
pub struct Archive {
    pub place: Place,
    /// Lower-case hex: what it must have.
    pub sha256: Option<String>,
}

#[derive(Debug, Clone)]
pub enum Place {
    /// A file of [`super::uploads`].
    Upload(PathBuf),
    Url(Url),
}

/// A build of an archive, as it is asked for.
#[derive(Debug)]
pub struct ArchiveBuild {
    pub app: App,
    pub actor: Actor,
    pub archive: Archive,
    /// In place of the app's own, for this build.
    pub buildpacks: Option<Vec<String>>,
    pub version: Option<String>,
    /// What the build's row says of the source.
    pub source: BuildSource,
}

impl Archive {
    /// Puts the archive at `place`.
    ///
    /// # Errors
    /// It cannot be had, or is another one.
    pub async fn fetch(&self, fetcher: &Fetcher, place: &Path) -> Result<(), BuildError> {
        let actual = match &self.place {
            Place::Upload(file) => take_upload(file, place, self.sha256.is_some()).await?,
            Place::Url(url) => Some(fetcher.download(url, place, MAX_ARCHIVE_BYTES).await?.sha256),
        };
        match (&self.sha256, actual) {
            (Some(wanted), Some(actual)) if *wanted != actual => Err(BuildError::Checksum { actual }),
            _ => Ok(()),
        }
    }
}

/// Begins the build of an archive, which then goes on by itself; gives the build as it begins. Not to be dropped midway.
///
/// # Errors
/// [`StoreError::Refused`] when the app is being built already or may not be built; the store failed. There is no build.
pub async fn start(service: &Builds, request: ArchiveBuild) -> Result<Build, StoreError> {
    let ArchiveBuild { app, actor, archive, buildpacks, version, source } = request;
    let slot = service.git().pushes.hold(app.id).ok_or_else(|| {
        let why =
            "The app is being built, or a push to it is under way. Wait until that has ended, and try again.";
        StoreError::Refused(why.to_owned())
    })?;
    if let Some(why) = service.why_disk_is_used_up(&app).await {
        return Err(StoreError::Refused(why));
    }
    let code =
        Code { version, description: source.version_description.clone(), source: Some(source), buildpacks };
    let (attempt, cancel) = Attempt::new(service, app, actor, code, None).await;
    let build = match attempt.begin().await {
        Ok(build) => build,
        Err(error) => {
            attempt.end().await;
            // Best effort: the collector removes texts of builds that never were.
            let _ = tokio::fs::remove_file(service.output_path(attempt.build_id)).await;
            return Err(error);
        }
    };
    let buildpacks = build.buildpacks.clone();
    tokio::spawn(async move {
        let _slot = slot;
        match attempt.run(Origin::Archive(&archive), buildpacks, &cancel).await {
            Ok(release) => attempt.succeed(&release).await,
            Err(error) => {
                attempt.fail(&error).await;
                attempt.output.write(text::FAILED).await;
            }
        }
        attempt.end().await;
    });
    Ok(build)
}

/// Takes an uploaded file over; gives its digest when it is asked for.
async fn take_upload(file: &Path, place: &Path, digest: bool) -> Result<Option<String>, BuildError> {
    let (file, place) = (file.to_owned(), place.to_owned());
    blocking(move || {
        let fail = BuildError::io("take the uploaded archive over");
        match std::fs::hard_link(&file, &place) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(BuildError::NoUpload),
            linked => linked.map_err(fail)?,
        }
        if !digest {
            return Ok(None);
        }
        let fail = BuildError::io("read the uploaded archive");
        super::digest_of(&place).map(Some).map_err(fail)
    })
    .await
}
