//! JSON bodies of requests, with errors that say which field is wrong.
//!
//! In: `Body<T>` as a handler's last argument. Broken JSON is 400; JSON of a wrong shape is 422 and names the
//! field (`updates[0].quantity: invalid type ...`). An empty body counts as `{}`: several clients send none. A body may be
//! compressed with gzip. One of another type is 415, but one that does not say its type is taken for JSON; too
//! large a body is 413, before and after it is unpacked, and the rest of it is read for a while, because an answer may be
//! lost to a client that still sends when its connection is closed; one that does not come in time is 408.

use crate::error::ApiError;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{FromRequest, Request};
use bytes::BytesMut;
use flate2::read::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::{DeserializeOwned, Deserializer, Error, Unexpected};
use serde_json::error::Category;
use std::io::Read;
use std::time::Duration;
use tokio::time::timeout;

/// Largest JSON body, in bytes. Config vars are the largest that makes sense: 64 KB before JSON's escapes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Time for a whole JSON body, from when the handler wants it: what Heroku's router gives a request. The largest body needs
/// 35 kB/s to come in time; nearly all are smaller than a kilobyte.
pub const BODY_TIME_LIMIT: Duration = Duration::from_secs(30);

/// What is read and thrown away of a body that is too large: for so long, and so many bytes.
const DISCARD_TIME_LIMIT: Duration = Duration::from_secs(5);
const DISCARD_BYTES: usize = 64 * 1024 * 1024;

/// A request's JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if parts.headers.contains_key(EXPECT) && is_announced_too_large(&body) {
            // A client that waits for leave to send has sent nothing yet.
            return Err(too_large());
        }
        let bytes = bytes_of(body).await?;
        if bytes.is_empty() {
            return parse(b"").map(Self);
        }
        check_type(&parts.headers)?;
        match is_compressed(&parts.headers)? {
            true => parse(&unpack(&bytes)?).map(Self),
            false => parse(&bytes).map(Self),
        }
    }
}

/// All of a request's body.
///
/// # Errors
/// It is larger than [`MAX_BODY_BYTES`], or did not come in time.
pub async fn bytes_of(body: HttpBody) -> Result<Bytes, ApiError> {
    read(body, BODY_TIME_LIMIT).await
}

async fn read(mut body: HttpBody, limit: Duration) -> Result<Bytes, ApiError> {
    let mut bytes = BytesMut::new();
    let mut fits = !is_announced_too_large(&body);
    let whole = async {
        while fits && let Some(frame) = body.frame().await {
            // Trailers are nobody's.
            let Ok(data) = frame.map_err(unread)?.into_data() else { continue };
            fits = bytes.len() + data.len() <= MAX_BODY_BYTES;
            if fits {
                bytes.extend_from_slice(&data);
            }
        }
        Ok::<(), ApiError>(())
    };
    timeout(limit, whole).await.map_err(|_| too_slow(limit))??;
    if !fits {
        discard(body).await;
        return Err(too_large());
    }
    Ok(bytes.freeze())
}

fn is_announced_too_large(body: &HttpBody) -> bool {
    body.size_hint().lower() > MAX_BODY_BYTES as u64
}

/// Reads what a client still sends, for a while.
async fn discard(mut body: HttpBody) {
    let rest = async {
        let mut discarded = 0;
        while discarded < DISCARD_BYTES
            && let Some(Ok(frame)) = body.frame().await
        {
            discarded += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // One that is slow at it has time to see the answer.
    let _ = timeout(DISCARD_TIME_LIMIT, rest).await;
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(kind) = line_of(headers, CONTENT_TYPE) else { return Ok(()) };
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence.is_empty() || essence.ends_with("/json") || essence.ends_with("+json") {
        return Ok(());
    }
    Err(unsupported(format!(
        "A body of type {essence:?} is not understood: send JSON with `Content-Type: application/json`."
    )))
}

/// A header with all its lines as one (RFC 9110, 5.3): none of them is overlooked.
fn line_of(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines: Vec<_> =
        headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn is_compressed(headers: &HeaderMap) -> Result<bool, ApiError> {
    let Some(coding) = line_of(headers, CONTENT_ENCODING) else { return Ok(false) };
    let coding = coding.trim().to_ascii_lowercase();
    match coding.as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        _ => Err(unsupported(format!(
            "The body's encoding {coding:?} is not understood: send it as it is, or with gzip."
        ))),
    }
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut unpacked = Vec::new();
    let limit = MAX_BODY_BYTES as u64 + 1;
    MultiGzDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut unpacked)
        .map_err(|error| ApiError::bad_request(format!("The request's body is not valid gzip: {error}.")))?;
    if unpacked.len() > MAX_BODY_BYTES { Err(too_large()) } else { Ok(unpacked) }
}

fn unsupported(message: String) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
}

fn too_slow(limit: Duration) -> ApiError {
    let message = format!("The request's body did not come within {limit:?}. Send it again.");
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
}

fn too_large() -> ApiError {
    let message = format!("The request's body is larger than {MAX_BODY_BYTES} bytes.");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
}

/// Reads a JSON body.
///
/// # Errors
/// 400 or 422, as the module says.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    // The whole text must be JSON before its shape matters: a wrong type in broken JSON is broken JSON.
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        return Err(ApiError::bad_request(format!("The request's body is not valid JSON: {error}.")));
    }
    if has_nul(bytes) {
        // PostgreSQL has no text with it, nor has a process's environment.
        return Err(ApiError::invalid_params("Invalid request: the body holds a NUL character (\\u0000)."));
    }
    // Without this a list would be read as a struct's fields in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid_params("Invalid request: the body is not a JSON object."));
    }
    let deserializer = &mut serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let what = without_position(&inner);
        match inner.classify() {
            Category::Data if path == "." => ApiError::invalid_params(format!("Invalid request: {what}.")),
            _ => ApiError::invalid_params(format!("Invalid value for {path}: {what}.")),
        }
    })
}

/// Whether JSON that is valid has a NUL in one of its texts: `\u0000`, where the backslash is not itself escaped.
fn has_nul(json: &[u8]) -> bool {
    let escape = b"\\u0000";
    let mut places = json.windows(escape.len()).enumerate().filter(|(_, window)| window == escape);
    places.any(|(at, _)| json[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 0)
}

/// For `#[serde(deserialize_with)]` of an optional flag: `true`, `false`, and the 1 and 0 that heroku3 sends.
///
/// # Errors
/// Anything else.
pub fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    use serde::Deserialize;
    use serde_json::Value;
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(flag) => Ok(Some(flag)),
        Value::Number(number) if number.as_u64() == Some(0) => Ok(Some(false)),
        Value::Number(number) if number.as_u64() == Some(1) => Ok(Some(true)),
        other => Err(D::Error::invalid_type(unexpected(&other), &"a boolean")),
    }
}

fn unexpected(value: &serde_json::Value) -> Unexpected<'_> {
    use serde_json::Value;
    match value {
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
        Value::Number(_) => Unexpected::Other("number"),
        Value::Null | Value::Bool(_) => Unexpected::Other("value"),
    }
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

fn unread(_: axum::Error) -> ApiError {
    ApiError::bad_request("The request's body ended before it was complete.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[test]
    fn no_line_of_a_header_is_overlooked() {
        let headers = |lines: &[&'static str]| {
            lines
                .iter()
                .map(|line| (CONTENT_ENCODING, http::HeaderValue::from_static(line)))
                .collect::<HeaderMap>()
        };
        assert!(is_compressed(&headers(&["gzip"])).is_ok_and(|compressed| compressed));
        assert_eq!(is_compressed(&headers(&["gzip", "br"])).expect_err("two codings").status, 415);
    }

    #[derive(Debug, Deserialize)]
    struct Update {
        #[allow(dead_code)]
        quantity: u32,
    }

    #[derive(Debug, Deserialize)]
    struct Example {
        #[serde(default)]
        #[allow(dead_code)]
        updates: Vec<Update>,
        #[serde(default, deserialize_with = "flag")]
        on: Option<bool>,
    }

    #[test]
    fn errors_tell_broken_json_from_wrong_types_and_name_the_field() {
        let cases = [
            ("{", 400, "not valid JSON"),
            ("{\"on\": true} x", 400, "not valid JSON"),
            ("{\"updates\": 1", 400, "not valid JSON"),
            ("\u{ff}", 400, "not valid JSON"),
            ("{\"updates\": \"a\\u0000\"}", 422, "NUL"),
            ("{\"updates\": \"a\\\\\\u0000\"}", 422, "NUL"),
            ("{\"updates\": \"a\\\\u0000\"}", 422, "Invalid value for updates"),
            ("[]", 422, "not a JSON object"),
            ("null", 422, "not a JSON object"),
            ("{\"updates\": 1}", 422, "Invalid value for updates: invalid type: integer `1`"),
            ("{\"updates\": [{\"quantity\": \"x\"}]}", 422, "updates[0].quantity"),
            ("{\"updates\": [{}]}", 422, "missing field `quantity`"),
            ("{\"on\": \"yes\"}", 422, "on: invalid type: string \"yes\", expected a boolean"),
            ("{\"on\": 2}", 422, "on:"),
        ];
        for (body, status, message) in cases {
            let error = parse::<Example>(body.as_bytes()).expect_err(body);
            assert_eq!(error.status, status, "{body}: {}", error.message);
            assert!(error.message.contains(message), "{body}: {}", error.message);
        }
    }

    async fn send(headers: &[(&str, &str)], body: HttpBody) -> Result<Option<bool>, ApiError> {
        let mut request = Request::new(body);
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a name");
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        Body::<Example>::from_request(request, &()).await.map(|Body(example)| example.on)
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).expect("in memory");
        encoder.finish().expect("in memory")
    }

    #[tokio::test]
    async fn types_and_encodings_are_understood_or_refused() {
        let on = "{\"on\": true}".to_owned().into_bytes();
        let bomb = gzip(&format!("{{\"on\": true{}}}", " ".repeat(MAX_BODY_BYTES)));
        assert!(bomb.len() < MAX_BODY_BYTES / 100);
        let cases: Vec<(&str, &str, Vec<u8>, u16)> = vec![
            ("content-type", "application/json", on.clone(), 200),
            ("content-type", "Application/JSON; charset=utf-8", on.clone(), 200),
            ("content-type", "application/vnd.heroku+json; version=3", on.clone(), 200),
            ("content-type", "application/x-www-form-urlencoded", on.clone(), 415),
            ("content-type", "text/plain", on.clone(), 415),
            ("content-type", "jsonp", on.clone(), 415),
            ("content-type", "text/plain", Vec::new(), 200),
            ("content-encoding", "identity", on.clone(), 200),
            ("content-encoding", "GZIP", gzip("{\"on\": true}"), 200),
            ("content-encoding", "gzip", on.clone(), 400),
            ("content-encoding", "gzip", gzip("{\"on\": true}")[..12].to_vec(), 400),
            ("content-encoding", "gzip", bomb, 413),
            ("content-encoding", "br", on.clone(), 415),
            ("content-encoding", "gzip, gzip", on, 415),
        ];
        for (name, value, body, status) in cases {
            let is_empty = body.is_empty();
            let seen = send(&[(name, value)], HttpBody::from(body)).await;
            match seen {
                Ok(on) => assert_eq!((200, on.is_none()), (status, is_empty), "{name}: {value}"),
                Err(error) => assert_eq!(error.status, status, "{name}: {value}: {}", error.message),
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up_though_each_piece_comes() {
        let pieces = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((Ok::<_, std::io::Error>(" "), ()))
        });
        let slow = read(HttpBody::from_stream(pieces), Duration::from_millis(50)).await;
        let error = slow.expect_err("it never ends");
        assert_eq!((error.status.as_u16(), error.id), (408, "request_timeout"));
        assert_eq!(read(HttpBody::from("{}"), BODY_TIME_LIMIT).await.expect("read"), "{}");
    }

    #[test]
    fn an_empty_body_is_an_empty_object_and_flags_may_be_numbers() {
        for (body, on) in [
            ("", None),
            (" \n", None),
            ("{\"on\": null}", None),
            ("{\"on\": 0}", Some(false)),
            ("{\"on\": 1}", Some(true)),
            ("{\"on\": true}", Some(true)),
        ] {
            assert_eq!(parse::<Example>(body.as_bytes()).expect(body).on, on, "{body}");
        }
    }
}
