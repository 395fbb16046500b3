//! Apps and their releases, config vars and events.

mod support;

use ferroku_core::collaborator::Permission;
use ferroku_core::config_var::{ConfigPatch, ConfigVars, MAX_CONFIG_BYTES};
use ferroku_core::dyno::{DynoKind, DynoState};
use ferroku_core::event::Actor;
use ferroku_core::release::ReleaseStatus;
use ferroku_core::{AppId, ReleaseId, SlugId};
use ferroku_store::apps::{AppChange, DESTROY_JOB, Destroyed};
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use ferroku_store::{
    Result, Store, StoreError, accounts, apps, collaborators, dynos, events, formations, jobs, releases,
    sqlx, write,
};
use sqlx::Row;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};
use support::{account, app, each_database};
use uuid::Uuid;

fn patch(entries: &[(&str, Option<&str>)]) -> ConfigPatch {
    entries.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
}

fn vars(entries: &[(&str, &str)]) -> ConfigVars {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A slug with one process type.
async fn slug(store: &Store, app_id: AppId, digest: &str, process_types: &str) -> SlugId {
    let id = SlugId(Uuid::new_v4());
    let made: Result<()> = async {
        write!(store, tx => {
            sqlx::query(
                "INSERT INTO slug (id, app_id, digest, stack, size_bytes, process_types, \
                 buildpack_provided_description, created_at) VALUES ($1, $2, $3, 'heroku-24', 77, $4, 'Python', 5)",
            )
            .bind(id.to_string())
            .bind(app_id.to_string())
            .bind(digest)
            .bind(process_types)
            .execute(&mut *tx)
            .await
            .map_err(|source| StoreError::Query { action: "prepare a slug", source })?;
            Ok(())
        })
    }
    .await;
    made.expect("a slug");
    id
}

async fn release(
    store: &Store,
    actor: &Actor,
    app_id: AppId,
    slug: SlugChange,
    config: ConfigChange,
) -> Result<i64> {
    let id = ReleaseId(Uuid::new_v4());
    write!(store, tx => {
        let new = NewRelease {
            id,
            app_id,
            actor,
            description: "Deploy abcdef12".to_owned(),
            slug,
            config: config.clone(),
        };
        Ok(releases::create(&mut tx, store.key(), new, 2000).await?.version)
    })
}

/// Rows are kept from one read to the next only while nothing is written.
#[tokio::test]
async fn whoever_has_seen_a_write_never_reads_what_was_before_it() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let shop = app(&store, "shop", &actor).await;
        for round in 0..20 {
            let (name, other) = if round % 2 == 0 { ("shop", "store") } else { ("store", "shop") };
            for _ in 0..2 {
                let read = apps::find(&store, name).await.expect("read").expect("its name");
                assert_eq!((read.id, read.maintenance), (shop.id, round % 3 == 1));
            }
            let change = AppChange {
                name: Some(other.to_owned()),
                maintenance: Some((round + 1) % 3 == 1),
                ..AppChange::default()
            };
            apps::update(&store, shop.id, &change, &actor, 2).await.expect("changed");
            assert_eq!(
                apps::find(&store, name).await.expect("read"),
                None,
                "another's name now, or nobody's"
            );
        }
    })
    .await;
}

/// A client that leaves while its change is being committed.
#[tokio::test]
async fn a_change_that_nobody_waits_for_is_seen_all_the_same() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let shop = app(&store, "shop", &actor).await;
        for limit in 0..12 {
            let kept = apps::find(&store, "shop").await.expect("read").expect("it is there");
            let change = AppChange { maintenance: Some(!kept.maintenance), ..AppChange::default() };
            let mut update = Box::pin(apps::update(&store, shop.id, &change, &actor, limit));
            // Given up at each place where it waits, one after the other.
            let mut waits = 0;
            poll_fn(|context| {
                waits += 1;
                let ended = update.as_mut().poll(context).is_ready() || waits > limit;
                if ended { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            drop(update);
            // Its commit may end now; nothing else is written that would make all be read anew.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let begun = Instant::now();
            loop {
                let found = apps::find(&store, "shop").await.expect("read");
                let listed = apps::list(&store).await.expect("read").pop();
                if found == listed {
                    break;
                }
                assert!(
                    begun.elapsed().as_secs() < 60,
                    "given up after {limit} waits: {found:?}, {listed:?}"
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_app_begins_with_two_releases_their_events_and_its_owner() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let made = app(&store, "shop", &actor).await;
        for name in ["shop", &made.id.to_string()] {
            assert_eq!(apps::find(&store, name).await.expect("read").as_ref(), Some(&made));
        }
        assert_eq!(apps::find(&store, "other").await.expect("read"), None);
        let all = releases::list(&store, made.id).await.expect("listed");
        let told: Vec<_> =
            all.iter().map(|one| (one.version, one.description.as_str(), one.slug_id)).collect();
        assert_eq!(told, [(1, "Initial release", None), (2, "Enable Logplex", None)]);
        assert_eq!(all[0].config_snapshot_id, all[1].config_snapshot_id, "equal vars share a snapshot");
        assert_eq!(releases::current(&store, made.id).await.expect("read").as_ref(), Some(&all[1]));
        assert_eq!(releases::app_config_vars(&store, made.id).await.expect("read"), ConfigVars::new());
        let events = events::after(&store, 0, 100).await.expect("read");
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.sequence, event.kind.as_str(), event.log_message.as_deref().unwrap_or("")))
            .collect();
        let expected = [
            (1, "app.create", "Create shop"),
            (2, "release.create", "Initial release\nRelease v1 created"),
            (3, "release.create", "Enable Logplex\nRelease v2 created"),
        ];
        assert_eq!(told, expected);
        assert_eq!(events::after(&store, 1, 1).await.expect("read")[0].sequence, 2);
        let people = collaborators::list(&store, made.id).await.expect("listed");
        assert_eq!(people.len(), 1);
        assert_eq!((people[0].email.as_str(), people[0].permissions.len()), ("me@example.com", 4));
    })
    .await;
}

#[tokio::test]
async fn names_are_unique_and_a_failed_creation_leaves_nothing() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let first = app(&store, "shop", &actor).await;
        let new = apps::NewApp { id: AppId(Uuid::new_v4()), name: "shop", stack: "s", region: "r" };
        let error = apps::create(&store, &new, &actor, 1).await.expect_err("taken");
        assert!(matches!(error, StoreError::Taken { what: "app name" }), "{error}");
        assert_eq!(events::after(&store, 3, 10).await.expect("read"), []);
        let second = app(&store, "other", &actor).await;
        let change = AppChange { name: Some("shop".to_owned()), ..AppChange::default() };
        let error = apps::update(&store, second.id, &change, &actor, 2).await.expect_err("taken");
        assert!(matches!(error, StoreError::Taken { .. }), "{error}");
        let change = AppChange { maintenance: Some(true), ..AppChange::default() };
        let changed = apps::update(&store, second.id, &change, &actor, 2).await.expect("changed");
        assert_eq!((changed.name.as_str(), changed.maintenance, changed.updated_at), ("other", true, 2));
        let change = AppChange { name: Some("third".to_owned()), ..AppChange::default() };
        let changed = apps::update(&store, second.id, &change, &actor, 3).await.expect("changed");
        assert_eq!((changed.name.as_str(), changed.maintenance), ("third", true));
        assert_eq!(first.uid_base % 65_536, 0);
        assert_eq!(second.uid_base - first.uid_base, 65_536);
    })
    .await;
}

#[tokio::test]
async fn a_uid_range_is_never_given_again_and_a_destroyed_apps_name_is_free() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let first = app(&store, "shop", &actor).await;
        let slug_id = slug(&store, first.id, "digest", r#"{"web": "x"}"#).await;
        release(&store, &actor, first.id, SlugChange::Set(slug_id), ConfigChange::Keep)
            .await
            .expect("released");
        let destroyed = apps::destroy(&store, first.id, &actor, 9).await.expect("destroyed");
        let expected =
            Destroyed { app_id: first.id, name: "shop".into(), slug_digests: vec!["digest".into()] };
        assert_eq!(destroyed, expected);
        let open = jobs::open(&store, DESTROY_JOB).await.expect("read");
        assert_eq!((open.len(), open[0].app_id, open[0].attempts), (1, Some(first.id), 0));
        assert_eq!(serde_json::from_str::<Destroyed>(&open[0].payload).expect("JSON"), expected);
        for table in
            ["app", "release", "slug", "config_snapshot", "collaborator", "formation", "dyno", "build"]
        {
            let count = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) AS count FROM {table}"));
            let row = sqlx::query(count).fetch_one(store.reader()).await.expect("counted");
            assert_eq!(row.try_get::<i64, _>("count").expect("a number"), 0, "{table}");
        }
        let error = apps::destroy(&store, first.id, &actor, 9).await.expect_err("gone");
        assert!(matches!(error, StoreError::NotFound { what: "app" }), "{error}");
        assert!(app(&store, "shop", &actor).await.uid_base > first.uid_base);
        jobs::attempt(&store, open[0].id, 10).await.expect("counted");
        assert_eq!(jobs::open(&store, DESTROY_JOB).await.expect("read")[0].attempts, 1);
        jobs::finish(&store, open[0].id).await.expect("finished");
        assert_eq!(jobs::open(&store, DESTROY_JOB).await.expect("read"), []);
    })
    .await;
}

#[tokio::test]
async fn config_vars_are_sealed_and_change_by_whole_releases() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let id = app(&store, "shop", &actor).await.id;
        let set = |entries: &[(&str, Option<&str>)]| {
            let (store, actor, patch) = (store.clone(), actor.clone(), patch(entries));
            async move { releases::patch_config_vars(&store, id, &patch, &actor, 5).await }
        };
        let (now, release) = set(&[("A", Some("secret-1")), ("B", Some(""))]).await.expect("set");
        assert_eq!(now, vars(&[("A", "secret-1"), ("B", "")]));
        assert_eq!(release.expect("made").description, "Set A, B config vars");
        assert_eq!(set(&[("A", Some("secret-1")), ("X", None)]).await.expect("nothing").1, None);
        assert!(matches!(set(&[("C", Some("1")), ("1A", Some("x"))]).await, Err(StoreError::Refused(_))));
        let large = "x".repeat(MAX_CONFIG_BYTES);
        assert!(matches!(set(&[("C", Some(&large))]).await, Err(StoreError::Refused(_))));
        let (_, release) = set(&[("A", None)]).await.expect("removed");
        assert_eq!(release.expect("made").version, 4);
        assert_eq!(releases::app_config_vars(&store, id).await.expect("read"), vars(&[("B", "")]));
        let v3 = releases::find(&store, id, "v3").await.expect("read").expect("there");
        assert_eq!(
            releases::config_vars(&store, &v3).await.expect("read"),
            vars(&[("A", "secret-1"), ("B", "")])
        );
        let rows =
            sqlx::query("SELECT sealed FROM config_snapshot").fetch_all(store.reader()).await.expect("read");
        assert_eq!(rows.len(), 3);
        for row in rows {
            assert!(!row.try_get::<String, _>("sealed").expect("text").contains("secret"));
        }
        let error = set_of_missing_app(&store, &actor).await;
        assert!(matches!(error, StoreError::NotFound { what: "app" }), "{error}");
    })
    .await;
}

async fn set_of_missing_app(store: &Store, actor: &Actor) -> StoreError {
    let missing = AppId(Uuid::new_v4());
    releases::patch_config_vars(store, missing, &patch(&[("A", Some("1"))]), actor, 5)
        .await
        .expect_err("no app")
}

/// The only release command of the app ends.
async fn end_command(store: &Store, app_id: AppId, status: Option<i32>, stopped: bool) {
    let living = dynos::list(store, app_id).await.expect("read");
    let [dyno] = living.as_slice() else { panic!("one dyno: {living:?}") };
    assert_eq!((dyno.kind, dyno.process_type.as_str()), (DynoKind::Release, "release"));
    let ended: Result<()> = async {
        write!(store, tx => {
            if stopped {
                dynos::set_stopping(&mut tx, dyno.id, 2900).await?;
            }
            dynos::end(&mut tx, dyno.id, DynoState::Complete, status, 3000).await
        })
    }
    .await;
    ended.expect("ended");
}

#[tokio::test]
async fn a_release_command_decides_whether_its_release_takes_effect() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let id = app(&store, "shop", &actor).await.id;
        let keep = || ConfigChange::Keep;
        let set = |slug| release(&store, &actor, id, SlugChange::Set(slug), keep());
        let with = slug(&store, id, "one", r#"{"web": "serve", "release": "migrate"}"#).await;
        let current = async || releases::current(&store, id).await.expect("read").expect("one").version;
        let formation = async || {
            let types = formations::list(&store, id).await.expect("read");
            types.into_iter().map(|one| (one.process_type, one.quantity)).collect::<Vec<_>>()
        };
        assert_eq!(set(with).await.expect("written"), 3);
        let pending = releases::find(&store, id, "3").await.expect("read").expect("there");
        assert_eq!(pending.status, ReleaseStatus::Pending);
        let dyno = dynos::list(&store, id).await.expect("read").remove(0);
        assert_eq!(pending.command_dyno, Some(dyno.name()));
        assert_eq!(
            (dyno.command.as_str(), dyno.release_id, dyno.expires_at),
            ("migrate", pending.id, Some(3_602_000))
        );
        assert_eq!((current().await, formation().await), (2, vec![("release".to_owned(), 0)]));
        // Nothing may come in between: which release would be the newest?
        let vars = patch(&[("A", Some("1"))]);
        for refused in
            [set(with).await.err(), releases::patch_config_vars(&store, id, &vars, &actor, 5).await.err()]
        {
            let Some(StoreError::Refused(why)) = refused else { panic!("{refused:?}") };
            assert!(why.contains(&format!("heroku ps:stop {}", dyno.name())), "{why}");
        }
        // A command that was told to stop has not succeeded, whatever it says.
        end_command(&store, id, Some(0), true).await;
        assert_eq!((current().await, formation().await), (2, vec![("release".to_owned(), 0)]));
        assert_eq!(set(with).await.expect("written"), 4);
        end_command(&store, id, Some(0), false).await;
        assert_eq!(current().await, 4);
        assert_eq!(
            formation().await,
            [("release".to_owned(), 0), ("web".to_owned(), 1)],
            "as a first deploy"
        );
        releases::patch_config_vars(&store, id, &vars, &actor, 6).await.expect("set");
        end_command(&store, id, None, false).await;
        assert_eq!(current().await, 4, "a dyno that was lost is no success");
        assert_eq!(
            releases::app_config_vars(&store, id).await.expect("read").len(),
            1,
            "what was set stays set"
        );
        let again =
            releases::release_slug(&store, id, with, "Retry of v5", &actor, 7).await.expect("released");
        assert_eq!((again.version, again.slug_id), (6, Some(with)));
        end_command(&store, id, Some(0), false).await;
        assert_eq!(current().await, 6);
        // A rollback that fails brings no config vars back.
        let back = releases::rollback(&store, id, "4", &actor, 7).await.expect("begun");
        assert_eq!(releases::config_vars(&store, &back).await.expect("read").len(), 0);
        end_command(&store, id, Some(1), false).await;
        assert_eq!(releases::app_config_vars(&store, id).await.expect("read").len(), 1, "the app's own");
        let told: Vec<String> = events::after(&store, 0, 100)
            .await
            .expect("read")
            .into_iter()
            .filter_map(|event| event.log_message)
            .collect();
        // Behind the app's creation and its first two releases.
        let told = told[3..].join("\n");
        let expected = "Deploy abcdef12\nRunning release v3 commands\nRelease v3 command failed\n\
             Deploy abcdef12\nRunning release v4 commands\nRelease v4 created\n\
             Set A config vars\nRunning release v5 commands\nRelease v5 command failed\n\
             Retry of v5\nRunning release v6 commands\nRelease v6 created\n\
             Rollback to v4\nRunning release v7 commands\nRelease v7 command failed";
        assert_eq!(told, expected);
        let other = app(&store, "other", &actor).await.id;
        let foreign = releases::release_slug(&store, other, with, "x", &actor, 8).await;
        assert!(matches!(foreign, Err(StoreError::NotFound { what: "slug" })));
    })
    .await;
}

#[tokio::test]
async fn a_release_that_failed_is_not_current_but_its_config_vars_stay() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let id = app(&store, "shop", &actor).await.id;
        let slug_id = slug(&store, id, "one", r#"{"web": "serve", "release": "migrate"}"#).await;
        let config = ConfigChange::Patch(patch(&[("A", Some("1"))]));
        let failed = release(&store, &actor, id, SlugChange::Set(slug_id), config).await;
        assert_eq!(failed.expect("written"), 3);
        end_command(&store, id, Some(1), false).await;
        assert_eq!(releases::current(&store, id).await.expect("read").map(|one| one.version), Some(2));
        assert_eq!(releases::app_config_vars(&store, id).await.expect("read"), vars(&[("A", "1")]));
        assert_eq!(apps::by_id(&store, id).await.expect("read").expect("there").slug_size_bytes, 0);
        // A later change keeps the slug of the current release, not of the one that failed.
        let version = release(&store, &actor, id, SlugChange::Keep, ConfigChange::Keep).await;
        assert_eq!(version.expect("written"), 4);
        let current = releases::current(&store, id).await.expect("read").expect("there");
        assert_eq!((current.version, current.slug_id), (4, None));
        assert_eq!(releases::config_vars(&store, &current).await.expect("read"), vars(&[("A", "1")]));
    })
    .await;
}

#[tokio::test]
async fn a_rollback_brings_back_code_config_vars_and_process_types() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let id = app(&store, "shop", &actor).await.id;
        let keep = || ConfigChange::Keep;
        let deploy = |slug| release(&store, &actor, id, SlugChange::Set(slug), keep());
        let one = slug(&store, id, "one", r#"{"web": "old", "worker": "w"}"#).await;
        let two = slug(&store, id, "two", r#"{"web": "new"}"#).await;
        assert_eq!(deploy(one).await.expect("released"), 3);
        let set = patch(&[("A", Some("1"))]);
        releases::patch_config_vars(&store, id, &set, &actor, 5).await.expect("set");
        assert_eq!(deploy(two).await.expect("released"), 5);
        let there = apps::by_id(&store, id).await.expect("read").expect("there");
        let described = there.buildpack_provided_description.as_deref();
        assert_eq!((there.slug_size_bytes, described, there.released_at), (77, Some("Python"), Some(2000)));

        let back = releases::rollback(&store, id, "v3", &actor, 6).await.expect("rolled back");
        assert_eq!((back.version, back.description.as_str(), back.slug_id), (6, "Rollback to v3", Some(one)));
        assert_eq!(releases::app_config_vars(&store, id).await.expect("read"), ConfigVars::new());
        let formation = formations::list(&store, id).await.expect("read");
        let types: Vec<_> =
            formation.iter().map(|one| (one.process_type.as_str(), one.command.as_str())).collect();
        assert_eq!(types, [("web", "old"), ("worker", "w")]);

        let refused = releases::rollback(&store, id, "2", &actor, 7).await.expect_err("no code");
        assert!(refused.to_string().contains("without code"), "{refused}");
        let missing = releases::rollback(&store, id, "v99", &actor, 7).await.expect_err("missing");
        assert!(matches!(missing, StoreError::NotFound { what: "release" }), "{missing}");
        assert_eq!(releases::list(&store, id).await.expect("read").len(), 6, "a refusal writes nothing");
    })
    .await;
}

#[tokio::test]
async fn releases_and_events_written_at_once_are_numbered_without_gaps() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        let (one, two) = (app(&store, "one", &actor).await.id, app(&store, "two", &actor).await.id);
        let tasks: Vec<_> = (0..16)
            .map(|number| {
                let (store, actor) = (store.clone(), actor.clone());
                let id = if number % 2 == 0 { one } else { two };
                let name = format!("N{number}");
                tokio::spawn(async move {
                    let patch = patch(&[(&name, Some("x"))]);
                    releases::patch_config_vars(&store, id, &patch, &actor, 5).await
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("ran").expect("written");
        }
        for id in [one, two] {
            let all = releases::list(&store, id).await.expect("read");
            let versions: Vec<i64> = all.iter().map(|release| release.version).collect();
            assert_eq!(versions, (1..=10).collect::<Vec<i64>>());
            assert_eq!(
                releases::app_config_vars(&store, id).await.expect("read").len(),
                8,
                "no change was lost"
            );
        }
        let events = events::after(&store, 0, 1000).await.expect("read");
        let numbers: Vec<i64> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, (1..=22).collect::<Vec<i64>>());
    })
    .await;
}

#[tokio::test]
async fn an_account_sees_its_own_apps_and_those_it_collaborates_on() {
    each_database(|store| async move {
        let (me, you) = (account(&store, "me@example.com").await, account(&store, "you@example.com").await);
        let mine = app(&store, "mine", &me).await;
        app(&store, "yours", &you).await;
        let names =
            |apps: Vec<ferroku_core::app::App>| apps.into_iter().map(|app| app.name).collect::<Vec<_>>();
        let seen = |who: &Actor| {
            let (store, id) = (store.clone(), who.account_id);
            async move { names(apps::list_for_account(&store, id).await.expect("listed")) }
        };
        assert_eq!((seen(&me).await, seen(&you).await), (vec!["mine".to_owned()], vec!["yours".to_owned()]));
        let add = || async {
            write!(&store, tx => {
                collaborators::create(&mut tx, mine.id, you.account_id, &[Permission::View].into(), 5).await
            })
        };
        add().await.expect("added");
        assert!(matches!(add().await, Err(StoreError::Taken { .. })));
        assert_eq!(seen(&you).await, ["mine", "yours"]);
        let granted = collaborators::permissions(&store, mine.id, you.account_id).await.expect("read");
        assert_eq!(granted, [Permission::View].into());
        assert_eq!(names(apps::list(&store).await.expect("listed")), ["mine", "yours"]);
        assert_eq!(accounts::emails(&store).await.expect("read").len(), 2);
    })
    .await;
}
