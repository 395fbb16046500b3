//! Log sessions: `POST /apps/X/log-sessions`, and the streams behind the URLs that it gives out.
//!
//! The URL is `http(s)://<the request's own authority>/logs/<token>`: links follow the way that the client
//! came (an SSH tunnel, say), and no header is sent along, so that the token is the right to read.
//! It holds the whole session, sealed with the master key; nothing is kept on the node, so that a session
//! outlives a restart of it.
//!
//! The stream is plain text, a line each, or server-sent events when asked for with
//! `Accept: text/event-stream`:
//!
//! ```text
//! id: 1099511627777
//! data: 2026-01-01T12:00:00.123456+00:00 app[web.1]: text
//! ```
//!
//! A client that comes back with `Last-Event-ID` gets what is behind that line. A carriage return inside a
//! line would end an event's line: each part is then a `data:` line of the same event.
//!
//! Source: devcenter "Platform API Reference, Log Session"; the WHATWG's "Server-sent events"; reference of
//! the CLI's log streaming.

use super::body::Body;
use super::links::Links;
use crate::auth::ViewApp;
use crate::error::ApiError;
use crate::listener::ClientConnection;
use crate::node::{Node, now_ms};
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json};
use bytes::Bytes;
use ferroku_api::Timestamp;
use ferroku_api::log_session::{Create, LogSession};
use ferroku_core::{AppId, Millis};
use ferroku_logplex::{Filter, HISTORY_LINES, Logplex, LogplexError, Tail, TailEvent, TailFrom};
use ferroku_store::{MasterKey, apps};
use futures::{FutureExt, Stream, stream};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Lines that a session begins with when it does not say; what the CLI asks for.
const DEFAULT_LINES: i64 = 100;

/// How long a session's URL may be opened, in milliseconds; on Heroku it is 6 minutes.
pub const OPEN_FOR_MS: Millis = 5 * 60 * 1_000;

/// How long a reader that was cut off may come back, in milliseconds: as long as somebody may leave a tail running.
pub const REOPEN_FOR_MS: Millis = 24 * 3_600 * 1_000;

/// Longest `source` or `dyno` in bytes: it goes into the URL.
const MAX_NAME_BYTES: usize = 100;

/// A comment is sent so often, so that proxies do not take a quiet stream for a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How soon a client should come back, in milliseconds: about as long as control takes to restart.
const RETRY_MS: u32 = 1_000;

/// Text that is put together into one write, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Names what a token is, so that nothing else that is sealed passes for one.
const TOKEN_PURPOSE: &str = "log_session/token/1";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The endpoints of this noun.
pub fn routes() -> axum::Router<Arc<Node>> {
    axum::Router::new().route("/apps/{app}/log-sessions", post(create)).route("/logs/{token}", get(read))
}

async fn create(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    links: Links,
    client: Option<Extension<ClientConnection>>,
    Body(request): Body<Create>,
) -> Result<(StatusCode, Json<LogSession>), ApiError> {
    let session = Session::from_request(app.id, request, now_ms())?;
    let scheme = client.map_or("http", |Extension(client)| client.scheme());
    let token = session.seal(node.store.key());
    let answer = LogSession {
        id: Uuid::new_v4(),
        created_at: Timestamp(session.created_at),
        updated_at: Timestamp(session.created_at),
        logplex_url: format!("{scheme}://{}/logs/{token}", links.authority()),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// No extractor asks who it is: the token is the right to read.
async fn read(
    State(node): State<Arc<Node>>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let comes_back = last_event_id(&headers).is_some();
    let session = Session::unseal(node.store.key(), &token, comes_back, now_ms())?;
    let app = apps::by_id(&node.store, session.app_id).await?;
    if app.is_none() {
        return Err(ApiError::not_found("app"));
    }
    open(&node.logplex, &session, &headers).await
}

/// What a token holds. The names are short because it becomes a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    #[serde(rename = "a")]
    pub app_id: AppId,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none", default)]
    pub source: Option<String>,
    #[serde(rename = "p", skip_serializing_if = "Option::is_none", default)]
    pub process: Option<String>,
    #[serde(rename = "n")]
    pub lines: usize,
    #[serde(rename = "t")]
    pub tail: bool,
    #[serde(rename = "c")]
    pub created_at: Millis,
}

impl Session {
    /// The session that a request asks for.
    ///
    /// # Errors
    /// 422 for a negative number of lines or a name that no process has.
    pub fn from_request(app_id: AppId, request: Create, now: Millis) -> Result<Self, ApiError> {
        let lines = request.lines.unwrap_or(DEFAULT_LINES);
        let lines = u64::try_from(lines)
            .map_err(|_| ApiError::invalid_params(format!("lines must not be negative; it is {lines}.")))?;
        let process = request.dyno.or(request.dyno_name).or(request.process_type);
        for (field, value) in [("source", &request.source), ("dyno", &process)] {
            if value.as_ref().is_some_and(|value| value.len() > MAX_NAME_BYTES) {
                let message = format!("{field} must not be longer than {MAX_NAME_BYTES} bytes.");
                return Err(ApiError::invalid_params(message));
            }
        }
        Ok(Self {
            app_id,
            source: request.source.filter(|source| !source.is_empty()),
            process: process.filter(|process| !process.is_empty()),
            lines: usize::try_from(lines.min(HISTORY_LINES)).expect("at most 1,500"),
            tail: request.tail.unwrap_or(false),
            created_at: now,
        })
    }

    /// The token for its URL.
    pub fn seal(&self, key: &MasterKey) -> String {
        let json = serde_json::to_vec(self).expect("a struct of strings and numbers is valid JSON");
        key.seal(TOKEN_PURPOSE, &json)
    }

    /// The session in a token, if it may still be opened; `comes_back` is a reader that was cut off.
    ///
    /// # Errors
    /// 404 when it is none of ours, 403 when it has expired: the CLI tells both as a stream that timed out.
    pub fn unseal(key: &MasterKey, token: &str, comes_back: bool, now: Millis) -> Result<Self, ApiError> {
        let json = key.unseal(TOKEN_PURPOSE, token).map_err(|_| ApiError::not_found("log session"))?;
        let session: Self = serde_json::from_slice(&json).map_err(|_| ApiError::not_found("log session"))?;
        let valid_ms = if comes_back { REOPEN_FOR_MS } else { OPEN_FOR_MS };
        if !(0..=valid_ms).contains(&(now - session.created_at)) {
            return Err(ApiError::forbidden("This log session has expired. Create a new one."));
        }
        Ok(session)
    }

    fn filter(&self) -> Filter {
        Filter { source: self.source.clone(), process: self.process.clone() }
    }
}

/// The cursor that a reader that was cut off sends along.
pub fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get(LAST_EVENT_ID)?.to_str().ok()?.trim().parse().ok()
}

/// The answer to `GET /logs/<token>`.
///
/// # Errors
/// The logs cannot be read, or there are too many readers.
pub async fn open(logplex: &Logplex, session: &Session, headers: &HeaderMap) -> Result<Response, ApiError> {
    let form = Form::asked_for(headers);
    let after = last_event_id(headers);
    if session.tail {
        let from = after.map_or(TailFrom::Last(session.lines), TailFrom::After);
        let tail = logplex.tail(session.app_id, session.filter(), from).await.map_err(api_error)?;
        return Ok(form.response(axum::body::Body::from_stream(live(tail, form, KEEP_ALIVE))));
    }
    let events = match after {
        // A client that does not know when to stop is told so: 204 ends an event source.
        Some(after) => {
            let events = logplex.history_after(session.app_id, after, session.filter()).await;
            let events = events.map_err(api_error)?;
            if events.is_empty() {
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            events
        }
        None => {
            let lines = logplex.history(session.app_id, session.lines, session.filter()).await;
            lines.map_err(api_error)?.into_iter().map(TailEvent::Line).collect()
        }
    };
    Ok(form.response(axum::body::Body::from_stream(stored(events, form))))
}

fn api_error(error: LogplexError) -> ApiError {
    match error {
        LogplexError::Removed { .. } => ApiError::not_found("app"),
        LogplexError::TooManyTails { .. } => ApiError::unavailable(format!("The node is busy: {error}.")),
        error => ApiError::internal(error),
    }
}

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Events,
}

impl Form {
    fn asked_for(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds = accepted.flat_map(|value| value.split(','));
        let events = kinds.any(|kind| kind.trim().to_ascii_lowercase().starts_with("text/event-stream"));
        if events { Self::Events } else { Self::Text }
    }

    fn response(self, body: axum::body::Body) -> Response {
        let kind = match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Events => "text/event-stream",
        };
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static(kind)),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
            // Reverse proxies of the nginx kind would otherwise hold lines back.
            (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        (headers, body).into_response()
    }

    fn write(self, out: &mut String, event: &TailEvent) {
        let text = match event {
            TailEvent::Line(line) => line.to_string(),
            TailEvent::Dropped(dropped) => dropped.to_string(),
        };
        if self == Self::Text {
            out.push_str(&text);
            out.push('\n');
            return;
        }
        if let TailEvent::Line(line) = event {
            let _ = writeln!(out, "id: {}", line.cursor);
        }
        for part in text.split('\r') {
            let _ = writeln!(out, "data: {part}");
        }
        out.push('\n');
    }
}

/// Lines that are all there, in chunks.
fn stored(events: Vec<TailEvent>, form: Form) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let mut events = events.into_iter();
    stream::iter(std::iter::from_fn(move || {
        let mut chunk = String::new();
        while chunk.len() < CHUNK_BYTES
            && let Some(event) = events.next()
        {
            form.write(&mut chunk, &event);
        }
        (!chunk.is_empty()).then(|| Ok(Bytes::from(chunk)))
    }))
}

/// Lines as they come; what comes together goes out together.
fn live(tail: Tail, form: Form, keep_alive: Duration) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let first = (form == Form::Events).then(|| format!("retry: {RETRY_MS}\n\n"));
    stream::unfold((tail, first), move |(mut tail, first)| async move {
        if let Some(first) = first {
            return Some((Ok(Bytes::from(first)), (tail, None)));
        }
        let mut chunk = String::new();
        let mut next = match form {
            Form::Text => tail.next().await,
            Form::Events => match tokio::time::timeout(keep_alive, tail.next()).await {
                Ok(next) => next,
                Err(_) => return Some((Ok(Bytes::from_static(b": keep-alive\n\n")), (tail, None))),
            },
        };
        while let Some(event) = next {
            form.write(&mut chunk, &event);
            next = if chunk.len() < CHUNK_BYTES { tail.next().now_or_never().flatten() } else { None };
        }
        (!chunk.is_empty()).then(|| (Ok(Bytes::from(chunk)), (tail, None)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_logplex::LogLine;
    use futures::StreamExt;

    const AT_US: i64 = 1_767_268_800_000_000;
    const APP: AppId = AppId(Uuid::from_u128(1));

    fn session(tail: bool) -> Session {
        let request = Create { lines: Some(2), tail: Some(tail), ..Create::default() };
        Session::from_request(APP, request, 0).expect("valid")
    }

    fn logplex(folder: &tempfile::TempDir, lines: &[&str]) -> Logplex {
        let logplex = Logplex::open(folder.path().join("logs")).expect("opens");
        for line in lines {
            logplex.append(APP, LogLine::new(AT_US, "app", "web.1", *line));
        }
        logplex
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect()
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn a_token_opens_its_session_for_a_while_and_no_altered_one_does() {
        let (key, other) = (MasterKey::new("k", [7; 32]), MasterKey::new("k", [8; 32]));
        let session = session(true);
        let token = session.seal(&key);
        let status = |token: &str, key: &MasterKey, comes_back, now| {
            Session::unseal(key, token, comes_back, now)
                .map(|found| assert_eq!(found, session))
                .map_err(|e| e.status)
        };
        assert_eq!(status(&token, &key, false, OPEN_FOR_MS), Ok(()));
        assert_eq!(status(&token, &key, false, OPEN_FOR_MS + 1), Err(StatusCode::FORBIDDEN));
        assert_eq!(status(&token, &key, true, REOPEN_FOR_MS), Ok(()));
        assert_eq!(status(&token, &key, true, REOPEN_FOR_MS + 1), Err(StatusCode::FORBIDDEN));
        assert_eq!(status(&token, &other, false, 0), Err(StatusCode::NOT_FOUND), "another node's");
        for at in 0..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'0' { b'1' } else { b'0' };
            let altered = String::from_utf8(altered).expect("hex");
            assert_eq!(status(&altered, &key, false, 0), Err(StatusCode::NOT_FOUND), "altered at {at}");
        }
        let foreign = key.seal("config_snapshot/1", b"{}");
        assert_eq!(status(&foreign, &key, false, 0), Err(StatusCode::NOT_FOUND), "sealed for something else");
    }

    #[test]
    fn requests_of_every_client_are_understood_and_wrong_ones_refused() {
        let parse = |json: &str| {
            let request: Create = serde_json::from_str(json).expect("JSON");
            Session::from_request(APP, request, 5).map_err(|error| error.message)
        };
        let process = |json| parse(json).expect("valid").process;
        assert_eq!(process(r#"{"dyno":"web.1","lines":10}"#).as_deref(), Some("web.1"));
        assert_eq!(process(r#"{"dyno_name":"web"}"#).as_deref(), Some("web"));
        assert_eq!(process(r#"{"type":"worker"}"#).as_deref(), Some("worker"));
        assert_eq!(process(r#"{"dyno":null,"source":""}"#), None);
        let default = parse("{}").expect("valid");
        assert_eq!((default.lines, default.tail, default.source), (100, false, None));
        assert_eq!(parse(r#"{"lines":99999}"#).expect("valid").lines, 1_500);
        assert_eq!(parse(r#"{"lines":-1}"#), Err("lines must not be negative; it is -1.".to_owned()));
        assert!(parse(&format!(r#"{{"source":"{}"}}"#, "x".repeat(101))).is_err());
    }

    #[tokio::test]
    async fn stored_lines_come_as_text_or_as_events_and_the_stream_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let logplex = logplex(&folder, &["one", "two", "10%\r20%"]);
        let response = open(&logplex, &session(false), &HeaderMap::new()).await.expect("opens");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        let stamp = "2026-01-01T12:00:00.000000+00:00 app[web.1]:";
        assert_eq!(text(response).await, format!("{stamp} two\n{stamp} 10%\r20%\n"));
        let response =
            open(&logplex, &session(false), &headers(&[(ACCEPT, "text/event-stream")])).await.expect("opens");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        let events = text(response).await;
        let id: u64 = events["id: ".len()..].split('\n').next().expect("a line").parse().expect("a number");
        let expected =
            format!("id: {id}\ndata: {stamp} two\n\nid: {}\ndata: {stamp} 10%\ndata: 20%\n\n", id + 1);
        assert_eq!(events, expected);

        let again = headers(&[(ACCEPT, "text/event-stream"), (LAST_EVENT_ID, &id.to_string())]);
        let response = open(&logplex, &session(false), &again).await.expect("opens");
        assert_eq!(text(response).await, format!("id: {}\ndata: {stamp} 10%\ndata: 20%\n\n", id + 1));
        let done = headers(&[(ACCEPT, "text/event-stream"), (LAST_EVENT_ID, &(id + 1).to_string())]);
        let response = open(&logplex, &session(false), &done).await.expect("opens");
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "nothing more to come: do not come back");
    }

    #[tokio::test]
    async fn a_tail_stays_open_and_goes_on_behind_the_last_event() {
        let folder = tempfile::tempdir().expect("folder");
        let logplex = logplex(&folder, &["one", "two", "three"]);
        let wanted = headers(&[(ACCEPT, "text/event-stream")]);
        let response = open(&logplex, &session(true), &wanted).await.expect("opens");
        let mut body = response.into_body().into_data_stream();
        let next = async |body: &mut axum::body::BodyDataStream| {
            let chunk = tokio::time::timeout(Duration::from_secs(5), body.next()).await.expect("in time");
            chunk.map(|chunk| String::from_utf8(chunk.expect("a chunk").to_vec()).expect("text"))
        };
        assert_eq!(next(&mut body).await.expect("a chunk"), "retry: 1000\n\n");
        let first = next(&mut body).await.expect("a chunk");
        assert!(first.ends_with("]: three\n\n") && first.contains("]: two\n\n") && !first.contains("one"));
        logplex.append(APP, LogLine::new(AT_US, "app", "web.1", "four"));
        assert!(next(&mut body).await.expect("a chunk").ends_with("]: four\n\n"));
        let id = first["id: ".len()..].split('\n').next().expect("the id of line two");
        let again = headers(&[(ACCEPT, "text/event-stream"), (LAST_EVENT_ID, id)]);
        let response = open(&logplex, &session(true), &again).await.expect("opens");
        let mut resumed = response.into_body().into_data_stream();
        next(&mut resumed).await;
        let rest = next(&mut resumed).await.expect("a chunk");
        assert!(
            rest.contains("]: three\n\n") && rest.ends_with("]: four\n\n") && !rest.contains("two"),
            "{rest}"
        );
        logplex.close_tails();
        assert_eq!(next(&mut body).await, None, "ends when the node stops");
    }

    #[tokio::test]
    async fn a_quiet_tail_sends_comments() {
        let folder = tempfile::tempdir().expect("folder");
        let logplex = Logplex::open(folder.path().join("logs")).expect("opens");
        let tail = logplex.tail(APP, Filter::default(), TailFrom::Last(0)).await.expect("tail");
        let mut lines = Box::pin(live(tail, Form::Events, Duration::from_millis(1)));
        lines.next().await;
        assert_eq!(lines.next().await, Some(Ok(Bytes::from_static(b": keep-alive\n\n"))));
    }
}
