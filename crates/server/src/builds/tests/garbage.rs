//! What goes from the disk and what stays, on a node with real pushes.

use super::*;
use crate::git::repository::Packing;
use ferroku_core::account::Role;
use ferroku_core::event::Actor;
use ferroku_core::slug::Slug;
use ferroku_core::{AccountId, ReleaseId, SlugId};
use ferroku_store::accounts::NewAccount;
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use serde_json::{Value, json};

/// What a slug is said to take of its owner's disk space.
const SLUG_BYTES: i64 = 100 << 20;

/// A deploy as a push makes it, without its build; gives the slug's digest.
async fn deploy(host: &Host, actor: &Actor, number: i64) -> String {
    let digest = format!("{number:064}");
    let tree = host.data().join("slugs").join(&digest);
    std::fs::create_dir(&tree).expect("new");
    std::fs::write(tree.join("file"), vec![1; 10_000]).expect("written");
    std::fs::write(host.data().join(format!("slug-archives/{digest}.tar.zst")), "packed").expect("written");
    let slug = Slug {
        id: SlugId(Uuid::new_v4()),
        app_id: host.app_id,
        digest: digest.clone(),
        commit: None,
        commit_description: None,
        stack: "heroku-24".to_owned(),
        size_bytes: SLUG_BYTES,
        process_types: [("web".to_owned(), "sleep 1".to_owned())].into(),
        buildpack_provided_description: None,
        archive_sha256: None,
        deleted_at: None,
        // Long ago: age keeps none of them.
        created_at: number,
    };
    let store = &host.node.store;
    let released: Result<(), ferroku_store::StoreError> = async {
        ferroku_store::write!(store, tx => {
            slugs::create(&mut tx, &slug).await?;
            let new = NewRelease {
                id: ReleaseId(Uuid::new_v4()),
                app_id: host.app_id,
                actor,
                description: format!("Deploy {number}"),
                slug: SlugChange::Set(slug.id),
                config: ConfigChange::Keep,
            };
            releases::create(&mut tx, store.key(), new, number).await?;
            Ok(())
        })
    }
    .await;
    released.expect("released");
    digest
}

async fn owner(host: &Host) -> Actor {
    let found = accounts::find_by_email(&host.node.store, "owner@example.com").await;
    let owner = found.expect("read").expect("made");
    Actor { account_id: owner.id, email: owner.email, remote_address: None, request_id: None }
}

impl Host {
    async fn garbage(&self, method: &str) -> Value {
        let (status, text) = self.send(method, "/admin/garbage", "").await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn entries(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.data().join(folder)).expect("there");
        entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned()).collect()
    }

    fn is_there(&self, path: &str) -> bool {
        self.data().join(path).exists()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_release_needs_goes_and_the_rest_stays() {
    let host = host_with(Retention { releases: 2, age_ms: 1 }).await;
    let actor = owner(&host).await;
    let copy = host.commit(&[("Procfile", "web: sleep 1\n")]);
    let (ok, text) = host.push(&copy).await;
    assert!(ok, "{text}");
    host.wait_until_clean().await;
    let mut digests = Vec::new();
    for number in 1..=6 {
        digests.push(deploy(&host, &actor, number).await);
    }
    let (app, gone) = (host.app_id, Uuid::new_v4());
    let orphans = [
        format!("slugs/{}", "f".repeat(64)),
        format!("slug-archives/{}.tar.new", "f".repeat(64)),
        format!("builds/{gone}"),
        format!("run/builds/{gone}"),
        format!("build-output/{gone}"),
        format!("cache/{gone}"),
        "cache/dropped-1".to_owned(),
        format!("spares/{gone}"),
        format!("repos/{gone}.git"),
        "trash/slugs.half-removed".to_owned(),
    ];
    for orphan in &orphans {
        std::fs::create_dir_all(host.data().join(orphan).join("sub")).expect("new");
    }
    std::fs::create_dir_all(host.data().join(format!("spares/{app}"))).expect("new");
    // Deeper than any path is long.
    let nest = "import os\nfor _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)";
    let mut python = std::process::Command::new("python3");
    let nested = python.args(["-c", nest]).current_dir(host.data().join("trash/slugs.half-removed")).status();
    assert!(nested.is_ok_and(|status| status.success()));
    let kept = [format!("cache/{app}"), format!("spares/{app}"), format!("repos/{app}.git")];

    // Two releases and the three newest slugs: the push's, being the only one made today, and 5 and 6.
    let preview = host.garbage("GET").await;
    assert_eq!(
        (&preview["expired_slugs"], &preview["removed"]["slugs"]["entries"]),
        (&json!(4), &json!(6)),
        "{preview}"
    );
    assert!(preview["bytes"].as_u64().expect("a number") >= 4 * 10_000, "{preview}");
    assert!(
        digests.iter().all(|digest| host.is_there(&format!("slugs/{digest}"))),
        "a preview changes nothing"
    );
    assert!(orphans.iter().all(|orphan| host.is_there(orphan)));

    let done = host.garbage("POST").await;
    assert_eq!((&done["expired_slugs"], &done["unfinished"]), (&json!(4), &json!(false)), "{done}");
    assert_eq!(done["removed"]["slug-archives"]["entries"], 5, "{done}");
    for (digest, stays) in digests.iter().zip([false, false, false, false, true, true]) {
        assert_eq!(host.is_there(&format!("slugs/{digest}")), stays, "{digest}");
        assert_eq!(host.is_there(&format!("slug-archives/{digest}.tar.zst")), stays, "{digest}");
    }
    assert_eq!(
        orphans.iter().filter(|orphan| host.is_there(orphan)).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    assert_eq!(kept.iter().filter(|kept| !host.is_there(kept)).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(std::fs::read_dir(host.data().join("trash")).expect("there").count(), 0);
    let again = host.garbage("POST").await;
    assert_eq!((&again["expired_slugs"], &again["removed"]), (&json!(0), &json!({})), "{again}");

    let back = async |version: i64| {
        host.send("POST", "/apps/shop/releases", &format!(r#"{{"release":"{version}"}}"#)).await
    };
    let (status, text) = back(4).await;
    assert!(
        status == 422 && text.contains("Cannot roll back to v4: its slug was removed to save space"),
        "{text}"
    );
    let (status, text) = back(8).await;
    assert_eq!(status, 201, "{text}");
    host.close().await;
}

/// A mount that ends with its test.
struct Mounted(PathBuf);

impl Mounted {
    fn on(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).expect("a folder");
        let mut mount = Command::new("mount");
        assert!(
            run({
                mount.args(["-t", "tmpfs", "none"]).arg(&path);
                mount
            })
            .0
        );
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_keeps_nothing_else_on_the_disk() {
    let host = host().await;
    let gone = Uuid::new_v4();
    // In use, and on another disk.
    let stuck = Mounted::on(host.data().join(format!("builds/{gone}")));
    let other_disk = Mounted::on(host.data().join("spares"));
    let orphans = [format!("spares/{gone}"), format!("cache/{gone}"), format!("repos/{gone}.git")];
    for orphan in &orphans {
        std::fs::create_dir_all(host.data().join(orphan).join("sub")).expect("new");
    }
    host.node.builds.collect_garbage().await.expect("collected");
    assert!(host.is_there(&format!("builds/{gone}")));
    assert_eq!(orphans.iter().find(|orphan| host.is_there(orphan)), None);
    drop((stuck, other_disk));
    host.node.builds.collect_garbage().await.expect("collected");
    assert!(!host.is_there(&format!("builds/{gone}")));
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_destroyed_at_once_however_long_a_round_takes() {
    let host = host().await;
    let (store, builds, app) = (&host.node.store, &host.node.builds, host.app_id);
    let actor = owner(&host).await;
    let digest = deploy(&host, &actor, 1).await;
    let folders = [format!("repos/{app}.git"), format!("cache/{app}"), format!("spares/{app}")];
    for folder in &folders {
        std::fs::create_dir_all(host.data().join(folder).join("sub")).expect("new");
    }
    let destroyed = apps::destroy(store, app, &actor, now_ms()).await.expect("destroyed");
    let round = builds.0.sweeping.lock().await;
    let done = tokio::time::timeout(Duration::from_secs(60), builds.app_destroyed(&destroyed)).await;
    done.expect("a round holds it up").expect("destroyed");
    assert_eq!(folders.iter().find(|folder| host.is_there(folder)), None);
    drop(round);
    builds.app_destroyed(&destroyed).await.expect("again, as after a crash");
    builds.collect_garbage().await.expect("collected");
    assert!(!host.is_there(&format!("slugs/{digest}")));
    assert_eq!(host.entries("trash"), Vec::<String>::new());
    host.close().await;
}

#[test]
fn a_cache_that_hides_what_it_has_is_dropped() {
    let data = tempfile::tempdir().expect("a folder");
    let app_id = AppId(Uuid::new_v4());
    let cache = data.path().join(format!("cache/{app_id}"));
    std::fs::create_dir_all(&cache).expect("new");
    limit_cache(data.path(), app_id);
    assert!(cache.exists());
    let nest = "import os\nfor _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)";
    assert!(
        Command::new("python3")
            .args(["-c", nest])
            .current_dir(&cache)
            .status()
            .is_ok_and(|status| status.success())
    );
    limit_cache(data.path(), app_id);
    assert!(!cache.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_a_forced_push_left_behind_go_a_day_later() {
    let host = host().await;
    let copy = host.commit(&[("Procfile", "web: sleep 1\n"), ("large.txt", "first")]);
    let (ok, text) = host.push(&copy).await;
    assert!(ok, "{text}");
    let (_, first) = run(git(&copy, &["rev-parse", "HEAD"]));
    let amend = async |content: &str| {
        std::fs::write(copy.join("large.txt"), content).expect("written");
        assert!(run(git(&copy, &["commit", "-qa", "--amend", "-m", content])).0);
        let forced = git(&copy, &["push", "--force", &host.url, "main"]);
        let (ok, text) = tokio::task::spawn_blocking(move || run(forced)).await.expect("no panic");
        assert!(ok, "{text}");
        run(git(&copy, &["rev-parse", "HEAD"])).1
    };
    let second = amend("second").await;
    let repositories = host.node.builds.git().repositories.clone();
    let repository = repositories.path(host.app_id);
    let has =
        |commit: &str| run(git(&repository, &["-c", "safe.directory=*", "cat-file", "-e", commit.trim()])).0;
    assert!(has(&first) && has(&second));
    let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
    assert!(!repositories.wants_packing(host.app_id, hour, day), "somebody pushes to it");
    assert!(repositories.wants_packing(host.app_id, Duration::ZERO, day), "its objects are loose");

    repositories.collect_garbage(host.app_id, Packing::Now).await.expect("packed");
    assert!(has(&first), "a push that is under way may refer to what is new");
    assert!(!repositories.wants_packing(host.app_id, Duration::ZERO, day), "packed is packed");
    let third = amend("third").await;
    let old = Command::new("find")
        .arg(repository.join("objects"))
        .args(["-type", "f", "-exec", "touch", "-d", "3 days ago", "{}", "+"])
        .status();
    assert!(old.expect("find is there").success());
    assert!(repositories.wants_packing(host.app_id, Duration::ZERO, day), "what it keeps aside is old");
    repositories.collect_garbage(host.app_id, Packing::Now).await.expect("packed");
    assert!(!has(&second) && has(&third));
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_that_the_disk_lost_is_found_named_and_mended() {
    let host = host().await;
    let copy = host.commit(&[("Procfile", "web: sleep 1\n"), ("data.txt", "0123456789")]);
    let (ok, text) = host.push(&copy).await;
    assert!(ok, "{text}");
    let (store, app_id) = (&host.node.store, host.app_id);
    let digest = slugs::digests(store).await.expect("read").remove(0);
    let file = host.data().join("slugs").join(&digest).join("data.txt");
    let archive = host.data().join(format!("slug-archives/{digest}.tar.zst"));
    std::fs::write(&archive, "not what was packed").expect("written");
    scrub::check(&host.node.builds, &digest).await.expect("read");
    assert!(!host.node.builds.0.scrub.is_damaged(&digest), "the tree is whole");
    assert!(!archive.exists(), "a broken archive is packed anew");
    let jobs = ferroku_store::jobs::open(store, deploy::ARCHIVE_JOB).await.expect("read");
    assert!(jobs.iter().any(|job| job.payload == digest && job.app_id.is_none()), "{jobs:?}");

    let mut bytes = std::fs::read(&file).expect("there");
    bytes[4] ^= 1;
    std::fs::write(&file, &bytes).expect("written");
    scrub::check(&host.node.builds, &digest).await.expect("read");
    assert!(host.node.builds.0.scrub.is_damaged(&digest));
    host.node.logplex.flush().await.expect("written");
    let log = std::process::Command::new("grep")
        .args(["-r", "-q", "-a", "The slug of v3 is damaged on the node's disk. Push its commit again"])
        .arg(host.data().join(format!("logs/{app_id}")))
        .status();
    assert!(log.expect("grep is there").success(), "the app's log says so");

    assert!(run(git(&copy, &["commit", "-q", "--allow-empty", "-m", "Again"])).0);
    let again = git(&copy, &["push", &host.url, "HEAD:refs/heads/main"]);
    let (ok, text) = tokio::task::spawn_blocking(move || run(again)).await.expect("no panic");
    assert!(ok, "{text}");
    assert_eq!(std::fs::read(&file).expect("there"), b"0123456789", "the same commit again replaces it");
    scrub::check(&host.node.builds, &digest).await.expect("read");
    assert!(!host.node.builds.0.scrub.is_damaged(&digest));
    host.node.builds.collect_garbage().await.expect("collected");
    let aside = host.entries("slugs").into_iter().filter(|name| name.contains(".aside-"));
    assert_eq!(aside.collect::<Vec<_>>().len(), 1, "dynos that run have the damaged one mounted");
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_a_tree_that_was_replaced_meanwhile_is_nobodys() {
    let host = host().await;
    let actor = owner(&host).await;
    let digest = deploy(&host, &actor, 1).await;
    let scrub = &host.node.builds.0.scrub;
    let tree = host.data().join("slugs").join(&digest);
    // No build made it: its digest is another one.
    let found = scrub::damage(&tree, &digest).expect("damaged");
    let next = host.data().join("slugs/next");
    std::fs::create_dir(&next).expect("new");
    promote::replace(&host.data(), &next, &digest).expect("replaced");
    scrub::believe(&host.node.builds, &digest, &tree, found).await.expect("looked");
    assert!(!scrub.is_damaged(&digest));
    let found = scrub::damage(&tree, &digest).expect("damaged");
    scrub::believe(&host.node.builds, &digest, &tree, found).await.expect("looked");
    assert!(scrub.is_damaged(&digest));
    host.close().await;
}

/// An app of somebody who has 5 GB of disk space, in place of the one that the node's owner has.
pub(super) async fn of_a_stranger(host: &mut Host) -> Actor {
    let store = &host.node.store;
    let id = AccountId(Uuid::new_v4());
    let new = NewAccount { id, email: "ada@example.com", name: None, password_hash: "x", role: Role::Member };
    let made: Result<(), ferroku_store::StoreError> =
        async { ferroku_store::write!(store, tx => { accounts::create(&mut tx, &new, 1).await.map(drop) }) }
            .await;
    made.expect("an account");
    let actor = Actor { account_id: id, email: new.email.to_owned(), remote_address: None, request_id: None };
    host.app_id = AppId(Uuid::new_v4());
    let new = NewApp { id: host.app_id, name: "busy", stack: "heroku-24", region: "local" };
    apps::create(store, &new, &actor, 1).await.expect("an app");
    actor
}

#[tokio::test(flavor = "multi_thread")]
async fn who_uses_up_the_disk_keeps_the_newest_few_and_can_push_again() {
    let mut host = host().await;
    let actor = of_a_stranger(&mut host).await;
    let (store, builds) = (&host.node.store, &host.node.builds);
    let left = async || slugs::digests(store).await.expect("read").len();
    let repository = async |mb: i64| apps::set_repo_size(store, host.app_id, mb << 20).await.expect("noted");
    for number in 1..=6 {
        deploy(&host, &actor, number).await;
    }
    repository(3_000).await;
    let freed = builds.collect_garbage().await.expect("collected");
    assert_eq!((freed.expired_slugs, left().await), (0, 6), "below 80 %, the newest twenty stay");
    repository(3_500).await;
    let preview = builds.preview_garbage().await.expect("looked");
    assert_eq!((preview.expired_slugs, left().await), (3, 6), "a preview changes nothing");
    let freed = builds.collect_garbage().await.expect("collected");
    assert_eq!((freed.expired_slugs, left().await), (3, 3));

    for number in 7..=9 {
        deploy(&host, &actor, number).await;
    }
    repository(4_600).await;
    let app = apps::by_id(store, host.app_id).await.expect("read").expect("made");
    assert_eq!(builds.why_disk_is_used_up(&app).await, None, "there is room after old slugs have gone");
    assert_eq!(left().await, 3);
    repository(5_100).await;
    let why = builds.why_disk_is_used_up(&app).await.expect("nothing more can go");
    assert!(why.contains("disk space"), "{why}");
    host.close().await;
}
