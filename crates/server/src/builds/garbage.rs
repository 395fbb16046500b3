//! Garbage: what of builds nobody needs any more goes from the disk. What that is, [`ferroku_core::retention`] says.
//!
//! In: rows and folders. Out: what was freed, by folder.
//!
//! A round marks slugs as deleted in the store, moves what no row needs to `DIR/trash`, and empties that, as far as it
//! comes within [`ROUND`]. A crash leaves marked slugs whose trees are still there, or a fuller trash; both are the next
//! round's work.
//!
//! Invariants:
//! - Folders are listed before rows are read: what is made in between is not in the list.
//! - A tree goes only while no promotion is under way, a build's folder or cache only while its app is not built: both
//!   are looked at again under their locks when it is moved.
//! - Nothing of a needed name is ever half there: what goes leaves its name first.

use super::Builds;
use super::collect::belongs;
use crate::crash_point;
use crate::disk;
use crate::node::now_ms;
use ferroku_buildpacks::remove::remove_tree;
use ferroku_core::retention::{KEEP_UNRELEASED, Moment, Needs, Place, Retention, expired_texts};
use ferroku_core::{AccountId, AppId, BuildId, SlugId};
use ferroku_store::{StoreError, builds, limits, slugs};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a round may remove files; the next one goes on. It competes with dynos for the disk.
const ROUND: Duration = Duration::from_secs(30);
/// Entries that a round moves away: nobody can begin a build meanwhile, some 20 µs each.
const MAX_MOVES: usize = 2_000;
/// Files that are looked at to tell how much a round would free.
const MAX_MEASURED: u64 = 200_000;
/// Where garbage waits to be removed, below the data folder; each entry is `<folder it was in>.<random>`.
const TRASH: &str = "trash";

/// What a round freed, or would free.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Freed {
    pub expired_slugs: usize,
    /// Entries and bytes, by the folder they were in.
    pub removed: BTreeMap<String, Amount>,
    /// Something is left for the next round.
    pub is_unfinished: bool,
}

/// So much of something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    pub entries: u64,
    pub bytes: u64,
}

impl Freed {
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.removed.values().map(|amount| amount.bytes).sum()
    }

    fn add(&mut self, folder: &str, bytes: u64) {
        let amount = self.removed.entry(folder.to_owned()).or_default();
        amount.entries += 1;
        amount.bytes += bytes;
    }
}

/// One round. Nothing happens where store and data folder do not belong together.
///
/// # Errors
/// The store or the disk failed; the next round goes on.
pub async fn sweep(service: &Builds) -> anyhow::Result<Freed> {
    let _alone = service.0.sweeping.lock().await;
    let mut freed = Freed::default();
    if !belongs(&service.parts().store, &service.0.data).await? {
        return Ok(freed);
    }
    let moment = moment(&service.0.data);
    freed.expired_slugs = expire(service, moment).await?;
    if freed.expired_slugs > 0 {
        crash_point::hit("garbage.expired");
    }
    let slugs = move_slugs(service, moment).await?;
    let others = move_others(service, moment).await?;
    freed.is_unfinished = slugs.max(others) >= MAX_MOVES;
    if slugs + others > 0 {
        crash_point::hit("garbage.moved");
    }
    let trash = service.0.data.join(TRASH);
    let freed = tokio::task::spawn_blocking(move || empty(&trash, freed, Instant::now() + ROUND)).await??;
    if !freed.removed.is_empty() {
        crash_point::hit("garbage.removed");
    }
    Ok(freed)
}

/// What a round would free now, without doing it.
///
/// # Errors
/// The store or the disk failed.
pub async fn preview(service: &Builds) -> anyhow::Result<Freed> {
    let (store, data) = (&service.parts().store, service.0.data.clone());
    let moment = moment(&data);
    let listed = list(&data, &Place::ALL)?;
    let mut gone: BTreeSet<SlugId> = BTreeSet::new();
    for (app_id, retention) in retentions(service).await? {
        gone.extend(slugs::to_expire(store, app_id, retention, moment).await?);
    }
    let mut needs = needs(service, moment).await?;
    needs.digests = slugs::digests_but(store, &gone).await?.into_iter().collect();
    needs.running = service.building();
    let expired_slugs = gone.len();
    let freed = tokio::task::spawn_blocking(move || {
        let mut freed = Freed { expired_slugs, ..Freed::default() };
        let mut left = MAX_MEASURED;
        let garbage = listed.into_iter().filter(|(place, name)| needs.is_garbage(moment, *place, name));
        for (place, name) in garbage {
            let path = data.join(place.folder()).join(name);
            freed.add(place.folder(), measure(&path, &mut left));
        }
        for name in names(&data.join(TRASH)).unwrap_or_default() {
            freed.add(folder_of(&name), measure(&data.join(TRASH).join(&name), &mut left));
        }
        freed.is_unfinished = left == 0;
        freed
    });
    Ok(freed.await?)
}

fn moment(data: &Path) -> Moment {
    Moment { now: now_ms(), is_scarce: disk::is_scarce(data) }
}

/// The apps of which slugs may go, and what is kept of each.
async fn retentions(service: &Builds) -> Result<Vec<(AppId, Retention)>, StoreError> {
    let (store, retention) = (&service.parts().store, service.parts().retention);
    let crowded = limits::crowded_accounts(store).await?;
    let of = |owner: AccountId| if crowded.contains(&owner) { retention.when_crowded() } else { retention };
    let apps = slugs::crowded_apps(store, KEEP_UNRELEASED).await?;
    Ok(apps.into_iter().map(|(app_id, owner)| (app_id, of(owner))).collect())
}

/// Makes room for an account that would be refused a push: marks all but the newest slugs of its apps. Their trees go in
/// the next round; what is marked counts no more. Gives how many.
///
/// # Errors
/// The store or the disk failed.
pub async fn make_room(service: &Builds, owner_id: AccountId) -> anyhow::Result<usize> {
    let parts = service.parts();
    if !belongs(&parts.store, &service.0.data).await? {
        return Ok(0);
    }
    let (retention, moment) = (parts.retention.when_crowded(), moment(&service.0.data));
    let mut count = 0;
    for (app_id, owner) in slugs::crowded_apps(&parts.store, KEEP_UNRELEASED).await? {
        if owner == owner_id {
            count += slugs::expire(&parts.store, app_id, retention, moment).await?;
        }
    }
    if count > 0 {
        service.0.collect.notify_one();
    }
    Ok(count)
}

/// Marks slugs that go; gives how many.
async fn expire(service: &Builds, moment: Moment) -> Result<usize, StoreError> {
    let store = &service.parts().store;
    let mut count = 0;
    for (app_id, retention) in retentions(service).await? {
        // Looked at first: most rounds find nothing, and writing is what others wait for.
        if !slugs::to_expire(store, app_id, retention, moment).await?.is_empty() {
            count += slugs::expire(store, app_id, retention, moment).await?;
        }
    }
    Ok(count)
}

/// Everything that rows need, but for slugs and what runs this moment.
async fn needs(service: &Builds, moment: Moment) -> Result<Needs, StoreError> {
    let store = &service.parts().store;
    let apps: BTreeMap<AppId, _> = builds::newest_of_apps(store).await?;
    let mut texts: BTreeSet<BuildId> = BTreeSet::new();
    for of_app in builds::of_all_apps(store).await?.into_values() {
        let gone: BTreeSet<BuildId> =
            expired_texts(service.parts().retention, moment, &of_app).into_iter().collect();
        texts.extend(of_app.iter().map(|build| build.0).filter(|id| !gone.contains(id)));
    }
    Ok(Needs { apps, texts, ..Needs::default() })
}

/// Moves trees and archives without a row to the trash; gives how many.
async fn move_slugs(service: &Builds, moment: Moment) -> anyhow::Result<usize> {
    let _held = service.0.slugs.lock().await;
    let data = service.0.data.clone();
    let places = [Place::Slugs, Place::Archives];
    let listed = tokio::task::spawn_blocking(move || list(&data, &places)).await??;
    let digests = slugs::digests(&service.parts().store).await?.into_iter().collect();
    let needs = Needs { digests, ..Needs::default() };
    let data = service.0.data.clone();
    Ok(tokio::task::spawn_blocking(move || move_garbage(&data, listed, &needs, moment)).await?)
}

/// Moves all other garbage to the trash; gives how many entries.
async fn move_others(service: &Builds, moment: Moment) -> anyhow::Result<usize> {
    let data = service.0.data.clone();
    let places = [
        Place::Builds,
        Place::BuildSecrets,
        Place::BuildTexts,
        Place::Caches,
        Place::Spares,
        Place::Repositories,
    ];
    let listed = tokio::task::spawn_blocking(move || list(&data, &places)).await??;
    let mut needs = needs(service, moment).await?;
    let service = service.clone();
    let moved = tokio::task::spawn_blocking(move || {
        // Held: a build says that it begins before it makes a folder.
        let running = service.running();
        needs.running = running.iter().map(|(id, build)| (*id, build.app_id)).collect();
        move_garbage(&service.0.data, listed, &needs, moment)
    });
    Ok(moved.await?)
}

fn move_garbage(data: &Path, listed: Vec<(Place, String)>, needs: &Needs, moment: Moment) -> usize {
    let garbage = listed.into_iter().filter(|(place, name)| needs.is_garbage(moment, *place, name));
    let mut count = 0;
    for (place, name) in garbage.take(MAX_MOVES) {
        match discard(data, place, &name) {
            Ok(()) => count += 1,
            // It is not to keep the others.
            Err(error) => tracing::warn!("cannot move {name} of {} away: {error}", place.folder()),
        }
    }
    count
}

/// Takes an entry from its folder to the trash, which the next round empties: that takes no time, however much it is. What
/// is not there is gone. Blocks.
///
/// # Errors
/// It is still there.
pub fn discard(data: &Path, place: Place, name: &str) -> io::Result<()> {
    let (from, trash) = (data.join(place.folder()).join(name), data.join(TRASH));
    std::fs::create_dir_all(&trash)?;
    let bin = place.folder().replace('/', "-");
    match std::fs::rename(&from, trash.join(format!("{bin}.{}", uuid::Uuid::new_v4()))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // On another disk, as secrets of builds are: removed where it is.
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => remove_tree(&from, None).map(drop),
        done => done,
    }
}

/// The names in some folders; of one that is not there, none.
fn list(data: &Path, places: &[Place]) -> io::Result<Vec<(Place, String)>> {
    let mut listed = Vec::new();
    for place in places {
        match names(&data.join(place.folder())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            names => listed.extend(names?.into_iter().map(|name| (*place, name))),
        }
    }
    Ok(listed)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        // Ours are all plain; another is left alone.
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

/// The folder that an entry of the trash was in.
fn folder_of(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Removes what is in the trash, until the deadline.
fn empty(trash: &Path, mut freed: Freed, deadline: Instant) -> io::Result<Freed> {
    // Nothing may ever have been put there.
    let waiting = names(trash).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(error),
    })?;
    for name in waiting {
        let path = trash.join(&name);
        let bytes = match remove_tree(&path, Some(deadline)) {
            Ok(removed) => removed.bytes,
            Err(error) => {
                tracing::warn!("cannot remove {}: {error}", path.display());
                continue;
            }
        };
        freed.add(folder_of(&name), bytes);
        if Instant::now() >= deadline {
            freed.is_unfinished = true;
            break;
        }
    }
    Ok(freed)
}

/// Bytes on disk that go with this name: what has other names stays.
fn size(metadata: &std::fs::Metadata) -> u64 {
    if metadata.is_dir() || metadata.nlink() <= 1 { metadata.blocks() * 512 } else { 0 }
}

/// Bytes on disk of a file or folder, as long as there are files left to look at.
fn measure(path: &Path, left: &mut u64) -> u64 {
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(path).into_iter().filter_map(Result::ok) {
        if *left == 0 {
            break;
        }
        *left -= 1;
        bytes += entry.metadata().map_or(0, |metadata| size(&metadata));
    }
    bytes
}

/// In a line of the node's log what a round did, if anything.
pub fn log(freed: &Freed) {
    if freed.expired_slugs == 0 && freed.removed.is_empty() {
        return;
    }
    let parts: Vec<String> =
        freed.removed.iter().map(|(folder, amount)| format!("{} of {folder}", amount.entries)).collect();
    tracing::info!(
        expired_slugs = freed.expired_slugs,
        freed_bytes = freed.bytes(),
        "removed what no release needs: {}",
        if parts.is_empty() { "nothing yet".to_owned() } else { parts.join(", ") }
    );
}
