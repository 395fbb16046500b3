//! `/web/sign-up` and `/web/welcome`: from an address to an account.

use super::form::{Form, secret};
use super::session::Browser;
use super::{Answer, Page, PageError};
use crate::api::routes::{Routes, get};
use crate::error::ApiError;
use crate::node::Node;
use crate::people::{SignUp, account, sessions, sign_up};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::sync::Arc;

const TITLE: &str = "Sign up";
const WELCOME_TITLE: &str = "Welcome";

/// The pages.
pub fn routes() -> Routes {
    Routes::new().route("/sign-up", get(show).post(ask)).route("/welcome", get(show_welcome).post(accept))
}

#[derive(Deserialize)]
struct Ask {
    email: String,
}

/// A link's token, in the query and in the form behind it.
#[derive(Deserialize)]
pub struct Link {
    #[serde(deserialize_with = "secret", default = "no_token")]
    pub token: SecretString,
}

fn no_token() -> SecretString {
    String::new().into()
}

#[derive(Deserialize)]
struct Accept {
    #[serde(deserialize_with = "secret")]
    token: SecretString,
    #[serde(default)]
    name: String,
    #[serde(deserialize_with = "secret")]
    password: SecretString,
    #[serde(deserialize_with = "secret")]
    password_confirmation: SecretString,
}

fn form() -> Markup {
    html! {
        form method="post" action="/web/sign-up" {
            label { "Email" input type="email" name="email" autocomplete="email" required; }
            button { "Send me a link" }
        }
        p { a href="/web/login" { "I have an account" } }
    }
}

async fn show(State(node): State<Arc<Node>>) -> Page {
    if node.config.people.sign_up == SignUp::Open {
        return Page::new(TITLE, form());
    }
    Page::new(
        TITLE,
        html! { p { "Accounts on this node are made by invitation only: ask its admin for one." } },
    )
}

async fn ask(State(node): State<Arc<Node>>, browser: Browser, Form(Ask { email }): Form<Ask>) -> Answer {
    match sign_up::request(&node, &email, &browser.context) {
        Ok(()) => Ok(Page::new(
            TITLE,
            html! { p.done { "A letter is on its way to " (email) ". Open the link in it within 24 hours." } },
        )),
        Err(error) if error.status.is_client_error() => Ok(Page::refused(TITLE, &error, &form())),
        Err(error) => Err(error.into()),
    }
}

fn welcome_form(email: &str, token: &SecretString, name: &str) -> Markup {
    html! {
        p { "This makes your account. You log in with " strong { (email) } "." }
        form method="post" action="/web/welcome" {
            input type="hidden" name="token" value=(token.expose_secret());
            label { "Your name, if you like" input name="name" value=(name) autocomplete="name"; }
            label { "Password" input type="password" name="password" autocomplete="new-password" required; }
            label { "The same password again"
                input type="password" name="password_confirmation" autocomplete="new-password" required; }
            button { "Make my account" }
        }
    }
}

async fn show_welcome(State(node): State<Arc<Node>>, Query(Link { token }): Query<Link>) -> Answer {
    let email = sign_up::address_of(&node, &token).await?;
    Ok(Page::new(WELCOME_TITLE, welcome_form(&email, &token, "")))
}

async fn accept(
    State(node): State<Arc<Node>>,
    browser: Browser,
    Form(form): Form<Accept>,
) -> Result<Response, PageError> {
    let email = sign_up::address_of(&node, &form.token).await?;
    let made: Result<_, ApiError> = async {
        account::refuse_unlike(&form.password, &form.password_confirmation)?;
        sign_up::accept(&node, &form.token, &form.name, form.password, &browser.context).await
    }
    .await;
    match made {
        Ok(account) => {
            let cookie = sessions::begin(&node, &account, &browser.name, false, &browser.context).await?;
            Ok((browser.set_cookie(Some(&cookie)), Redirect::to("/web/account")).into_response())
        }
        Err(error) if error.status.is_client_error() => {
            let again = welcome_form(&email, &form.token, &form.name);
            Ok(Page::refused(WELCOME_TITLE, &error, &again).into_response())
        }
        Err(error) => Err(error.into()),
    }
}
