//! What is done off the push's path: archives of slugs, and removing what nobody needs.
//!
//! Two loops. Rounds are poked by each release and run every ten minutes; upkeep, which may take minutes for one repository,
//! holds none of them up. They take no input: what there is to do follows from rows and folders.
//!
//! - A slug's tree is packed into `DIR/slug-archives/<digest>.tar.zst` (the transport form), by a job that survives a
//!   crash: it is written under another name, synced and renamed, and only then is the job finished.
//! - What nobody needs any more is removed ([`garbage`]), repositories are packed ([`repositories`]),
//!   and slugs read again ([`scrub`]).
//!
//! Invariant: nothing is removed when store and folder do not belong together, as when a node is started with another database
//! by mistake: both carry one random mark.

use super::deploy::ARCHIVE_JOB;
use super::garbage;
use super::promote::slugs_folder;
use super::{Builds, repositories, scrub};
use crate::crash_point;
use crate::node::now_ms;
use ferroku_core::retention::KEEP_NEW_MS;
use ferroku_store::{Store, StoreError, jobs, node_settings, slug_uploads};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often the collector runs by itself.
const INTERVAL: Duration = Duration::from_secs(600);
/// How long it waits after a poke, so that the new release's dynos boot first.
const SETTLE: Duration = Duration::from_secs(20);
/// How long it waits when a round could not do everything.
const UNFINISHED: Duration = Duration::from_secs(10);
/// An archive that failed so often is given up; the tree is still there.
const MAX_ATTEMPTS: i64 = 5;
/// Compression level of archives: 0.9 s for a Django app, and 15 would be a minute for a seventh less.
const LEVEL: i32 = 3;
/// Setting of the store, and file of the data folder, that hold the mark.
const MARK: &str = "slugs_mark";

/// Runs until the process ends.
pub async fn run(service: Builds) {
    match belongs(&service.parts().store, &service.0.data).await {
        Ok(true) => {}
        Ok(false) => {
            let data = service.0.data.display();
            tracing::error!(
                "the slugs in {data} belong to another database than this one; nothing is cleaned up"
            );
            return;
        }
        Err(error) => {
            tracing::error!(
                "cannot tell whose slugs are in the data folder; nothing is cleaned up: {error:#}"
            );
            return;
        }
    }
    tokio::join!(rounds(&service), upkeep(&service));
}

/// Packs repositories and reads slugs again.
async fn upkeep(service: &Builds) {
    loop {
        repositories::pack(service).await;
        if let Err(error) = scrub::scrub(service).await {
            tracing::warn!("cannot read slugs again: {error}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn rounds(service: &Builds) {
    loop {
        let pause = match collect(service).await {
            Ok(true) => UNFINISHED,
            Ok(false) => INTERVAL,
            Err(error) => {
                tracing::warn!("cannot clean up after builds: {error:#}");
                INTERVAL
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = service.0.collect.notified() => tokio::time::sleep(SETTLE).await,
        }
    }
}

/// Whether the store is the one that the slugs were made with. The first to meet mark each other.
pub async fn belongs(store: &Store, data: &Path) -> anyhow::Result<bool> {
    let file = data.join(MARK);
    let on_disk = match std::fs::read_to_string(&file) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let in_store = node_settings::get(store, MARK).await?;
    let mark = match (on_disk, in_store) {
        (Some(on_disk), in_store) => return Ok(in_store.as_deref() == Some(on_disk.as_str())),
        (None, Some(in_store)) => in_store,
        (None, None) => {
            let mark = uuid::Uuid::new_v4().to_string();
            node_settings::set(store, MARK, &mark).await?;
            mark
        }
    };
    std::fs::write(&file, mark)?;
    Ok(true)
}

/// One round; whether something is left to be done soon.
///
/// # Errors
/// The store or the disk failed; the next round goes on.
pub async fn collect(service: &Builds) -> anyhow::Result<bool> {
    archive(service).await?;
    let uploads = service.uploads();
    let before = SystemTime::now() - super::uploads::LIFETIME;
    let removed = tokio::task::spawn_blocking(move || uploads.remove_old(before, false)).await?;
    if let Err(error) = removed {
        tracing::warn!("cannot remove old uploads: {error}");
    }
    slug_uploads::remove_old(&service.parts().store, now_ms() - KEEP_NEW_MS).await?;
    let freed = garbage::sweep(service).await?;
    garbage::log(&freed);
    Ok(freed.is_unfinished)
}

/// Packs every slug that waits for it.
async fn archive(service: &Builds) -> Result<(), StoreError> {
    let store = &service.parts().store;
    for job in jobs::open(store, ARCHIVE_JOB).await? {
        jobs::attempt(store, job.id, now_ms()).await?;
        let data = service.0.data.clone();
        let digest = job.payload.clone();
        let packed = tokio::task::spawn_blocking(move || pack(&data, &digest)).await;
        match packed.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {}
            Err(error) if job.attempts + 1 < MAX_ATTEMPTS => {
                tracing::warn!("cannot pack slug {}: {error}; tried again later", job.payload);
                continue;
            }
            Err(error) => tracing::error!("cannot pack slug {}: {error}; given up", job.payload),
        }
        crash_point::hit("slug.archived");
        jobs::finish(store, job.id).await?;
    }
    Ok(())
}

pub fn archive_path(data: &Path, digest: &str) -> PathBuf {
    data.join("slug-archives").join(format!("{digest}.tar.zst"))
}

/// Packs a slug's tree under `app/`, as Heroku's slugs are. Nothing happens when it is packed, or gone.
fn pack(data: &Path, digest: &str) -> io::Result<()> {
    let (tree, place) = (slugs_folder(data).join(digest), archive_path(data, digest));
    if place.exists() || !tree.exists() {
        return Ok(());
    }
    let next = place.with_extension("new");
    let mut encoder = zstd::Encoder::new(File::create(&next)?, LEVEL)?;
    encoder.include_checksum(true)?;
    pack_into(encoder, &tree)?.finish()?.sync_all()?;
    std::fs::rename(&next, &place)
}

/// Writes a tree as a tar archive, below `app/`.
pub fn pack_into<W: io::Write>(writer: W, tree: &Path) -> io::Result<W> {
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    archive.mode(tar::HeaderMode::Deterministic);
    archive.append_dir_all("app", tree)?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_tree_under_app_and_is_made_once() {
        let data = tempfile::tempdir().expect("a folder");
        let tree = slugs_folder(data.path()).join("abc");
        std::fs::create_dir_all(&tree).expect("new");
        std::fs::create_dir(data.path().join("slug-archives")).expect("new");
        std::fs::write(tree.join("Procfile"), "web: x\n").expect("written");
        std::os::unix::fs::symlink("/etc/shadow", tree.join("link")).expect("new");
        pack(data.path(), "abc").expect("packed");
        let file = File::open(archive_path(data.path(), "abc")).expect("there");
        let mut archive = tar::Archive::new(zstd::Decoder::new(file).expect("zstd"));
        let mut seen = Vec::new();
        for entry in archive.entries().expect("a tar") {
            let entry = entry.expect("whole");
            let link = entry.link_name().expect("valid").map(|link| link.display().to_string());
            seen.push((entry.path().expect("valid").display().to_string(), link));
        }
        seen.sort();
        let link = Some("/etc/shadow".to_owned());
        assert_eq!(
            seen,
            [("app/".to_owned(), None), ("app/Procfile".to_owned(), None), ("app/link".to_owned(), link)]
        );
        pack(data.path(), "gone").expect("nothing to do");
        assert!(!archive_path(data.path(), "gone").exists());
    }

    #[tokio::test]
    async fn slugs_of_another_database_are_left_alone() {
        let data = tempfile::tempdir().expect("a folder");
        let open = |name: &str| {
            let url = format!("sqlite://{}/{name}", data.path().display());
            async move { Store::open(&url, ferroku_store::MasterKey::new("k", [1; 32])).await.expect("opens") }
        };
        let (first, second) = (open("first").await, open("second").await);
        assert!(belongs(&first, data.path()).await.expect("read"));
        assert!(belongs(&first, data.path()).await.expect("read"), "again");
        assert!(!belongs(&second, data.path()).await.expect("read"));
        std::fs::remove_file(data.path().join(MARK)).expect("there");
        assert!(belongs(&first, data.path()).await.expect("read"), "a restored data folder is marked again");
    }
}
