//! JSON bodies of requests, with errors that say which field is wrong.
//!
//! In: `Body<T>` as a handler's last argument. Broken JSON is 400; JSON of a wrong shape is 422 and names the
//! field (`updates[0].quantity: invalid type ...`). An empty body counts as `{}`: several clients send none.

use crate::error::ApiError;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Deserializer, Error, Unexpected};
use serde_json::error::Category;
use std::error::Error as StdError;

/// Largest JSON body, in bytes. Config vars are the largest that makes sense: 64 KB before JSON's escapes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// A request's JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let limited = Limited::new(request.into_body(), MAX_BODY_BYTES);
        let bytes = limited.collect().await.map_err(unread)?.to_bytes();
        parse(&bytes).map(Self)
    }
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

fn unread(error: Box<dyn StdError + Send + Sync>) -> ApiError {
    if error.is::<LengthLimitError>() {
        let message = format!("The request's body is larger than {MAX_BODY_BYTES} bytes.");
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message);
    }
    ApiError::bad_request("The request's body ended before it was complete.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

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
