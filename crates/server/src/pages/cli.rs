//! `/web/cli/ID`: lets a CLI in that waits at `/auth/ID`.
//!
//! Somebody may send another person the link of a login that they began themselves. So the page says what asks, from
//! where and since when, and lets nothing in without a click.

use super::form::SessionForm;
use super::session::Session;
use super::{Answer, Page};
use crate::api::cli_logins::{Answer as CliAnswer, CliLogin};
use crate::api::oauth_authorizations;
use crate::api::routes::{Routes, get};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::extract::{Path, State};
use maud::html;
use serde::Deserialize;
use std::sync::Arc;

/// How long the CLI stays logged in, in seconds: as long as it asks for when it logs in with a password.
const VALID_SECONDS: i64 = 30 * 24 * 3600;
const TITLE: &str = "Let the CLI in?";

/// The page.
pub fn routes() -> Routes {
    Routes::new().route("/cli/{login}", get(show).post(answer))
}

fn find(node: &Node, id: &str) -> Result<CliLogin, ApiError> {
    node.cli_logins.find(id, now_ms()).ok_or_else(|| {
        let message = "This login is over. Run `heroku login` again.";
        ApiError::new(http::StatusCode::NOT_FOUND, "not_found", message)
    })
}

async fn show(State(node): State<Arc<Node>>, Path(id): Path<String>, session: Session) -> Answer {
    let login = find(&node, &id)?;
    let minutes = (now_ms() - login.begun_at) / 60_000;
    Ok(Page::new(
        TITLE,
        html! {
            p { "A program asks to act as " strong { (session.account.email) } " for 30 days:" }
            dl {
                dt { "It calls itself" } dd { (login.description) }
                dt { "It asks from" } dd { (login.remote_address) }
                dt { "Since" } dd { @if minutes == 0 { "less than a minute" } @else { (minutes) " minutes" } }
                dt { "It could" } dd { "do everything that you can: see and change your apps and their config vars." }
            }
            p { "Go on only if you ran " code { "heroku login" } " yourself, just now." }
            form.inline method="post" {
                (session.field())
                input type="hidden" name="answer" value="yes";
                button { "Let it in" }
            }
            form.inline method="post" {
                (session.field())
                input type="hidden" name="answer" value="no";
                button.quiet { "Refuse" }
            }
        },
    ))
}

#[derive(Deserialize)]
struct Chosen {
    answer: String,
}

async fn answer(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    SessionForm(session, Chosen { answer }): SessionForm<Chosen>,
) -> Answer {
    let login = find(&node, &id)?;
    if answer != "yes" {
        node.cli_logins.answer(&id, CliAnswer::Refused("You refused in the browser."), now_ms());
        return Ok(Page::new(TITLE, html! { p.done { "It was refused." } }));
    }
    let (account, context) = (&session.account, &session.browser.context);
    let token =
        oauth_authorizations::log_in(&node, account, &login.description, VALID_SECONDS, context).await?;
    if !node.cli_logins.answer(&id, CliAnswer::LetIn(token), now_ms()) {
        find(&node, &id)?;
    }
    Ok(Page::new(
        TITLE,
        html! { p.done { "It is in. You can close this page and go back to the terminal." } },
    ))
}
