//! Accounts, authorizations, settings, and opening a store.

mod support;

use ferroku_core::account::Role;
use ferroku_core::oauth_authorization::Scopes;
use ferroku_core::{AccountId, AuthorizationId};
use ferroku_store::accounts::NewAccount;
use ferroku_store::oauth_authorizations::NewAuthorization;
use ferroku_store::{
    Result, Store, StoreError, accounts, events, node_settings, oauth_authorizations, sqlx, write,
};
use support::{account, each_database, execute, key};
use uuid::Uuid;

async fn authorize(store: &Store, account_id: AccountId, hash: &str, expires_at: Option<i64>) -> Result<()> {
    let new = NewAuthorization {
        id: AuthorizationId(Uuid::new_v4()),
        account_id,
        description: "test",
        scope: &Scopes::global(),
        token_hash: hash,
        token_redacted: "HRKU-ab**********cd",
        expires_at,
        is_login: false,
    };
    write!(store, tx => { oauth_authorizations::create(&mut tx, &new, 10).await.map(|_| ()) })
}

#[tokio::test]
async fn an_email_address_has_one_account_whatever_its_case() {
    each_database(|store| async move {
        let actor = account(&store, "Me@Example.com").await;
        let found = accounts::find_by_email(&store, "mE@eXAMPLE.COM").await.expect("read").expect("there");
        assert_eq!(
            (found.id, found.email.as_str(), found.role),
            (actor.account_id, "me@example.com", Role::Member)
        );
        assert_eq!(accounts::find_by_email(&store, "you@example.com").await.expect("read"), None);
        let again = NewAccount {
            id: AccountId(Uuid::new_v4()),
            email: "ME@example.com",
            name: None,
            password_hash: "",
            role: Role::Owner,
        };
        let twice: Result<()> =
            async { write!(&store, tx => { accounts::create(&mut tx, &again, 1).await.map(|_| ()) }) }.await;
        assert!(matches!(twice, Err(StoreError::Taken { what: "email address" })), "{twice:?}");
        let (_, hash) =
            accounts::find_with_password_hash(&store, "me@example.com").await.expect("read").expect("there");
        assert_eq!(hash, "hash");
        accounts::record_login(&store, found.id, 42).await.expect("noted");
        let renamed = accounts::rename(&store, found.id, "Ada", &actor, 43).await.expect("renamed");
        assert_eq!(
            (renamed.name.as_deref(), renamed.last_login_at, renamed.updated_at),
            (Some("Ada"), Some(42), 43)
        );
        assert_eq!(events::after(&store, 0, 10).await.expect("read")[0].kind, "account.update");
        assert_eq!(accounts::first_created_at(&store).await.expect("read"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_token_is_known_by_its_hash_until_it_expires_or_is_deleted() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        authorize(&store, actor.account_id, "for-ever", None).await.expect("made");
        authorize(&store, actor.account_id, "short", Some(20)).await.expect("made");
        for (hash, now, known) in
            [("for-ever", 1_000_000, true), ("short", 19, true), ("short", 20, false), ("other", 19, false)]
        {
            let found = accounts::by_token_hash(&store, hash, now).await.expect("read");
            assert_eq!(found.is_some(), known, "{hash} at {now}");
        }
        let listed = oauth_authorizations::list(&store, actor.account_id, 20).await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].scope, listed[0].expires_at), (&Scopes::global(), None));
        oauth_authorizations::delete(&store, &listed[0], &actor, 30).await.expect("deleted");
        assert!(accounts::by_token_hash(&store, "for-ever", 31).await.expect("read").is_none());
    })
    .await;
}

#[tokio::test]
async fn old_logins_make_room_and_the_api_key_stays() {
    each_database(|store| async move {
        let actor = account(&store, "me@example.com").await;
        authorize(&store, actor.account_id, "api-key", None).await.expect("made");
        let most = oauth_authorizations::MAX_PER_ACCOUNT;
        for number in 0..most + 3 {
            authorize(&store, actor.account_id, &number.to_string(), Some(1_000)).await.expect("made");
        }
        let left =
            oauth_authorizations::list(&store, actor.account_id, 0).await.expect("listed").len() as i64;
        assert!((most..=most + 1).contains(&left), "{left}");
        assert!(accounts::by_token_hash(&store, "api-key", 11).await.expect("read").is_some());
    })
    .await;
}

#[tokio::test]
async fn settings_are_replaced_and_missing_ones_are_none() {
    each_database(|store| async move {
        assert_eq!(node_settings::get(&store, "x").await.expect("read"), None);
        for value in ["1", "2"] {
            node_settings::set(&store, "x", value).await.expect("written");
            assert_eq!(node_settings::get(&store, "x").await.expect("read").as_deref(), Some(value));
        }
    })
    .await;
}

#[tokio::test]
async fn a_failed_transaction_leaves_nothing() {
    each_database(|store| async move {
        let new = NewAccount {
            id: AccountId(Uuid::new_v4()),
            email: "me@example.com",
            name: None,
            password_hash: "",
            role: Role::Member,
        };
        let refused: Result<()> = async {
            write!(&store, tx => {
                accounts::create(&mut tx, &new, 1).await?;
                Err(StoreError::Refused("no".to_owned()))
            })
        }
        .await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
        assert!(accounts::emails(&store).await.expect("read").is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/test.sqlite", folder.path().display());
    let store = Store::open(&url, key()).await.expect("made");
    let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
               VALUES (999, 'from the future', TRUE, x'00', 0)";
    execute(&store, sql.to_owned()).await;
    store.close().await;
    let error = Store::open(&url, key()).await.err().expect("refused");
    assert!(matches!(error, StoreError::SchemaTooNew { found: 999, known: 1..999 }), "{error}");
    assert!(error.to_string().contains("start the newer ferrokud"), "{error}");
}

#[tokio::test]
async fn what_reads_a_sqlite_file_cannot_write_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/test.sqlite", folder.path().display());
    let store = Store::open(&url, key()).await.expect("made");
    account(&store, "me@example.com").await;
    let error = sqlx::query("DELETE FROM account").execute(store.reader()).await.expect_err("refused");
    assert!(error.to_string().contains("readonly"), "{error}");
    assert_eq!(accounts::emails(&store).await.expect("read").len(), 1);
}
