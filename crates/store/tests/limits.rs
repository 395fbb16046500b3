//! What accounts have and may have, summed on both databases.

mod support;

use ferroku_core::limits::Trust;
use ferroku_core::slug::ProcessTypes;
use ferroku_core::{AccountId, AppId};
use ferroku_store::{Result, Store, StoreError, formations, limits, write};
use support::{account, app, each_database, execute};

async fn usage(store: &Store, account_id: AccountId) -> ferroku_core::limits::Usage {
    let mut connection = store.reader().acquire().await.expect("a connection");
    limits::usage(&mut connection, account_id).await.expect("summed")
}

async fn form(store: &Store, app_id: AppId) {
    let types: ProcessTypes = [("web".to_owned(), "serve".to_owned())].into_iter().collect();
    let made: Result<()> = async {
        write!(store, tx => { formations::apply_process_types(&mut tx, app_id, &types, true, 5).await })
    }
    .await;
    made.expect("a formation");
}

#[tokio::test]
async fn an_accounts_apps_dynos_and_disk_are_summed_and_nobody_elses() {
    each_database(|store| async move {
        let (ada, bob) = (account(&store, "ada@example.com").await, account(&store, "bob@example.com").await);
        let one = app(&store, "one", &ada).await;
        let other = app(&store, "other", &bob).await;
        for app_id in [one.id, other.id] {
            form(&store, app_id).await;
        }
        let before = usage(&store, ada.account_id).await;
        assert_eq!((before.apps, before.dynos, before.memory_bytes), (1, 1, 512 << 20));
        assert!(before.disk_bytes > 0, "its first config snapshot");
        execute(&store, format!("UPDATE app SET repo_size_bytes = 1000 WHERE id = '{}'", one.id)).await;
        for (number, deleted) in [(1, "NULL"), (2, "5")] {
            execute(
                &store,
                format!(
                    "INSERT INTO slug (id, app_id, digest, stack, size_bytes, process_types, deleted_at, created_at) \
                     VALUES ('{number}', '{}', 'd', 'heroku-24', 70, '{{}}', {deleted}, 5)",
                    one.id
                ),
            )
            .await;
        }
        let after = usage(&store, ada.account_id).await;
        assert_eq!(after.disk_bytes - before.disk_bytes, 1_070, "a slug that was removed takes nothing");
        assert_eq!(usage(&store, bob.account_id).await.dynos, 1);
        let crowded = async || limits::crowded_accounts(&store).await.expect("read");
        assert!(crowded().await.is_empty());
        let four_gb = format!("UPDATE slug SET size_bytes = 4294967296 WHERE app_id = '{}'", one.id);
        execute(&store, four_gb).await;
        assert_eq!(crowded().await, [ada.account_id].into(), "from 80 % on");
        limits::set_trust(&store, ada.account_id, Trust::Trusted, &ada, 5).await.expect("set");
        assert!(crowded().await.is_empty(), "of what the account may have");
    })
    .await;
}

#[tokio::test]
async fn builds_at_a_time_and_disk_are_the_owners_and_trust_is_noted() {
    each_database(|store| async move {
        let ada = account(&store, "ada@example.com").await;
        let one = app(&store, "one", &ada).await;
        let check = async || {
            let mut connection = store.reader().acquire().await.expect("a connection");
            limits::check_build(&mut connection, ada.account_id).await
        };
        check().await.expect("the first");
        execute(
            &store,
            format!(
                "INSERT INTO build (id, app_id, account_id, status, stack, buildpacks, created_at, updated_at) \
                 VALUES ('1', '{}', '{}', 'pending', 'heroku-24', '[]', 5, 5)",
                one.id, ada.account_id
            ),
        )
        .await;
        assert!(matches!(check().await, Err(StoreError::Refused(why)) if why.contains("1 builds")));
        limits::set_trust(&store, ada.account_id, Trust::Trusted, &ada, 5).await.expect("set");
        check().await.expect("a trusted account may have more");
        execute(&store, format!("UPDATE app SET repo_size_bytes = 107374182400 WHERE id = '{}'", one.id)).await;
        let mut connection = store.reader().acquire().await.expect("a connection");
        let full = limits::check_disk(&mut connection, one.id).await;
        assert!(matches!(full, Err(StoreError::Refused(why)) if why.contains("disk space")));
        let nobody = AccountId(uuid::Uuid::nil());
        let missing = limits::set_trust(&store, nobody, Trust::Trusted, &ada, 5).await;
        assert!(matches!(missing, Err(StoreError::NotFound { what: "account" })));
    })
    .await;
}
