//! Logins in browsers.
//!
//! A session is a random cookie, kept as its SHA-256. Before the second factor is given, the session is good for
//! nothing else, and for minutes only; with it a new cookie takes its place.

use crate::api::conventions::RequestContext;
use crate::auth;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use ferroku_core::account::Account;
use ferroku_core::browser_session::BrowserSession;
use ferroku_core::{BrowserSessionId, Millis};
use ferroku_store::browser_sessions::{self, NewBrowserSession};
use ferroku_store::events::{self, NewEvent};
use ferroku_store::{accounts, write};
use secrecy::SecretString;
use uuid::Uuid;

/// How long a browser stays logged in, in milliseconds. Ours: a day.
pub const SESSION_MS: Millis = 24 * 3_600_000;
/// How long the second factor may take, in milliseconds.
const SECOND_FACTOR_MS: Millis = 10 * 60_000;
/// Of what a browser calls itself, so many bytes are kept.
const MAX_DESCRIPTION_BYTES: usize = 200;

/// Logs a browser in with a password. The session waits for the second factor where the account has one.
///
/// # Errors
/// 401, 403 when suspended, 429.
pub async fn log_in(
    node: &Node,
    email: &str,
    password: SecretString,
    browser: &str,
    context: &RequestContext,
) -> Result<(Account, SecretString), ApiError> {
    let address = context.remote_address.as_deref().unwrap_or("");
    let account = node.logins.password(&node.store, email.trim(), password, address, now_ms()).await?;
    auth::refuse_suspended(&account)?;
    let cookie = begin(node, &account, browser, account.two_factor, context).await?;
    Ok((account, cookie))
}

/// Begins a session, without asking for anything.
///
/// # Errors
/// The store failed.
pub async fn begin(
    node: &Node,
    account: &Account,
    browser: &str,
    second_factor_due: bool,
    context: &RequestContext,
) -> Result<SecretString, ApiError> {
    let cookie: SecretString = auth::random_letters(auth::TOKEN_LETTERS).into();
    let token_hash = auth::token_hash(&cookie);
    let now = now_ms();
    let description = describe(browser, context.remote_address.as_deref());
    let new = NewBrowserSession {
        id: BrowserSessionId(Uuid::new_v4()),
        account_id: account.id,
        token_hash: &token_hash,
        description: &description,
        second_factor_due,
        expires_at: now + if second_factor_due { SECOND_FACTOR_MS } else { SESSION_MS },
    };
    let (store, actor) = (&node.store, context.actor(account));
    write!(store, tx => {
        browser_sessions::create(&mut tx, &new, now).await?;
        if !second_factor_due {
            let event = NewEvent { app_id: None, actor: &actor, kind: "session.create", log_message: None };
            events::append(&mut tx, event, now).await?;
        }
        Ok(())
    })?;
    if !second_factor_due {
        accounts::record_login(store, account.id, now).await?;
    }
    Ok(cookie)
}

/// Takes the second factor of a session that waits for it, and gives the cookie that is good for more.
///
/// # Errors
/// 401, 429.
pub async fn second_factor(
    node: &Node,
    account: &Account,
    session: &BrowserSession,
    code: &SecretString,
    context: &RequestContext,
) -> Result<SecretString, ApiError> {
    let address = context.remote_address.as_deref().unwrap_or("");
    node.logins.second_factor(&node.store, account, code, address, now_ms()).await?;
    let browser = session.description.split(", from ").next().unwrap_or_default();
    let cookie = begin(node, account, browser, false, context).await?;
    end(node, session.id).await?;
    Ok(cookie)
}

/// Ends a session.
///
/// # Errors
/// The store failed.
pub async fn end(node: &Node, id: BrowserSessionId) -> Result<(), ApiError> {
    let store = &node.store;
    Ok(write!(store, tx => { browser_sessions::delete(&mut tx, id).await })?)
}

fn describe(browser: &str, remote_address: Option<&str>) -> String {
    let mut browser: String = browser.chars().filter(|c| !c.is_control()).collect();
    browser.truncate(browser.floor_char_boundary(MAX_DESCRIPTION_BYTES));
    match remote_address {
        Some(address) => format!("{browser}, from {address}"),
        None => browser,
    }
}
