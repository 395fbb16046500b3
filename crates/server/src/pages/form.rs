//! Bodies of forms, taken only from our own pages.
//!
//! A browser says where a form comes from: `Sec-Fetch-Site`, or in old ones `Origin`. What says another site is refused;
//! what says neither is no browser, and nobody's cookie is at stake. Forms of a session also carry a token that is made
//! from its cookie. With cookies of `SameSite=Strict` these are three walls against other sites.
//! Source: OWASP's "Cross-Site Request Forgery Prevention Cheat Sheet".

use super::PageError;
use super::session::Session;
use crate::api::body::bytes_of;
use crate::api::exposure::is_own_site;
use crate::error::ApiError;
use crate::node::Node;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::sync::Arc;

/// Largest form, in bytes: a password and some names.
const MAX_FORM_BYTES: usize = 16 * 1024;

/// A form from one of our pages.
pub struct Form<T>(pub T);

/// A form from one of our pages, in a session that is logged in.
pub struct SessionForm<T>(pub Session, pub T);

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    csrf: String,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Form<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, PageError> {
        let (parts, body) = request.into_parts();
        Ok(Self(parse(&read(&parts.headers, body).await?)?))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Node>> for SessionForm<T> {
    type Rejection = PageError;

    async fn from_request(request: Request, node: &Arc<Node>) -> Result<Self, PageError> {
        let (mut parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        let session = Session::from_request_parts(&mut parts, node).await?;
        let Token { csrf } = parse(&bytes)?;
        if !session.accepts(&csrf) {
            return Err(elsewhere().into());
        }
        Ok(Self(session, parse(&bytes)?))
    }
}

async fn read(headers: &HeaderMap, body: axum::body::Body) -> Result<Vec<u8>, ApiError> {
    if !is_own_site(headers) {
        return Err(elsewhere());
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if !kind.starts_with("application/x-www-form-urlencoded") {
        return Err(ApiError::bad_request("This page takes forms only."));
    }
    let bytes = bytes_of(body).await?;
    if bytes.len() > MAX_FORM_BYTES {
        return Err(ApiError::bad_request(format!("The form is larger than {MAX_FORM_BYTES} bytes.")));
    }
    Ok(bytes.to_vec())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // What the form held is not repeated: it may be a password.
    serde_urlencoded::from_bytes(bytes).map_err(|_| ApiError::bad_request("A field of the form is missing."))
}

fn elsewhere() -> ApiError {
    ApiError::forbidden(
        "This form did not come from our page. Go back, load the page again and try once more.",
    )
}

/// For `#[serde(deserialize_with)]`: a field that is a secret.
///
/// # Errors
/// It is no text.
pub fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HOST;

    #[test]
    fn forms_of_other_sites_are_told_by_what_browsers_say() {
        let cases: [(&[(&str, &str)], bool); 9] = [
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://node:5080")], false),
            (&[("origin", "http://node:5080")], true),
            (&[("origin", "http://node:8080")], false),
            (&[("origin", "null")], false),
            (&[], true),
        ];
        for (headers, expected) in cases {
            let mut map = HeaderMap::from_iter([(HOST, "node:5080".parse().expect("valid"))]);
            for (name, value) in headers {
                map.insert(*name, value.parse().expect("valid"));
            }
            assert_eq!(is_own_site(&map), expected, "{headers:?}");
        }
    }
}
