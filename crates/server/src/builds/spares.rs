//! Spare trees: the dependencies of an app's last release, copied and ready to be renamed into its next build.
//!
//! Copying thousands of small files takes seconds; doing it after a release, instead of in the next push, takes them off
//! the push's path. What a spare tree is, and whether a build may use it, the buildpack decides
//! ([`ferroku_buildpacks::spare`]); here is only when, and where: `DIR/spares/<app>`, which no dyno sees.
//!
//! A build without a spare tree is slower, never wrong: failures are logged and the build goes on.

use super::promote::slugs_folder;
use ferroku_buildpacks::spare;
use ferroku_core::AppId;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long after a release its dependencies are copied, so that its dynos boot first.
const SETTLE: Duration = Duration::from_secs(5);

/// Where an app's spare tree is.
pub fn folder(data: &Path, app_id: AppId) -> PathBuf {
    data.join("spares").join(app_id.to_string())
}

/// Moves the app's spare tree, if it has one, into its new build folder.
pub fn place(data: &Path, app_id: AppId, build_folder: &Path) {
    if let Err(error) = spare::place(&folder(data, app_id), build_folder) {
        tracing::warn!("app {app_id} is built without its spare tree: {error}");
    }
}

/// Takes a spare tree that the build did not use out of its folder again.
///
/// # Errors
/// It is still there: the folder must not become a slug.
pub fn take_back(data: &Path, app_id: AppId, build_folder: &Path) -> io::Result<()> {
    spare::take_back(&folder(data, app_id), build_folder)
}

/// Some seconds from now, copies the dependencies of the slug with this digest.
pub fn keep_later(data: &Path, app_id: AppId, digest: &str) {
    let (slug, spares) = (slugs_folder(data).join(digest), folder(data, app_id));
    tokio::spawn(async move {
        tokio::time::sleep(SETTLE).await;
        let kept = tokio::task::spawn_blocking(move || spare::keep(&slug, &spares)).await;
        if let Err(error) = kept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!("no spare tree is kept for app {app_id}: {error}");
        }
    });
}
