//! `/web/password-reset`: for whoever lost their password. `/web/email`: the link that confirms a new address.

use super::form::{Form, secret};
use super::session::Browser;
use super::sign_up::Link;
use super::{Answer, Page};
use crate::api::routes::{Routes, get};
use crate::error::ApiError;
use crate::node::Node;
use crate::people::account;
use axum::extract::{Query, State};
use ferroku_core::mailed_token::Purpose;
use maud::{Markup, html};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::sync::Arc;

const TITLE: &str = "A new password";
const EMAIL_TITLE: &str = "Your new address";

/// The pages.
pub fn routes() -> Routes {
    Routes::new()
        .route("/password-reset", get(show).post(ask))
        .route("/password-reset/finish", get(show_finish).post(finish))
        .route("/email", get(show_email).post(confirm_email))
}

#[derive(Deserialize)]
struct Ask {
    email: String,
}

#[derive(Deserialize)]
struct Finish {
    #[serde(deserialize_with = "secret")]
    token: SecretString,
    #[serde(deserialize_with = "secret")]
    password: SecretString,
    #[serde(deserialize_with = "secret")]
    password_confirmation: SecretString,
}

fn form() -> Markup {
    html! {
        form method="post" action="/web/password-reset" {
            label { "Email" input type="email" name="email" autocomplete="username" required; }
            button { "Send me a link" }
        }
    }
}

async fn show() -> Page {
    Page::new(TITLE, form())
}

async fn ask(State(node): State<Arc<Node>>, browser: Browser, Form(Ask { email }): Form<Ask>) -> Answer {
    match account::request_reset(&node, &email, &browser.context) {
        Ok(()) => Ok(Page::new(
            TITLE,
            html! { p.done { "If " (email) " has an account, a letter is on its way. Its link is good for an hour." } },
        )),
        Err(error) if error.status.is_client_error() => Ok(Page::refused(TITLE, &error, &form())),
        Err(error) => Err(error.into()),
    }
}

fn finish_form(token: &SecretString) -> Markup {
    html! {
        form method="post" action="/web/password-reset/finish" {
            input type="hidden" name="token" value=(token.expose_secret());
            label { "New password" input type="password" name="password" autocomplete="new-password" required; }
            label { "The same password again"
                input type="password" name="password_confirmation" autocomplete="new-password" required; }
            button { "Change my password" }
        }
        p { "Every browser and CLI that is logged in to your account will be logged out." }
    }
}

async fn show_finish(State(node): State<Arc<Node>>, Query(Link { token }): Query<Link>) -> Answer {
    account::link(&node, &token, Purpose::PasswordReset).await?;
    Ok(Page::new(TITLE, finish_form(&token)))
}

async fn finish(State(node): State<Arc<Node>>, browser: Browser, Form(form): Form<Finish>) -> Answer {
    account::link(&node, &form.token, Purpose::PasswordReset).await?;
    let changed: Result<_, ApiError> = async {
        account::refuse_unlike(&form.password, &form.password_confirmation)?;
        account::reset_password(&node, &form.token, form.password, &browser.context).await
    }
    .await;
    match changed {
        Ok(_) => Ok(Page::new(
            TITLE,
            html! { p.done { "Your password was changed." } p { a href="/web/login" { "Log in" } } },
        )),
        Err(error) if error.status.is_client_error() => {
            Ok(Page::refused(TITLE, &error, &finish_form(&form.token)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn show_email(State(node): State<Arc<Node>>, Query(Link { token }): Query<Link>) -> Answer {
    let link = account::link(&node, &token, Purpose::EmailChange).await?;
    Ok(Page::new(
        EMAIL_TITLE,
        html! {
            p { "From now on you log in with " strong { (link.email) } "." }
            form method="post" action="/web/email" {
                input type="hidden" name="token" value=(token.expose_secret());
                button { "Change my address" }
            }
        },
    ))
}

async fn confirm_email(State(node): State<Arc<Node>>, browser: Browser, Form(link): Form<Link>) -> Answer {
    let account = account::confirm_email(&node, &link.token, &browser.context).await?;
    Ok(Page::new(EMAIL_TITLE, html! { p.done { "Your address is now " (account.email) "." } }))
}
