//! `/web/login`: password, second factor, and the way out.

use super::form::{Form, SessionForm, secret};
use super::session::Browser;
use super::{Page, PageError};
use crate::api::routes::{Routes, get, post};
use crate::error::ApiError;
use crate::node::Node;
use crate::people::{SignUp, sessions};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use secrecy::SecretString;
use serde::Deserialize;
use std::sync::Arc;

const TITLE: &str = "Log in";
const CODE_TITLE: &str = "Two-factor code";

/// The pages.
pub fn routes() -> Routes {
    Routes::new()
        .route("/login", get(show).post(log_in))
        .route("/login/code", get(show_code).post(take_code))
        .route("/logout", post(log_out))
}

/// Where the browser wanted to go.
#[derive(Deserialize)]
struct Next {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Credentials {
    email: String,
    #[serde(deserialize_with = "secret")]
    password: SecretString,
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Code {
    #[serde(deserialize_with = "secret")]
    code: SecretString,
    #[serde(default)]
    next: String,
}

/// Only to a page of ours, so that a link to the login leads nowhere else.
fn safe(next: &str) -> &str {
    let is_plain = next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte));
    if next.starts_with("/web/") && is_plain && !next.contains("//") { next } else { "/web/account" }
}

fn form(node: &Node, next: &str, email: &str) -> Markup {
    html! {
        form method="post" action="/web/login" {
            input type="hidden" name="next" value=(safe(next));
            label { "Email" input type="email" name="email" value=(email) autocomplete="username" required; }
            label { "Password" input type="password" name="password" autocomplete="current-password" required; }
            button { "Log in" }
        }
        p { a href="/web/password-reset" { "I lost my password" } }
        @if node.config.people.sign_up == SignUp::Open { p { a href="/web/sign-up" { "I want an account" } } }
    }
}

fn code_form(next: &str) -> Markup {
    html! {
        form method="post" action="/web/login/code" {
            input type="hidden" name="next" value=(safe(next));
            label { "Code from your phone, or a recovery code"
                input name="code" autocomplete="one-time-code" required autofocus; }
            button { "Go on" }
        }
        p { a href="/web/login" { "Begin anew" } }
    }
}

async fn show(State(node): State<Arc<Node>>, Query(Next { next }): Query<Next>) -> Page {
    Page::new(TITLE, form(&node, &next, ""))
}

async fn log_in(
    State(node): State<Arc<Node>>,
    browser: Browser,
    Form(credentials): Form<Credentials>,
) -> Result<Response, PageError> {
    let Credentials { email, password, next } = credentials;
    match sessions::log_in(&node, &email, password, &browser.name, &browser.context).await {
        Ok((account, cookie)) => {
            let to = match account.two_factor {
                true => format!("/web/login/code?next={}", safe(&next)),
                false => safe(&next).to_owned(),
            };
            Ok((browser.set_cookie(Some(&cookie)), Redirect::to(&to)).into_response())
        }
        Err(error) if error.status.is_client_error() => {
            Ok(Page::refused(TITLE, &said(error), &form(&node, &next, &email)).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

/// In words for a person; the API's speak of credentials.
fn said(mut error: ApiError) -> ApiError {
    if error.status == http::StatusCode::UNAUTHORIZED && error.message.starts_with("Invalid credentials") {
        error.message = "There is no account with this address and password.".to_owned();
    }
    error
}

async fn show_code(Query(Next { next }): Query<Next>) -> Page {
    Page::new(CODE_TITLE, code_form(&next))
}

async fn take_code(
    State(node): State<Arc<Node>>,
    browser: Browser,
    Form(Code { code, next }): Form<Code>,
) -> Result<Response, PageError> {
    let waiting = browser.session(&node).await?.filter(|(_, session)| session.second_factor_due);
    let Some((account, session)) = waiting else {
        return Err(PageError::LogIn { next: safe(&next).to_owned() });
    };
    match sessions::second_factor(&node, &account, &session, &code, &browser.context).await {
        Ok(cookie) => Ok((browser.set_cookie(Some(&cookie)), Redirect::to(safe(&next))).into_response()),
        Err(error) if error.status.is_client_error() => {
            Ok(Page::refused(CODE_TITLE, &error, &code_form(&next)).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Deserialize)]
struct Nothing {}

async fn log_out(
    State(node): State<Arc<Node>>,
    SessionForm(session, Nothing {}): SessionForm<Nothing>,
) -> Result<Response, PageError> {
    sessions::end(&node, session.session.id).await?;
    Ok((session.browser.set_cookie(None), Redirect::to("/web/login")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_our_own_pages_only() {
        assert_eq!(safe("/web/cli/a-B_9"), "/web/cli/a-B_9");
        for bad in
            ["", "https://evil.example/", "//evil.example", "/web//evil", "/apps", "/web/../apps", "/web/a?b"]
        {
            assert_eq!(safe(bad), "/web/account", "{bad}");
        }
    }
}
