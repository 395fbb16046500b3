//! Tokens of letters, sessions of browsers, second factors, and what changes a whole account.

mod support;

use ferroku_core::mailed_token::Purpose;
use ferroku_core::oauth_authorization::Scopes;
use ferroku_core::{AccountId, AuthorizationId, BrowserSessionId};
use ferroku_store::account_changes::{self, Keep};
use ferroku_store::browser_sessions::{self, NewBrowserSession};
use ferroku_store::mailed_tokens::{self, NewMailedToken};
use ferroku_store::oauth_authorizations::{self, NewAuthorization};
use ferroku_store::{Result, Store, StoreError, accounts, apps, two_factor, write};
use support::each_database;
use uuid::Uuid;

async fn keep_token(store: &Store, token_hash: &str, email: &str, account_id: Option<AccountId>) {
    let purpose = if account_id.is_some() { Purpose::PasswordReset } else { Purpose::SignUp };
    let new = NewMailedToken { token_hash, purpose, email, account_id, expires_at: 100 };
    let kept: Result<()> =
        async { write!(store, tx => { mailed_tokens::create(&mut tx, &new, 1).await }) }.await;
    kept.expect("kept");
}

async fn take(store: &Store, token_hash: &str, now: i64) -> Result<String> {
    write!(store, tx => { Ok(mailed_tokens::take(&mut tx, token_hash, now).await?.email) })
}

#[tokio::test]
async fn a_mailed_token_is_taken_once_in_time_and_only_the_newest() {
    each_database(|store| async move {
        keep_token(&store, "first", "a@example.com", None).await;
        keep_token(&store, "other", "b@example.com", None).await;
        keep_token(&store, "newer", "a@example.com", None).await;
        assert!(mailed_tokens::find(&store, "first", 2).await.expect("read").is_none(), "replaced");
        let found = mailed_tokens::find(&store, "newer", 99).await.expect("read").expect("there");
        assert_eq!((found.purpose, found.email.as_str()), (Purpose::SignUp, "a@example.com"));
        assert!(matches!(take(&store, "newer", 100).await, Err(StoreError::NotFound { .. })), "expired");
        assert_eq!(take(&store, "newer", 99).await.expect("taken"), "a@example.com");
        assert!(matches!(take(&store, "newer", 99).await, Err(StoreError::NotFound { .. })), "taken once");
        assert_eq!(take(&store, "other", 50).await.expect("taken"), "b@example.com");
    })
    .await;
}

async fn session(store: &Store, account_id: AccountId, token_hash: &str, due: bool) -> BrowserSessionId {
    let id = BrowserSessionId(Uuid::new_v4());
    let new = NewBrowserSession {
        id,
        account_id,
        token_hash,
        description: "Firefox",
        second_factor_due: due,
        expires_at: 100,
    };
    let made: Result<()> =
        async { write!(store, tx => { browser_sessions::create(&mut tx, &new, 1).await }) }.await;
    made.expect("a session");
    id
}

async fn authorization(
    store: &Store,
    account_id: AccountId,
    token_hash: &str,
    is_login: bool,
) -> AuthorizationId {
    let id = AuthorizationId(Uuid::new_v4());
    let new = NewAuthorization {
        id,
        account_id,
        description: "x",
        scope: &Scopes::global(),
        token_hash,
        token_redacted: "x",
        expires_at: None,
        is_login,
    };
    let made: Result<_> =
        async { write!(store, tx => { oauth_authorizations::create(&mut tx, &new, 1).await }) }.await;
    made.expect("an authorization");
    id
}

#[tokio::test]
async fn a_new_password_ends_logins_but_those_to_be_kept_and_keys_made_on_purpose() {
    each_database(|store| async move {
        let actor = support::account(&store, "a@example.com").await;
        let other = support::account(&store, "b@example.com").await;
        let kept = session(&store, actor.account_id, "kept", false).await;
        session(&store, actor.account_id, "ended", false).await;
        session(&store, actor.account_id, "half", true).await;
        session(&store, other.account_id, "theirs", false).await;
        let login = authorization(&store, actor.account_id, "login", true).await;
        authorization(&store, actor.account_id, "ended login", true).await;
        authorization(&store, actor.account_id, "key", false).await;
        assert_eq!(browser_sessions::list(&store, actor.account_id, 2).await.expect("listed").len(), 2);
        let keep = Keep { session: Some(kept), authorization: Some(login) };
        let changed: Result<()> = async {
            write!(&store, tx => {
                account_changes::set_password(&mut tx, actor.account_id, "new hash", keep, &actor, 5).await
            })
        }
        .await;
        changed.expect("changed");
        for (cookie, lives) in [("kept", true), ("ended", false), ("half", false), ("theirs", true)] {
            let found = browser_sessions::by_token_hash(&store, cookie, 99).await.expect("read");
            assert_eq!(found.is_some(), lives, "{cookie}");
        }
        assert!(
            browser_sessions::by_token_hash(&store, "kept", 100).await.expect("read").is_none(),
            "expired"
        );
        for (token, lives) in [("login", true), ("ended login", false), ("key", true)] {
            let found = accounts::by_token_hash(&store, token, 5).await.expect("read");
            assert_eq!(found.is_some(), lives, "{token}");
        }
        let (_, hash) =
            accounts::find_with_password_hash(&store, "a@example.com").await.expect("read").expect("there");
        assert_eq!(hash, "new hash");
    })
    .await;
}

#[tokio::test]
async fn a_second_factor_is_offered_proved_used_once_a_step_and_forgotten() {
    each_database(|store| async move {
        let actor = support::account(&store, "a@example.com").await;
        let id = actor.account_id;
        let hashes = ["one".to_owned(), "two".to_owned()];
        assert!(two_factor::enable(&store, id, 7, &hashes, &actor, 5).await.is_err(), "nothing is offered");
        two_factor::offer(&store, id, b"first", 1).await.expect("offered");
        two_factor::offer(&store, id, b"secret", 1).await.expect("offered anew");
        let shared = two_factor::shared(&store, id).await.expect("read").expect("there");
        assert_eq!((shared.secret.as_slice(), shared.enabled), (&b"secret"[..], false));
        assert!(!accounts::find(&store, id).await.expect("read").expect("there").two_factor);
        two_factor::enable(&store, id, 7, &hashes, &actor, 5).await.expect("on");
        assert!(accounts::find(&store, id).await.expect("read").expect("there").two_factor);
        assert!(two_factor::offer(&store, id, b"other", 1).await.is_err(), "on already");
        let steps = [(7, false), (6, false), (9, true), (9, false), (8, false), (10, true)];
        for (step, taken) in steps {
            assert_eq!(two_factor::take_step(&store, id, step).await.expect("asked"), taken, "{step}");
        }
        for (code, taken) in [("one", true), ("one", false), ("three", false)] {
            assert_eq!(
                two_factor::take_recovery_code(&store, id, code).await.expect("asked"),
                taken,
                "{code}"
            );
        }
        assert_eq!(two_factor::recovery_codes_left(&store, id).await.expect("counted"), 1);
        two_factor::disable(&store, id, &actor, 6).await.expect("off");
        assert!(two_factor::shared(&store, id).await.expect("read").is_none());
        assert_eq!(two_factor::recovery_codes_left(&store, id).await.expect("counted"), 0);
    })
    .await;
}

#[tokio::test]
async fn an_account_moves_to_another_address_is_kept_out_and_ends_without_apps() {
    each_database(|store| async move {
        let actor = support::account(&store, "a@example.com").await;
        let id = actor.account_id;
        support::account(&store, "b@example.com").await;
        keep_token(&store, "reset", "a@example.com", Some(id)).await;
        let set_email = |email: &'static str| {
            let (store, actor) = (&store, &actor);
            async move { write!(store, tx => { account_changes::set_email(&mut tx, id, email, actor, 5).await }) }
        };
        assert!(matches!(set_email("B@example.com").await, Err(StoreError::Taken { .. })));
        let account = set_email("New@example.com").await.expect("moved");
        assert_eq!(account.email, "new@example.com");
        assert!(mailed_tokens::find(&store, "reset", 6).await.expect("read").is_none(), "sent to the old one");

        let account = account_changes::set_suspended(&store, id, Some(7), &actor, 7).await.expect("kept out");
        assert_eq!(account.suspended_at, Some(7));
        account_changes::set_suspended(&store, id, None, &actor, 8).await.expect("let in");

        let app = support::app(&store, "example", &actor).await;
        let refused = account_changes::delete(&store, id, &actor, 9).await.expect_err("owns an app");
        assert!(matches!(&refused, StoreError::Refused(why) if why.contains("example")), "{refused}");
        authorization(&store, id, "token", false).await;
        session(&store, id, "cookie", false).await;
        apps::destroy(&store, app.id, &actor, 10).await.expect("destroyed");
        account_changes::delete(&store, id, &actor, 11).await.expect("deleted");
        assert!(accounts::find_by_email(&store, "new@example.com").await.expect("read").is_none());
        assert!(accounts::by_token_hash(&store, "token", 11).await.expect("read").is_none());
        assert!(browser_sessions::by_token_hash(&store, "cookie", 11).await.expect("read").is_none());
        assert_eq!(accounts::list(&store).await.expect("listed").len(), 1);
        let tombstone = format!("{id}@deleted.invalid");
        assert_eq!(accounts::emails(&store).await.expect("read")[&id], tombstone, "releases name it still");
        assert!(accounts::find_by_email(&store, &tombstone).await.expect("read").is_none());
        let again = account_changes::delete(&store, id, &actor, 12).await;
        assert!(matches!(again, Err(StoreError::NotFound { .. })));
        support::account(&store, "new@example.com").await;
    })
    .await;
}
