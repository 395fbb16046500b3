//! A build's text as it goes over HTTP: plain, or as server-sent events when asked for with `Accept: text/event-stream`.
//!
//! In: the text's file, how far it has come, and the request's headers. Out: what there is of it and what is added until the
//! build ends. A client that was cut off goes on where it was: plain text by `Range: bytes=N-`, events by `Last-Event-ID`. An
//! event is one or more whole lines; its id is the text's length up to its end, in bytes.
//!
//! Source: Heroku's schema, `output_stream_url`; the WHATWG's "Server-sent events".

use super::output::{MAX_OUTPUT_BYTES, Progress};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http::header::{ACCEPT, RANGE};
use http::{HeaderMap, StatusCode};
use std::io::{self, SeekFrom};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::watch;

/// Read at once from a build's text, in bytes.
const READ_BYTES: usize = 32 * 1024;
/// A line that goes on for longer than this, in bytes, is sent in parts.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// What a client wants of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub events: bool,
    /// Where it begins, in bytes.
    pub from: u64,
    /// Whether the client said where.
    pub is_part: bool,
}

impl Wanted {
    /// What a request's headers say. A range that is not `bytes=N-` is not looked at, as RFC 9110 allows.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let events = text(ACCEPT.as_str()).is_some_and(|kinds| kinds.contains("text/event-stream"));
        let from = match events {
            true => text("last-event-id").and_then(|id| id.trim().parse().ok()),
            false => text(RANGE.as_str())
                .and_then(|range| range.trim().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()),
        };
        // No text is longer, and a file system refuses to look further than its largest file.
        let from = from.map(|from: u64| from.min(2 * MAX_OUTPUT_BYTES));
        Self { events, from: from.unwrap_or(0), is_part: from.is_some() }
    }

    /// Of the answer.
    pub fn content_type(self) -> &'static str {
        if self.events { "text/event-stream" } else { "text/plain; charset=utf-8" }
    }

    /// Of the answer: what is not all of the text is a part of it.
    pub fn status(self) -> StatusCode {
        if self.is_part && !self.events { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK }
    }
}

/// The text from where it is wanted, until the build has ended.
///
/// # Errors
/// The file cannot be read.
pub async fn body(
    mut file: File,
    progress: Option<watch::Receiver<Progress>>,
    wanted: Wanted,
) -> io::Result<Body> {
    file.seek(SeekFrom::Start(wanted.from)).await?;
    let text = follow(file, progress);
    Ok(if wanted.events { Body::from_stream(events(text, wanted.from)) } else { Body::from_stream(text) })
}

/// What is left of the file, and what is added to it until the build has ended.
fn follow(
    file: File,
    progress: Option<watch::Receiver<Progress>>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((file, progress), |(mut file, mut progress)| async move {
        loop {
            // Marked as seen before the read: what is written after it wakes the wait below.
            let ended = progress.as_mut().is_none_or(|progress| progress.borrow_and_update().ended);
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            match file.read_buf(&mut buffer).await {
                Ok(0) if ended => return None,
                Ok(0) => {}
                Ok(_) => return Some((Ok(buffer.freeze()), (file, progress))),
                Err(error) => return Some((Err(error), (file, None))),
            }
            if let Some(watched) = progress.as_mut()
                && watched.changed().await.is_err()
            {
                progress = None;
            }
        }
    })
}

/// The same text as events.
fn events(
    text: impl Stream<Item = io::Result<Bytes>> + Send,
    from: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let state = (Box::pin(text), BytesMut::new(), from, false);
    stream::unfold(state, |(mut text, mut pending, mut at, ended)| async move {
        if ended {
            return None;
        }
        loop {
            match text.next().await {
                Some(Ok(piece)) => pending.extend_from_slice(&piece),
                Some(Err(error)) => return Some((Err(error), (text, pending, at, true))),
                None if pending.is_empty() => return None,
                None => {
                    at += pending.len() as u64;
                    let last = event(&pending, at);
                    return Some((Ok(last), (text, BytesMut::new(), at, true)));
                }
            }
            let whole = pending.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
            let whole = whole.or_else(|| (pending.len() > MAX_LINE_BYTES).then_some(pending.len()));
            if let Some(whole) = whole {
                let lines = pending.split_to(whole);
                at += whole as u64;
                return Some((Ok(event(&lines, at)), (text, pending, at, false)));
            }
        }
    })
}

/// An event of these lines; a carriage return would end a line of it, too.
fn event(lines: &[u8], id: u64) -> Bytes {
    let mut event = format!("id: {id}\n").into_bytes();
    let text = lines.strip_suffix(b"\n").unwrap_or(lines);
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.push(b'\n');
    event.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    async fn read(headers: &[(&str, &str)], text: &str) -> (StatusCode, String) {
        let headers = headers.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a name");
            (name, value.parse().expect("a value"))
        });
        let wanted = Wanted::of(&headers.collect());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        std::fs::write(&path, text).expect("written");
        let body = body(File::open(&path).await.expect("there"), None, wanted).await.expect("read");
        let bytes = axum::body::to_bytes(body, 1_000_000).await.expect("whole");
        (wanted.status(), String::from_utf8(bytes.into()).expect("text"))
    }

    #[tokio::test]
    async fn a_text_goes_on_where_its_reader_was_cut_off() {
        let text = "one\ntwo\r\nrest";
        for (headers, status, expected) in [
            (vec![], 200, text),
            (vec![("range", "bytes=4-")], 206, "two\r\nrest"),
            (vec![("range", "bytes=99-")], 206, ""),
            (vec![("range", "bytes=18446744073709551615-")], 206, ""),
            (vec![("range", "lines=1-")], 200, text),
            (vec![("range", "bytes=0-1")], 200, text),
            (
                vec![("accept", "text/event-stream")],
                200,
                "id: 9\ndata: one\ndata: two\ndata: \n\nid: 13\ndata: rest\n\n",
            ),
            (vec![("accept", "text/event-stream"), ("last-event-id", "9")], 200, "id: 13\ndata: rest\n\n"),
            (vec![("accept", "text/event-stream"), ("last-event-id", "13")], 200, ""),
            (
                vec![("accept", "text/event-stream"), ("range", "bytes=4-"), ("last-event-id", "x")],
                200,
                "id: 9\ndata: one\ndata: two\ndata: \n\nid: 13\ndata: rest\n\n",
            ),
        ] {
            assert_eq!(
                read(&headers, text).await,
                (StatusCode::from_u16(status).expect("one"), expected.to_owned()),
                "{headers:?}"
            );
        }
    }
}
