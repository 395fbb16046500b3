//! `POST /auth` and `GET /auth/ID`: what `heroku login` does while a person logs in in a browser.
//!
//! The CLI says what it is and gets two paths: one for the browser (`/web/cli/ID`), one that it asks, with a secret,
//! until the person has let it in or has refused. The answer's body begins at once with blanks, one every few seconds,
//! because the CLI gives a silent connection up after 60 s; JSON may begin with them (RFC 8259, section 2). Logins that
//! wait are in memory only: a restart of the node ends them.
//! Source: `@heroku-cli/command`, `login.js`.

use crate::api::body::Body;
use crate::api::conventions::RequestContext;
use crate::api::routes::{Routes, get, post};
use crate::auth::{self, Credentials};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ferroku_core::Millis;
use futures::stream;
use http::header::CONTENT_TYPE;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::watch;

/// How long a person may take, in milliseconds: as long as the CLI waits.
const VALID_MS: Millis = 10 * 60_000;
/// Logins that may wait at the same time.
const MOST_WAITING: usize = 1_000;
/// Longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 200;
/// Random letters and digits of an id: log2(62) * 24 = 143 bits.
const ID_LETTERS: usize = 24;
/// Between two blanks.
const BLANK_EVERY: Duration = Duration::from_secs(15);

/// The endpoints.
pub fn routes() -> Routes {
    Routes::new().route("/auth", post(begin)).route("/auth/{login}", get(wait))
}

/// The logins that wait for a person.
#[derive(Default)]
pub struct CliLogins(Mutex<HashMap<String, Waiting>>);

struct Waiting {
    login: CliLogin,
    token_hash: String,
    answer: watch::Sender<Option<Answer>>,
}

/// What a person is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliLogin {
    /// What the CLI calls itself, such as `Heroku CLI login from laptop`.
    pub description: String,
    /// Where it asks from.
    pub remote_address: String,
    pub begun_at: Millis,
}

/// What became of it.
#[derive(Clone)]
pub enum Answer {
    LetIn(SecretString),
    Refused(&'static str),
}

impl CliLogins {
    /// A login that waits, if it still does.
    pub fn find(&self, id: &str, now: Millis) -> Option<CliLogin> {
        self.lock(now).get(id).map(|waiting| waiting.login.clone())
    }

    /// Answers a login that waits; false when it does not any more.
    pub fn answer(&self, id: &str, answer: Answer, now: Millis) -> bool {
        self.lock(now).remove(id).is_some_and(|waiting| waiting.answer.send(Some(answer)).is_ok())
    }

    /// Ends those that wait, because the node stops.
    pub fn close(&self) {
        for (_, waiting) in self.lock(0).drain() {
            let _ =
                waiting.answer.send(Some(Answer::Refused("The node was restarted. Run the command again.")));
        }
    }

    /// Whether a CLI listens for each login that waits, and there is one.
    #[cfg(test)]
    pub fn is_waited_for(&self) -> bool {
        let all = self.lock(0);
        !all.is_empty() && all.values().all(|waiting| waiting.answer.receiver_count() > 0)
    }

    fn begin(&self, login: CliLogin, now: Millis) -> Result<(String, SecretString), ApiError> {
        let mut all = self.lock(now);
        if all.len() >= MOST_WAITING {
            return Err(ApiError::unavailable("Too many logins wait. Try again in a few minutes."));
        }
        let (id, token) =
            (auth::random_letters(ID_LETTERS), auth::random_letters(auth::TOKEN_LETTERS).into());
        let waiting =
            Waiting { login, token_hash: auth::token_hash(&token), answer: watch::Sender::new(None) };
        all.insert(id.clone(), waiting);
        Ok((id, token))
    }

    fn listen(&self, id: &str, token: &SecretString, now: Millis) -> Option<watch::Receiver<Option<Answer>>> {
        let all = self.lock(now);
        let waiting = all.get(id)?;
        let is_right = auth::token_hash(token).as_bytes().ct_eq(waiting.token_hash.as_bytes());
        bool::from(is_right).then(|| waiting.answer.subscribe())
    }

    /// Those that are over are gone.
    fn lock(&self, now: Millis) -> MutexGuard<'_, HashMap<String, Waiting>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, waiting| now - waiting.login.begun_at < VALID_MS);
        all
    }
}

#[derive(Deserialize)]
struct Begin {
    #[serde(default)]
    description: String,
}

#[derive(Serialize)]
struct Begun {
    browser_url: String,
    cli_url: String,
    token: String,
}

async fn begin(
    State(node): State<Arc<Node>>,
    context: RequestContext,
    Body(Begin { mut description }): Body<Begin>,
) -> Result<Json<Begun>, ApiError> {
    let now = now_ms();
    let remote_address = context.remote_address.unwrap_or_default();
    if !node.throttle.cli_login(&remote_address, now) {
        return Err(ApiError::rate_limit(
            "Too many logins were begun from your address. Try again in an hour.",
        ));
    }
    description.retain(|c| !c.is_control());
    description.truncate(description.floor_char_boundary(MAX_DESCRIPTION_BYTES));
    let (id, token) = node.cli_logins.begin(CliLogin { description, remote_address, begun_at: now }, now)?;
    Ok(Json(Begun {
        browser_url: format!("/web/cli/{id}"),
        cli_url: format!("/auth/{id}"),
        token: token.expose_secret().to_owned(),
    }))
}

async fn wait(
    State(node): State<Arc<Node>>,
    headers: http::HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let Credentials::Bearer(token) = auth::credentials(&headers)? else {
        return Err(ApiError::unauthorized());
    };
    let listening = node.cli_logins.listen(&id, &token, now_ms());
    let listening = listening.ok_or_else(|| ApiError::not_found("login"))?;
    let body = stream::unfold(Some((node, listening)), |state| async {
        let (node, mut listening) = state?;
        let answered = tokio::time::timeout(BLANK_EVERY, listening.wait_for(Option::is_some)).await;
        let answered = answered.ok().map(|answer| answer.ok().and_then(|answer| answer.clone()));
        let Some(answer) = answered else {
            // Ends this one, too, once it is over.
            drop(node.cli_logins.lock(now_ms()));
            return Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), Some((node, listening))));
        };
        let json = match answer {
            Some(Answer::LetIn(token)) => serde_json::json!({"access_token": token.expose_secret()}),
            Some(Answer::Refused(why)) => serde_json::json!({"error": why}),
            None => serde_json::json!({"error": "Nobody answered in time. Run the command again."}),
        };
        Some((Ok(Bytes::from(json.to_string())), None))
    });
    Ok(([(CONTENT_TYPE, "application/json")], axum::body::Body::from_stream(body)).into_response())
}
