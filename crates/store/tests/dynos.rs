//! Rows of dynos and of the formation.

mod support;

use ferroku_core::dyno::{DynoKind, DynoState};
use ferroku_core::planner::Crash;
use ferroku_core::slug::ProcessTypes;
use ferroku_core::{AppId, DynoId, ReleaseId};
use ferroku_store::dynos::{NewDynoRow, OneOffOptions, Selector};
use ferroku_store::{
    Result, Store, StoreError, apps, dyno_crashes, dynos, eco_hours, formations, releases, sqlx, write,
};
use support::{account, app, each_database};
use uuid::Uuid;

struct Fixture {
    store: Store,
    app: AppId,
    release: ReleaseId,
}

async fn fixture(store: Store) -> Fixture {
    let actor = account(&store, "me@example.com").await;
    let app = app(&store, "shop", &actor).await.id;
    let release = releases::current(&store, app).await.expect("read").expect("every app has one").id;
    Fixture { store, app, release }
}

fn types(list: &[(&str, &str)]) -> ProcessTypes {
    list.iter().map(|(name, command)| ((*name).to_owned(), (*command).to_owned())).collect()
}

impl Fixture {
    async fn apply(&self, list: &[(&str, &str)], first: bool, now: i64) -> Result<()> {
        write!(&self.store, tx => { formations::apply_process_types(&mut tx, self.app, &types(list), first, now).await })
    }

    async fn formation(&self) -> Vec<(String, String, u32, i64)> {
        let all = formations::list(&self.store, self.app).await.expect("lists");
        all.into_iter().map(|one| (one.process_type, one.command, one.quantity, one.updated_at)).collect()
    }

    async fn dyno(
        &self,
        process_type: &str,
        ordinal: u32,
        options: Option<&OneOffOptions>,
    ) -> Result<DynoId> {
        let id = DynoId(Uuid::new_v4());
        let new = NewDynoRow {
            id,
            app_id: self.app,
            kind: if options.is_some() { DynoKind::Run } else { DynoKind::Formation },
            process_type,
            ordinal,
            release_id: self.release,
            release_version: 1,
            restart_generation: 0,
            size: "basic",
            command: "sleep 1",
            port: 23456,
            attached: options.is_some(),
            options,
            expires_at: None,
        };
        write!(&self.store, tx => { dynos::create(&mut tx, self.store.key(), &new, 10).await })?;
        Ok(id)
    }
}

#[tokio::test]
async fn living_dynos_are_counted_by_state() {
    each_database(|store| async move {
        let fixture = fixture(store).await;
        let web = fixture.dyno("web", 1, None).await.expect("written");
        fixture.dyno("web", 2, None).await.expect("written");
        let ended = fixture.dyno("worker", 1, None).await.expect("written");
        let store = &fixture.store;
        let written: Result<()> = async {
            write!(store, tx => {
                dynos::set_state(&mut tx, web, DynoState::Up, None, 5).await?;
                dynos::end(&mut tx, ended, DynoState::Down, None, 6).await?;
                Ok(())
            })
        }
        .await;
        written.expect("written");
        let counts = dynos::counts(store).await.expect("read");
        let counts: Vec<_> = counts
            .iter()
            .map(|count| (count.process_type.as_str(), count.state.as_str(), count.dynos))
            .collect();
        assert_eq!(counts, [("web", "created", 1), ("web", "up", 1)]);
    })
    .await;
}

#[tokio::test]
async fn process_types_follow_the_slug_and_keep_what_the_user_chose() {
    each_database(|store| async move { process_types_on(store).await.expect("no error") }).await;
}

async fn process_types_on(store: Store) -> Result<()> {
    let fixture = fixture(store).await;
    fixture.apply(&[("web", "a"), ("worker", "b")], true, 1).await?;
    assert_eq!(
        fixture.formation().await,
        [("web".into(), "a".into(), 1, 1), ("worker".into(), "b".into(), 0, 1)]
    );
    let (app, store) = (fixture.app, &fixture.store);
    let scaled: Result<()> =
        write!(store, tx => { formations::update(&mut tx, app, "worker", 3, "standard-2x", 2).await });
    scaled?;
    let wanted: Result<_> = write!(store, tx => { formations::quantities_by_size(&mut tx).await });
    assert_eq!(wanted?, [("basic".to_owned(), 1), ("standard-2x".to_owned(), 3)], "of all apps");
    fixture.apply(&[("worker", "c"), ("clock", "d")], false, 3).await?;
    assert_eq!(
        fixture.formation().await,
        [("clock".into(), "d".into(), 0, 3), ("worker".into(), "c".into(), 3, 3)],
        "web is gone, the worker keeps its number"
    );
    assert_eq!(formations::list(store, app).await?[1].size, "standard-2x");
    let missing: Result<()> =
        write!(store, tx => { formations::update(&mut tx, app, "web", 1, "basic", 4).await });
    assert!(matches!(missing, Err(ferroku_store::StoreError::NotFound { what: "process type" })));
    Ok(())
}

#[tokio::test]
async fn a_dyno_row_keeps_each_step_and_a_crashed_one_its_label() {
    each_database(|store| async move { steps_on(store).await.expect("no error") }).await;
}

async fn steps_on(store: Store) -> Result<()> {
    let fixture = fixture(store).await;
    let (app, store) = (fixture.app, &fixture.store);
    let id = fixture.dyno("web", 1, None).await?;
    let steps: Result<()> = write!(store, tx => {
        dynos::set_state(&mut tx, id, DynoState::Starting, Some("10.1.0.2:23456"), 11).await?;
        dynos::set_state(&mut tx, id, DynoState::Up, None, 12).await?;
        dynos::retire(&mut tx, id, false, 13).await?;
        dynos::retire(&mut tx, id, true, 14).await?;
        dynos::set_stopping(&mut tx, id, 15).await?;
        dynos::set_stopping(&mut tx, id, 99).await
    });
    steps?;
    let row = dynos::find(store, id).await?.expect("there");
    assert_eq!(row.name(), "web.1");
    assert_eq!(
        (row.state, row.port, row.address.as_deref(), row.updated_at),
        (DynoState::Up, Some(23456), Some("10.1.0.2:23456"), 12)
    );
    assert_eq!(
        (row.retired_at, row.draining_at, row.stopping_at, row.ended_at),
        (Some(13), Some(14), Some(15), None)
    );
    let ended: Result<()> = write!(store, tx => {
        dynos::end(&mut tx, id, DynoState::Crashed, Some(143), 16).await?;
        dynos::end(&mut tx, id, DynoState::Down, None, 17).await?;
        dynos::set_state(&mut tx, id, DynoState::Up, None, 18).await
    });
    ended?;
    let row = dynos::find(store, id).await?.expect("kept as history");
    assert_eq!(
        (row.state, row.exit_status, row.ended_at),
        (DynoState::Crashed, Some(143), Some(16)),
        "ends once"
    );
    assert!(dynos::list(store, app).await?.is_empty(), "retired and ended");

    let crashed = fixture.dyno("web", 1, None).await?;
    let end: Result<u64> = write!(store, tx => {
        dynos::end(&mut tx, crashed, DynoState::Crashed, Some(1), 20).await?;
        dynos::prune(&mut tx, 1_000).await
    });
    assert_eq!(end?, 1, "only the retired one is pruned");
    assert_eq!(dynos::list(store, app).await?.iter().map(|dyno| dyno.id).collect::<Vec<_>>(), [crashed]);
    assert!(dynos::list_living(store).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_a_one_off_was_asked_for_is_sealed_and_forgotten_at_its_end() {
    each_database(|store| async move { one_off_on(store).await.expect("no error") }).await;
}

async fn one_off_on(store: Store) -> Result<()> {
    let fixture = fixture(store).await;
    let store = &fixture.store;
    let asked = OneOffOptions { environment: [("TOKEN".into(), "hush".into())].into(), terminal: true };
    let id = fixture.dyno("run", 4321, Some(&asked)).await?;
    assert!(dynos::options(store, id).await?.expect("there") == asked);
    let raw: (String,) = sqlx::query_as("SELECT options FROM dyno WHERE id = $1")
        .bind(id.to_string())
        .fetch_one(store.reader())
        .await
        .expect("row");
    assert!(!raw.0.contains("hush"));
    let ended: Result<()> =
        write!(store, tx => { dynos::end(&mut tx, id, DynoState::Complete, Some(0), 11).await });
    ended?;
    assert!(dynos::options(store, id).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn asking_for_a_restart_or_a_stop_names_dynos_and_forgets_their_crashes() {
    each_database(|store| async move { requests_on(store).await.expect("no error") }).await;
}

async fn requests_on(store: Store) -> Result<()> {
    let fixture = fixture(store).await;
    let (app, store) = (fixture.app, &fixture.store);
    let web = fixture.dyno("web", 1, None).await?;
    let worker = fixture.dyno("worker", 1, None).await?;
    let crash = |process_type: &str| Crash {
        process_type: process_type.into(),
        ordinal: 1,
        release_version: 1,
        restart_generation: 0,
        crashes: 3,
        next_start_at: 777,
    };
    let recorded: Result<u64> = write!(store, tx => {
        dyno_crashes::record(&mut tx, app, &crash("web")).await?;
        dyno_crashes::record(&mut tx, app, &crash("worker")).await?;
        dynos::request_restart(&mut tx, app, &Selector::One(web), 30).await
    });
    assert_eq!(recorded?, 1);
    assert_eq!(dyno_crashes::list(store, app).await?, [crash("worker")]);
    let stopped: Result<u64> =
        write!(store, tx => { dynos::request_stop(&mut tx, app, &Selector::Type("worker"), 31).await });
    assert_eq!(stopped?, 1);
    assert!(dyno_crashes::list(store, app).await?.is_empty());
    let row = |id| dynos::find(store, id);
    assert_eq!(row(web).await?.expect("there").restart_requested_at, Some(30));
    assert_eq!(row(worker).await?.expect("there").stop_requested_at, Some(31));
    let other: Result<u64> = write!(store, tx => {
        dynos::request_stop(&mut tx, AppId(Uuid::new_v4()), &Selector::One(web), 32).await
    });
    assert_eq!(other?, 0, "another app's dyno");
    Ok(())
}

#[tokio::test]
async fn a_store_whose_disk_was_full_can_be_written_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("sqlite://{}", folder.path().join("store.sqlite").display());
    let store = Store::open(&url, ferroku_store::MasterKey::new("k", [7; 32])).await.expect("opens");
    for _ in 0..3 {
        let full: Result<()> = async {
            write!(&store, tx => {
                // As much as it has now, and not a page more: SQLite says then what it says of a full disk.
                let limit = sqlx::query("PRAGMA max_page_count = 1").execute(&mut *tx).await;
                limit.expect("of this connection only");
                for number in 0..200 {
                    let sql = "INSERT INTO node_setting (key, value) VALUES ($1, $2)";
                    let added = sqlx::query(sql).bind(format!("k{number}")).bind("x".repeat(4_000));
                    added.execute(&mut *tx).await.map_err(|source| ferroku_store::StoreError::Query { action: "add", source })?;
                }
                Ok(())
            })
        }
        .await;
        assert!(full.as_ref().is_err_and(|error| error.is_disk_full()), "{full:?}");
        ferroku_store::node_settings::set(&store, "after", "wards")
            .await
            .expect("another connection is made");
    }
    assert_eq!(
        ferroku_store::node_settings::get(&store, "k0").await.expect("reads"),
        None,
        "nothing half done"
    );
}

#[tokio::test]
async fn eco_hours_are_counted_while_a_dyno_is_awake_for_whoever_has_the_app() {
    each_database(|store| async move { eco_hours_on(store).await.expect("no error") }).await;
}

async fn eco_hours_on(store: Store) -> Result<()> {
    const DECEMBER: i64 = 1_796_083_200_000;
    const MINUTE: i64 = 60_000;
    let fixture = fixture(store).await;
    let store = &fixture.store;
    let owner = apps::by_id(store, fixture.app).await?.expect("there").owner_id;
    let used = async |account, now| {
        let used = eco_hours::used(store, account, now).await?;
        Ok::<_, StoreError>((used.by_app.values().sum::<i64>(), used.awake))
    };
    let [eco, basic] = [fixture.dyno("web", 1, None).await?, fixture.dyno("clock", 1, None).await?];
    let resized: Result<()> = async {
        write!(store, tx => {
            let query = sqlx::query("UPDATE dyno SET size = 'eco' WHERE id = $1").bind(eco.to_string());
            query.execute(&mut *tx).await.expect("another size");
            Ok(())
        })
    }
    .await;
    resized?;
    let set = async |id, state, now| -> Result<()> {
        write!(store, tx => { dynos::set_state(&mut tx, id, state, None, now).await })
    };
    let begin = DECEMBER - 30 * MINUTE;
    for id in [eco, basic] {
        set(id, DynoState::Starting, begin).await?;
        set(id, DynoState::Up, begin + MINUTE).await?;
    }
    assert_eq!(used(owner, begin + 10 * MINUTE).await?, (10 * MINUTE, 1), "the basic one does not count");
    let counted: Result<()> =
        async { write!(store, tx => { eco_hours::count_all(&mut tx, begin + 20 * MINUTE).await }) }.await;
    counted?;
    assert_eq!(used(owner, begin + 20 * MINUTE).await?, (20 * MINUTE, 1));
    // Over the end of the month; then asleep; then awake, and gone.
    assert_eq!(used(owner, DECEMBER + 5 * MINUTE).await?, (5 * MINUTE, 1));
    set(eco, DynoState::Idle, DECEMBER + 5 * MINUTE).await?;
    assert_eq!(used(owner, DECEMBER + 50 * MINUTE).await?, (5 * MINUTE, 0));
    set(eco, DynoState::Up, DECEMBER + 50 * MINUTE).await?;

    // The next owner starts at nothing.
    let other = account(store, "other@example.com").await;
    let given =
        apps::give_to_account(store, fixture.app, other.account_id, &other, DECEMBER + 55 * MINUTE).await?;
    assert_eq!(given.owner_id, other.account_id);
    assert_eq!(used(owner, DECEMBER + 60 * MINUTE).await?, (10 * MINUTE, 0));
    assert_eq!(used(other.account_id, DECEMBER + 60 * MINUTE).await?, (5 * MINUTE, 1));
    let ended: Result<()> = async {
            write!(store, tx => { dynos::end(&mut tx, eco, DynoState::Crashed, Some(1), DECEMBER + 65 * MINUTE).await })
        }
        .await;
    ended?;
    apps::destroy(store, fixture.app, &other, DECEMBER + 90 * MINUTE).await?;
    assert_eq!(
        used(other.account_id, DECEMBER + 90 * MINUTE).await?,
        (10 * MINUTE, 0),
        "a destroyed app's hours stay"
    );
    assert_eq!(used(owner, begin).await?, (30 * MINUTE, 0), "November's are what they were");
    Ok(())
}
