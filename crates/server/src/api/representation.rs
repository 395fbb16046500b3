//! The form in which an answer goes out: `ETag` and 304, `Last-Modified`, gzip.
//!
//! In: what a request says of the answer that it wants ([`Asked`]), and the handler's answer. Out: that answer, tagged; empty
//! with 304 when the client has it already; compressed when the client can read that. Only JSON whose whole text is known
//! is touched: streams (builds, logs, git) go out as they are written.
//!
//! - Tags are weak, because the same text may go out compressed or not. They cover `Next-Range` too: a client that is told
//!   304 knows also where the list goes on.
//! - `Last-Modified` is the resource's `updated_at`; config vars have names of their users' choice, and no such. `If-Modified-Since` is not looked at: two changes within a second
//!   would be one to it.
//!
//! Source: RFC 9110, sections 8.8, 12.5.3 and 13.1.2.

use axum::body::{Body, Bytes};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    LAST_MODIFIED, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::io::Write;

/// Shorter bodies are sent as they are: with its own framing gzip makes them longer, not shorter, in bytes.
const MIN_GZIP_BYTES: usize = 1024;
/// Letters of a tag: 128 bits.
const TAG_LETTERS: usize = 32;
pub const NEXT_RANGE: HeaderName = HeaderName::from_static("next-range");

/// What a request says of the answer that it wants.
#[derive(Debug)]
pub struct Asked {
    /// GET or HEAD.
    reads: bool,
    /// The tags that the client has.
    known: Vec<String>,
    gzip: bool,
    /// Whether the answer's fields are ours.
    has_own_fields: bool,
}

impl Asked {
    /// Of this request.
    pub fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let known = texts(headers, IF_NONE_MATCH).map(|tag| strong(tag).to_owned()).collect();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let has_own_fields = !request.uri().path().trim_end_matches('/').ends_with("/config-vars");
        Self { reads, known, gzip: reads_gzip(headers), has_own_fields }
    }

    /// The answer in the form that was asked for.
    pub async fn give(self, response: Response) -> Response {
        let is_json = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if !is_json || response.body().size_hint().exact().is_none() {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else {
            // It is in memory: nothing can go wrong while it is read.
            return Response::from_parts(parts, Body::empty());
        };
        let mut bytes = body.to_bytes();
        let headers = &mut parts.headers;
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding, Authorization"));
        if self.reads && matches!(parts.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            let tag = tag(headers, &bytes);
            let is_known = self.known.iter().any(|known| *known == strong(&tag) || known == "*");
            insert(headers, ETAG, &tag);
            if self.has_own_fields
                && let Some(time) = last_modified(&bytes)
            {
                insert(headers, LAST_MODIFIED, &time);
            }
            if is_known {
                headers.remove(CONTENT_TYPE);
                headers.remove(CONTENT_LENGTH);
                parts.status = StatusCode::NOT_MODIFIED;
                return Response::from_parts(parts, Body::empty());
            }
        }
        if self.gzip
            && bytes.len() >= MIN_GZIP_BYTES
            && let Some(compressed) = gzip(&bytes)
        {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.remove(CONTENT_LENGTH);
            bytes = compressed;
        }
        Response::from_parts(parts, Body::from(bytes))
    }
}

/// The items of a header that is a list, over all its lines.
fn texts(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

/// A tag without the mark of a weak one: `If-None-Match` compares them so.
fn strong(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn reads_gzip(headers: &HeaderMap) -> bool {
    texts(headers, ACCEPT_ENCODING).any(|item| {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        let wanted = weight.is_none_or(|weight| weight > 0.0);
        wanted && ["gzip", "x-gzip"].iter().any(|name| coding.trim().eq_ignore_ascii_case(name))
    })
}

fn tag(headers: &HeaderMap, bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    for name in [CONTENT_RANGE, NEXT_RANGE] {
        digest.update(headers.get(name).map_or(&b""[..], HeaderValue::as_bytes));
        digest.update([0]);
    }
    digest.update(bytes);
    let letters = hex::encode(digest.finalize());
    format!("W/\"{}\"", &letters[..TAG_LETTERS])
}

#[derive(Deserialize)]
struct Stamped {
    updated_at: String,
}

/// When the resource was changed last; None for lists and for what does not say.
fn last_modified(bytes: &[u8]) -> Option<String> {
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let stamped: Stamped = serde_json::from_slice(bytes).ok()?;
    DateTimePrinter::new().timestamp_to_rfc9110_string(&stamped.updated_at.parse::<Timestamp>().ok()?).ok()
}

fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Json;
    use axum::response::IntoResponse;
    use serde_json::{Value, json};

    fn asked(headers: &[(HeaderName, &'static str)]) -> Asked {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(name.clone(), HeaderValue::from_static(value));
        }
        Asked::of(&request)
    }

    #[test]
    fn gzip_is_sent_only_to_who_asks_for_it() {
        let cases = [
            ("gzip", true),
            ("GZIP", true),
            ("gzip, deflate, br", true),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("deflate", false),
            ("*", false),
            ("identity", false),
            ("", false),
        ];
        for (value, gzip) in cases {
            assert_eq!(asked(&[(ACCEPT_ENCODING, value)]).gzip, gzip, "{value:?}");
        }
        assert!(!asked(&[]).gzip);
    }

    #[tokio::test]
    async fn the_tag_changes_with_the_text_and_with_where_the_list_goes_on() {
        let of = async |next: Option<&'static str>, value: Value| {
            let mut response = Json(value).into_response();
            if let Some(next) = next {
                response.headers_mut().insert(NEXT_RANGE, HeaderValue::from_static(next));
            }
            asked(&[]).give(response).await.headers()[ETAG].clone()
        };
        let tag = of(None, json!([1])).await;
        assert_eq!(tag, of(None, json!([1])).await);
        assert_ne!(tag, of(None, json!([2])).await);
        assert_ne!(tag, of(Some("id ]1.."), json!([1])).await);
    }

    #[tokio::test]
    async fn errors_and_streams_are_not_tagged() {
        let error = (StatusCode::NOT_FOUND, Json(json!({"id": "not_found"}))).into_response();
        assert!(asked(&[(IF_NONE_MATCH, "*")]).give(error).await.headers().get(ETAG).is_none());
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>("[1]")]);
        let mut stream = Response::new(Body::from_stream(pieces));
        stream.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert!(asked(&[]).give(stream).await.headers().get(ETAG).is_none());
    }
}
