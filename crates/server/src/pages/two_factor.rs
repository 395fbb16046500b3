//! `/web/two-factor`: turning the second factor on and off, and new recovery codes.

use super::form::{SessionForm, secret};
use super::session::Session;
use super::{Answer, Page};
use crate::api::routes::{Routes, get, post};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people::account::Own;
use crate::people::second_factor::{self, Offer};
use axum::extract::State;
use ferroku_store::two_factor;
use maud::{Markup, PreEscaped, html};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::sync::Arc;

const TITLE: &str = "Two-factor authentication";

/// The pages.
pub fn routes() -> Routes {
    Routes::new()
        .route("/two-factor", get(show).post(begin))
        .route("/two-factor/enable", post(enable))
        .route("/two-factor/disable", post(disable))
        .route("/two-factor/recovery-codes", post(renew))
}

#[derive(Deserialize)]
struct Confirmed {
    #[serde(deserialize_with = "secret")]
    password: SecretString,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

fn confirmed_form(session: &Session, action: &str, button: &Markup) -> Markup {
    html! {
        form method="post" action=(action) {
            (session.field())
            label { "Password" input type="password" name="password" autocomplete="current-password" required; }
            (button)
        }
    }
}

async fn settings(node: &Node, session: &Session) -> Result<Markup, ApiError> {
    if !session.account.two_factor {
        let button = html! { button { "Turn it on" } };
        return Ok(html! {
            p { "It is off. With it, logging in takes a code from your phone beside the password." }
            (confirmed_form(session, "/web/two-factor", &button))
        });
    }
    let left = two_factor::recovery_codes_left(&node.store, session.account.id).await?;
    Ok(html! {
        p { "It is on. You have " (left) " recovery codes left." }
        h2 { "New recovery codes" }
        (confirmed_form(session, "/web/two-factor/recovery-codes", &html! { button.quiet { "Make new codes" } }))
        h2 { "Turn it off" }
        (confirmed_form(session, "/web/two-factor/disable", &html! { button.danger { "Turn it off" } }))
    })
}

async fn show(State(node): State<Arc<Node>>, session: Session) -> Answer {
    Ok(Page::new(TITLE, settings(&node, &session).await?))
}

/// The page again when the password was wrong.
async fn refused(node: &Node, session: &Session, error: ApiError) -> Answer {
    if error.status.is_client_error() {
        return Ok(Page::refused(TITLE, &error, &settings(node, session).await?));
    }
    Err(error.into())
}

fn enable_form(session: &Session, offer: &Offer) -> Markup {
    html! {
        p { "Scan this with an authenticator app, or type the secret into it." }
        (PreEscaped(&offer.qr_svg))
        p { code { (offer.secret.expose_secret()) } }
        form method="post" action="/web/two-factor/enable" {
            (session.field())
            label { "The code that the app shows"
                input name="code" inputmode="numeric" autocomplete="one-time-code" required; }
            button { "Turn it on" }
        }
    }
}

async fn begin(
    State(node): State<Arc<Node>>,
    SessionForm(session, Confirmed { password }): SessionForm<Confirmed>,
) -> Answer {
    let actor = session.actor();
    let own = Own { account: &session.account, actor: &actor };
    if let Err(error) = own.confirm(&node, password).await {
        return refused(&node, &session, error).await;
    }
    let offer = second_factor::offer(&node, &session.account).await?;
    Ok(Page::new(TITLE, enable_form(&session, &offer)))
}

async fn enable(
    State(node): State<Arc<Node>>,
    SessionForm(session, Code { code }): SessionForm<Code>,
) -> Answer {
    match second_factor::enable(&node, &session.account, &code, &session.actor()).await {
        Ok(codes) => Ok(shown(&codes)),
        Err(error) if error.status.is_client_error() && !session.account.two_factor => {
            let offer = second_factor::offer(&node, &session.account).await?;
            Ok(Page::refused(TITLE, &error, &enable_form(&session, &offer)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn renew(
    State(node): State<Arc<Node>>,
    SessionForm(session, Confirmed { password }): SessionForm<Confirmed>,
) -> Answer {
    let actor = session.actor();
    let own = Own { account: &session.account, actor: &actor };
    if let Err(error) = own.confirm(&node, password).await {
        return refused(&node, &session, error).await;
    }
    Ok(shown(&second_factor::new_recovery_codes(&node, &session.account, &actor).await?))
}

async fn disable(
    State(node): State<Arc<Node>>,
    SessionForm(session, Confirmed { password }): SessionForm<Confirmed>,
) -> Answer {
    let actor = session.actor();
    let own = Own { account: &session.account, actor: &actor };
    if let Err(error) = own.confirm(&node, password).await {
        return refused(&node, &session, error).await;
    }
    two_factor::disable(&node.store, session.account.id, &actor, now_ms()).await?;
    Ok(Page::new(TITLE, html! { p.done { "It is off." } p { a href="/web/account" { "Your account" } } }))
}

fn shown(codes: &[SecretString]) -> Page {
    let lines: Vec<&str> = codes.iter().map(|code| code.expose_secret()).collect();
    Page::new(
        TITLE,
        html! {
            p.done { "It is on." }
            p { "Keep these recovery codes where you find them without your phone. Each lets you in once, in place of a "
                "code. They are not shown again." }
            pre { (lines.join("\n")) }
            p { a href="/web/account" { "Your account" } }
        },
    )
}
