//! Git's own garbage: commits that a forced push left behind, and packs that one pack would hold.
//!
//! Run beside the collector's rounds, a few repositories each time, those that nobody pushes to.

use super::Builds;
use crate::git::repository::Packing;
use ferroku_core::AppId;
use ferroku_store::apps;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A repository to which something was added within so long is left alone.
const QUIET: Duration = Duration::from_secs(60 * 60);
/// What nothing refers to goes when it is so old.
const UNREACHABLE: Duration = Duration::from_secs(24 * 60 * 60);
/// A repository is packed at most so often, also when that did not help.
const AGAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Repositories packed in a round.
const MAX_PACKED: usize = 20;
/// No other one is begun in a round after this.
const ROUND: Duration = Duration::from_secs(60);

/// When each repository was packed last by this process.
#[derive(Debug, Default)]
pub struct Packed(Mutex<HashMap<AppId, Instant>>);

/// Packs repositories that would gain by it. What fails is logged and tried again a day later.
pub async fn pack(service: &Builds) {
    let repositories = &service.0.git.repositories;
    let since = |app_id: AppId| service.0.packed.lock().get(&app_id).map(Instant::elapsed);
    let finder = repositories.clone();
    let found = tokio::task::spawn_blocking(move || {
        let apps = finder.apps().into_iter();
        apps.filter(|app_id| finder.wants_packing(*app_id, QUIET, UNREACHABLE)).collect::<Vec<_>>()
    });
    let wanted = found.await.unwrap_or_default();
    let due = wanted.into_iter().filter(|app_id| since(*app_id).is_none_or(|since| since >= AGAIN));
    let begun = Instant::now();
    for app_id in due.take(MAX_PACKED) {
        if begun.elapsed() >= ROUND {
            return;
        }
        // Again, because the one before may have taken minutes: somebody may push to this one by now.
        let finder = repositories.clone();
        let look = move || finder.wants_packing(app_id, QUIET, UNREACHABLE);
        if !tokio::task::spawn_blocking(look).await.unwrap_or(false) {
            continue;
        }
        service.0.packed.lock().insert(app_id, Instant::now());
        if let Err(error) = repositories.collect_garbage(app_id, Packing::Now).await {
            tracing::warn!("the repository of app {app_id} is larger than it need be: {error}");
            continue;
        }
        service.note_size(app_id).await;
    }
}

impl Packed {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AppId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Builds {
    /// Writes down how large the app's repository is.
    pub(super) async fn note_size(&self, app_id: AppId) {
        let repositories = self.0.git.repositories.clone();
        let size = tokio::task::spawn_blocking(move || repositories.size_bytes(app_id)).await.unwrap_or(0);
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if let Err(error) = apps::set_repo_size(&self.parts().store, app_id, size).await {
            tracing::warn!("cannot note the size of the repository of app {app_id}: {error}");
        }
    }
}
