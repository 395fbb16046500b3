//! The scrub: slugs are read again now and then, and hashed, because disks lie.
//!
//! In: the digests that rows have. Out: for a tree or an archive that is not what was built, a line in the node's log and
//! in the log of each app that has it: which release, where it lies, what to do. An archive is packed anew by itself; a
//! tree is replaced when its commit is pushed again ([`Scrub::is_damaged`]).
//!
//! Invariants: reading changes nothing; damage is what was seen twice, in the tree that is still in its place.
//!
//! At a dyno's start it would cost more than the start itself (0.1 s for a small app's 8,000 files, where a dyno starts in
//! 0.03 s), so it is a task of the collector's: one thread of the lowest priority, some seconds each round.

use super::Builds;
use super::collect::archive_path;
use super::deploy::ARCHIVE_JOB;
use super::promote::slugs_folder;
use super::seal;
use crate::node::now_ms;
use ferroku_core::slug::Slug;
use ferroku_logplex::LogLine;
use ferroku_store::{StoreError, jobs, releases, slugs, write};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No other slug is begun in a round after this: with a round every ten minutes, 3 % of a core at most.
const ROUND: Duration = Duration::from_secs(20);
/// A slug is read again after so long.
const AGAIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What this process knows of the slugs' trees.
#[derive(Debug, Default)]
pub struct Scrub {
    read: Mutex<HashMap<String, Instant>>,
    damaged: Mutex<BTreeSet<String>>,
}

impl Scrub {
    /// Whether the tree of this digest was found damaged, and not replaced since.
    pub fn is_damaged(&self, digest: &str) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Notes what a tree was found to be, or that it was replaced.
    pub fn note(&self, digest: &str, is_damaged: bool) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if is_damaged {
            damaged.insert(digest.to_owned());
        } else {
            damaged.remove(digest);
        }
    }

    /// Of these digests those that are due, those first that were never read.
    fn due(&self, digests: Vec<String>) -> Vec<String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known: BTreeSet<&String> = digests.iter().collect();
        read.retain(|digest, _| known.contains(digest));
        let mut due: Vec<(Option<Instant>, String)> = digests
            .into_iter()
            .map(|digest| (read.get(&digest).copied(), digest))
            .filter(|(at, _)| at.is_none_or(|at| at.elapsed() >= AGAIN))
            .collect();
        due.sort();
        due.into_iter().map(|(_, digest)| digest).collect()
    }

    fn mark_read(&self, digest: &str) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(digest.to_owned(), Instant::now());
    }
}

/// One round.
///
/// # Errors
/// The store failed.
pub async fn scrub(service: &Builds) -> Result<(), StoreError> {
    let begun = Instant::now();
    for digest in service.0.scrub.due(slugs::digests(&service.parts().store).await?) {
        if begun.elapsed() >= ROUND {
            break;
        }
        service.0.scrub.mark_read(&digest);
        check(service, &digest).await?;
    }
    Ok(())
}

/// What is wrong with a tree.
#[derive(Debug)]
pub(super) struct Damage {
    /// Which folder it was, by device and inode; none when there was none.
    folder: Option<(u64, u64)>,
    why: String,
}

/// Reads one slug's tree and archive.
pub(super) async fn check(service: &Builds, digest: &str) -> Result<(), StoreError> {
    let (tree, archive) = (slugs_folder(&service.0.data).join(digest), archive_path(&service.0.data, digest));
    let (read, wanted) = (tree.clone(), digest.to_owned());
    match tokio::task::spawn_blocking(move || damage(&read, &wanted)).await {
        Ok(None) => service.0.scrub.note(digest, false),
        Ok(Some(found)) => believe(service, digest, &tree, found).await?,
        Err(error) => tracing::error!("reading slug {digest} again failed: {error}"),
    }
    let read = archive.clone();
    let found = tokio::task::spawn_blocking(move || read_archive(&read)).await;
    if let Err(error) = found.unwrap_or_else(|error| Err(io::Error::other(error))) {
        report(service, digest, &archive, &error.to_string(), "It is packed anew.").await?;
        pack_anew(service, digest, archive).await?;
    }
    Ok(())
}

/// Notes and tells damage, unless the tree was replaced or removed since it was read.
pub(super) async fn believe(
    service: &Builds,
    digest: &str,
    tree: &Path,
    damage: Damage,
) -> Result<(), StoreError> {
    let held = service.0.slugs.lock().await;
    if folder_at(tree) != damage.folder || slugs::by_digest(&service.parts().store, digest).await?.is_empty()
    {
        return Ok(());
    }
    service.0.scrub.note(digest, true);
    drop(held);
    let advice = "Push its commit again: that replaces it. Or roll back to another release.";
    report(service, digest, tree, &damage.why, advice).await
}

/// The damage of a tree, if there is any. Blocks.
pub(super) fn damage(tree: &Path, digest: &str) -> Option<Damage> {
    let folder = folder_at(tree);
    seen_twice(|| why_damaged(tree, digest)).map(|why| Damage { folder, why })
}

/// What is there when it is looked at again: a process short of memory or descriptors, or a disk, may fail once.
fn seen_twice(mut look: impl FnMut() -> Option<String>) -> Option<String> {
    look().and_then(|_| look())
}

fn folder_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|folder| (folder.dev(), folder.ino()))
}

/// What is wrong with a tree, if anything.
fn why_damaged(tree: &Path, digest: &str) -> Option<String> {
    match seal::digest_again(tree) {
        Ok(found) if found == digest => None,
        Ok(found) => Some(format!("its content's digest is {found}")),
        Err(error) => Some(super::deploy::chain(&error)),
    }
}

/// Unpacks an archive to nowhere; its checksum is in it. One that is not there is not damaged.
fn read_archive(archive: &Path) -> io::Result<()> {
    match File::open(archive) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => io::copy(&mut zstd::Decoder::new(file?)?, &mut io::sink()).map(drop),
    }
}

async fn pack_anew(service: &Builds, digest: &str, archive: PathBuf) -> Result<(), StoreError> {
    let store = &service.parts().store;
    // Removed first: a crash in between leaves a slug without an archive, as it is before its first one.
    if let Err(error) = tokio::fs::remove_file(&archive).await {
        tracing::warn!("cannot remove {}: {error}", archive.display());
        return Ok(());
    }
    write!(store, tx => {
        jobs::create(&mut tx, ARCHIVE_JOB, None, digest, now_ms()).await?;
        Ok(())
    })
}

/// Tells the admin and each app that has the slug. Nobody has it any more: nothing is told.
async fn report(
    service: &Builds,
    digest: &str,
    place: &Path,
    why: &str,
    advice: &str,
) -> Result<(), StoreError> {
    let parts = service.parts();
    for slug in slugs::by_digest(&parts.store, digest).await? {
        let releases = releases_of(service, &slug).await?;
        let place = place.display();
        tracing::error!(app_id = %slug.app_id, "the slug of {releases} is damaged: {place}: {why}. {advice}");
        let now_us = now_ms() * 1_000;
        let text = format!("The slug of {releases} is damaged on the node's disk. {advice}");
        parts.logplex.append(slug.app_id, LogLine::new(now_us, "heroku", "slug", text));
    }
    Ok(())
}

/// The releases that have a slug: `v3, v7`.
async fn releases_of(service: &Builds, slug: &Slug) -> Result<String, StoreError> {
    let all = releases::list(&service.parts().store, slug.app_id).await?;
    let versions: Vec<String> = all
        .iter()
        .filter(|release| release.slug_id == Some(slug.id))
        .map(|release| format!("v{}", release.version))
        .collect();
    Ok(if versions.is_empty() { "no release yet".to_owned() } else { versions.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_once_is_no_damage() {
        for (looks, is_damaged) in
            [([None, None], false), ([Some("x"), None], false), ([Some("x"), Some("y")], true)]
        {
            let mut looks = looks.into_iter();
            let seen = seen_twice(|| looks.next().expect("twice at most").map(str::to_owned));
            assert_eq!(seen.is_some(), is_damaged);
        }
    }
}
