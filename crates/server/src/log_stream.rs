//! Streams of log lines over HTTP: what is behind the URL of a log session.
//!
//! Plain text, a line each, or server-sent events when asked for with
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
//! Source: the WHATWG's "Server-sent events"; reference of the CLI's log streaming.

use crate::error::ApiError;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ferroku_core::AppId;
use ferroku_logplex::{Filter, Logplex, Tail, TailEvent, TailFrom};
use futures::{FutureExt, Stream, stream};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

/// A comment is sent so often, so that proxies do not take a quiet stream for a dead one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How soon a client should come back, in milliseconds: about as long as control takes to restart.
const RETRY_MS: u32 = 1_000;

/// Text that is put together into one write, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Which lines a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub app_id: AppId,
    pub filter: Filter,
    /// How many of the last lines it begins with.
    pub lines: usize,
    /// Whether it goes on with every line as it comes.
    pub tail: bool,
}

/// The cursor that a reader that was cut off sends along.
pub fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get(LAST_EVENT_ID)?.to_str().ok()?.trim().parse().ok()
}

/// The answer to a reader.
///
/// # Errors
/// The logs cannot be read, or there are too many readers.
pub async fn open(logplex: &Logplex, wanted: Wanted, headers: &HeaderMap) -> Result<Response, ApiError> {
    let Wanted { app_id, filter, lines, tail } = wanted;
    let form = Form::asked_for(headers);
    let after = last_event_id(headers);
    if tail {
        let from = after.map_or(TailFrom::Last(lines), TailFrom::After);
        let tail = logplex.tail(app_id, filter, from).await?;
        let mut response = form.response(Body::from_stream(live(tail, form, KEEP_ALIVE)));
        if form == Form::Events {
            // An event source comes back after the end of a stream, but the CLI gives up on one that breaks off within a
            // chunk, as a kill of this process makes it. A body of HTTP/1.0 has no chunks: it ends with its connection.
            *response.version_mut() = Version::HTTP_10;
        }
        return Ok(response);
    }
    let events = match after {
        // A client that does not know when to stop is told so: 204 ends an event source.
        Some(after) => {
            let events = logplex.history_after(app_id, after, filter).await?;
            if events.is_empty() {
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            events
        }
        None => {
            let lines = logplex.history(app_id, lines, filter).await?;
            lines.into_iter().map(TailEvent::Line).collect()
        }
    };
    Ok(form.response(Body::from_stream(stored(events, form))))
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

    fn response(self, body: Body) -> Response {
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
    use uuid::Uuid;

    const AT_US: i64 = 1_767_268_800_000_000;
    const APP: AppId = AppId(Uuid::from_u128(1));

    fn wanted(tail: bool) -> Wanted {
        Wanted { app_id: APP, filter: Filter::default(), lines: 2, tail }
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

    #[tokio::test]
    async fn stored_lines_come_as_text_or_as_events_and_the_stream_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let logplex = logplex(&folder, &["one", "two", "10%\r20%"]);
        let response = open(&logplex, wanted(false), &HeaderMap::new()).await.expect("opens");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        let stamp = "2026-01-01T12:00:00.000000+00:00 app[web.1]:";
        assert_eq!(text(response).await, format!("{stamp} two\n{stamp} 10%\r20%\n"));
        let response =
            open(&logplex, wanted(false), &headers(&[(ACCEPT, "text/event-stream")])).await.expect("opens");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        let events = text(response).await;
        let id: u64 = events["id: ".len()..].split('\n').next().expect("a line").parse().expect("a number");
        let expected =
            format!("id: {id}\ndata: {stamp} two\n\nid: {}\ndata: {stamp} 10%\ndata: 20%\n\n", id + 1);
        assert_eq!(events, expected);

        let again = headers(&[(ACCEPT, "text/event-stream"), (LAST_EVENT_ID, &id.to_string())]);
        let response = open(&logplex, wanted(false), &again).await.expect("opens");
        assert_eq!(text(response).await, format!("id: {}\ndata: {stamp} 10%\ndata: 20%\n\n", id + 1));
        let done = headers(&[(ACCEPT, "text/event-stream"), (LAST_EVENT_ID, &(id + 1).to_string())]);
        let response = open(&logplex, wanted(false), &done).await.expect("opens");
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "nothing more to come: do not come back");
    }

    #[tokio::test]
    async fn a_tail_stays_open_and_goes_on_behind_the_last_event() {
        let folder = tempfile::tempdir().expect("folder");
        let logplex = logplex(&folder, &["one", "two", "three"]);
        let events = headers(&[(ACCEPT, "text/event-stream")]);
        let response = open(&logplex, wanted(true), &events).await.expect("opens");
        assert_eq!(response.version(), Version::HTTP_10, "no chunks: being killed must look like an end");
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
        let response = open(&logplex, wanted(true), &again).await.expect("opens");
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
