//! `/web/account`: name, password, address, where one is logged in, and the end.

use super::form::{SessionForm, secret};
use super::session::Session;
use super::{Answer, Page, PageError};
use crate::api::routes::{Routes, get, post};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people::account::{Own, refuse_unlike};
use crate::people::{self, sessions};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use ferroku_core::browser_session::BrowserSession;
use ferroku_store::account_changes::Keep;
use ferroku_store::{accounts, browser_sessions};
use maud::{Markup, html};
use secrecy::SecretString;
use serde::Deserialize;
use std::sync::Arc;

const TITLE: &str = "Your account";

/// The pages.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account", get(show))
        .route("/account/name", post(rename))
        .route("/account/password", post(change_password))
        .route("/account/email", post(change_email))
        .route("/account/sessions", post(end_session))
        .route("/account/delete", post(delete))
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct NewPassword {
    #[serde(deserialize_with = "secret")]
    password: SecretString,
    #[serde(deserialize_with = "secret")]
    new_password: SecretString,
    #[serde(deserialize_with = "secret")]
    password_confirmation: SecretString,
}

#[derive(Deserialize)]
struct NewEmail {
    email: String,
    #[serde(deserialize_with = "secret")]
    password: SecretString,
}

#[derive(Deserialize)]
struct Ended {
    session: String,
}

#[derive(Deserialize)]
struct Delete {
    #[serde(deserialize_with = "secret")]
    password: SecretString,
}

fn current_password() -> Markup {
    html! { label { "Current password"
    input type="password" name="password" autocomplete="current-password" required; } }
}

fn body(session: &Session, sessions: &[BrowserSession]) -> Markup {
    let account = &session.account;
    html! {
        dl {
            dt { "Email" } dd { (account.email) }
            dt { "Two-factor authentication" }
            dd { @if account.two_factor { "on" } @else { "off" } ", " a href="/web/two-factor" { "change" } }
        }
        form method="post" action="/web/logout" { (session.field()) button.quiet { "Log out" } }
        h2 { "Name" }
        form method="post" action="/web/account/name" {
            (session.field())
            label { "Name" input name="name" value=(account.name.as_deref().unwrap_or("")) autocomplete="name"; }
            button { "Change" }
        }
        h2 { "Password" }
        form method="post" action="/web/account/password" {
            (session.field()) (current_password())
            label { "New password" input type="password" name="new_password" autocomplete="new-password" required; }
            label { "The same again"
                input type="password" name="password_confirmation" autocomplete="new-password" required; }
            button { "Change" }
        }
        p { "Every other browser and CLI that is logged in is logged out then. Authorizations that you made with "
            code { "heroku authorizations:create" } " go on." }
        h2 { "Address" }
        form method="post" action="/web/account/email" {
            (session.field())
            label { "New email" input type="email" name="email" autocomplete="email" required; }
            (current_password())
            button { "Send a link there" }
        }
        h2 { "Browsers that are logged in" }
        @for other in sessions {
            form method="post" action="/web/account/sessions" {
                (session.field())
                input type="hidden" name="session" value=(other.id);
                (other.description) " "
                @if other.id == session.session.id { "(this one)" } @else { button.quiet { "Log out" } }
            }
        }
        h2 { "The end" }
        p { "An account that owns apps cannot be deleted: destroy them or transfer them first." }
        form method="post" action="/web/account/delete" {
            (session.field()) (current_password())
            button.danger { "Delete my account" }
        }
    }
}

/// The page, with what has just been done or refused.
async fn page(node: &Node, session: &Session, done: Result<&'static str, ApiError>) -> Answer {
    let sessions = browser_sessions::list(&node.store, session.account.id, now_ms()).await?;
    let body = body(session, &sessions);
    match done {
        Ok("") => Ok(Page::new(TITLE, body)),
        Ok(done) => Ok(Page::new(TITLE, html! { p.done { (done) } (body) })),
        Err(error) if error.status.is_client_error() => Ok(Page::refused(TITLE, &error, &body)),
        Err(error) => Err(error.into()),
    }
}

async fn show(State(node): State<Arc<Node>>, session: Session) -> Answer {
    page(&node, &session, Ok("")).await
}

async fn rename(
    State(node): State<Arc<Node>>,
    SessionForm(mut session, Name { name }): SessionForm<Name>,
) -> Answer {
    let name = match people::name(&name) {
        Ok(name) => name,
        Err(error) => return page(&node, &session, Err(error)).await,
    };
    session.account =
        accounts::rename(&node.store, session.account.id, &name, &session.actor(), now_ms()).await?;
    page(&node, &session, Ok("Your name was changed.")).await
}

async fn change_password(
    State(node): State<Arc<Node>>,
    SessionForm(session, form): SessionForm<NewPassword>,
) -> Answer {
    let actor = session.actor();
    let own = Own { account: &session.account, actor: &actor };
    let keep = Keep { session: Some(session.session.id), authorization: None };
    let done = async {
        refuse_unlike(&form.new_password, &form.password_confirmation)?;
        own.change_password(&node, form.password, form.new_password, keep).await?;
        Ok("Your password was changed, and every other login has ended.")
    };
    let done = done.await;
    page(&node, &session, done).await
}

async fn change_email(
    State(node): State<Arc<Node>>,
    SessionForm(session, form): SessionForm<NewEmail>,
) -> Answer {
    let actor = session.actor();
    let own = Own { account: &session.account, actor: &actor };
    let done = own.change_email(&node, &form.email, form.password).await;
    page(&node, &session, done.map(|()| "A letter is on its way there. Its link changes the address.")).await
}

async fn end_session(
    State(node): State<Arc<Node>>,
    SessionForm(session, Ended { session: id }): SessionForm<Ended>,
) -> Answer {
    let own = browser_sessions::list(&node.store, session.account.id, now_ms()).await?;
    let meant =
        own.iter().find(|own| own.id.to_string() == id).ok_or_else(|| ApiError::not_found("session"))?;
    sessions::end(&node, meant.id).await?;
    page(&node, &session, Ok("That browser is logged out.")).await
}

async fn delete(
    State(node): State<Arc<Node>>,
    SessionForm(session, Delete { password }): SessionForm<Delete>,
) -> Result<Response, PageError> {
    let actor = session.actor();
    match (Own { account: &session.account, actor: &actor }).delete(&node, password).await {
        Ok(()) => {
            let page = Page::new(TITLE, html! { p.done { "Your account is deleted." } });
            Ok((session.browser.set_cookie(None), page).into_response())
        }
        Err(error) => Ok(page(&node, &session, Err(error)).await?.into_response()),
    }
}
