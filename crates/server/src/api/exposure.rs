//! What the API asks of connections from elsewhere, and what it tells browsers.
//!
//! - Plain HTTP is for the machine itself: whoever comes to it from another address is answered 426 before anything of
//!   the request but its head was looked at, least of all `Authorization`. What counts is the address that connected; a
//!   proxy or an SSH tunnel on the machine is the machine.
//! - A browser keeps the password that git's paths ask for and sends it along to all of this origin, also for a page of
//!   another site. What such a page asks for is refused unless it only reads; no page can read the answer.
//! - Every answer says that it is not to be stored, not to be framed, not to be guessed at, and by TLS from elsewhere that
//!   the name is to be asked by TLS from now on. An answer that says something of its own keeps it (a log stream's
//!   `Cache-Control`, a page's `Content-Security-Policy`).
//!
//! Sources: RFC 9110 section 15.5.22 (426); RFC 6797 (HSTS: browsers extend it to every port of the name, which is why
//! `localhost` is spared); OWASP's REST security cheat sheet, "Security headers".

use crate::error::ApiError;
use crate::git;
use crate::listener::ClientConnection;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, UPGRADE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::net::SocketAddr;

/// What every answer says unless it says something else itself.
const HEADERS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (REFERRER_POLICY, "no-referrer"),
];
/// For a year, without the names below: those are apps, which may be asked in clear text.
const TLS_FROM_NOW_ON: &str = "max-age=31536000";

/// Refuses plain HTTP from elsewhere. Within the layer that gives a refusal its `Request-Id`, and before any other looks at
/// the request.
pub async fn refuse_clear_text(request: Request, next: Next) -> Response {
    match connection(request.extensions()) {
        Some(client) if client.tls || client.is_local() => next.run(request).await,
        _ => {
            let headers = [(UPGRADE, "TLS/1.2, HTTP/1.1"), (CONNECTION, "upgrade, close")];
            let error = upgrade_required();
            match is_gits(request.uri().path()) {
                // git shows no other type to its user.
                true => (headers, git::refuse(error.status, &error.message)).into_response(),
                false => (headers, error).into_response(),
            }
        }
    }
}

/// Refuses what a page of another site has a browser do. Our own pages ask for more than this, and say it as a page.
pub async fn refuse_other_sites(request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || request.uri().path().starts_with("/web/") || is_own_site(request.headers()) {
        return next.run(request).await;
    }
    let message = "This request comes from a page of another site, and changes things only when its own pages or a client \
                   that is no browser send it.";
    ApiError::forbidden(message).into_response()
}

/// Whether a browser says that a page of this origin asks, or nobody says anything, as clients that are no browsers do.
/// `Sec-Fetch-Site`, or in old browsers `Origin`. Source: OWASP's "Cross-Site Request Forgery Prevention Cheat Sheet".
pub fn is_own_site(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    match headers.get(ORIGIN) {
        None => true,
        Some(_) => {
            let origin = text(ORIGIN).and_then(|origin| origin.split_once("://"));
            origin.zip(text(HOST)).is_some_and(|((_, authority), host)| authority == host)
        }
    }
}

/// Whether a path is git's: a repository's name is one of its segments.
fn is_gits(path: &str) -> bool {
    path.split('/').any(|segment| segment.ends_with(".git"))
}

/// Adds the headers. The outermost layer.
pub async fn protect(request: Request, next: Next) -> Response {
    let by_tls_from_elsewhere =
        connection(request.extensions()).is_some_and(|client| client.tls && !client.is_local());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if by_tls_from_elsewhere {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(TLS_FROM_NOW_ON));
    }
    response
}

/// How the request came; None when nobody knows.
fn connection(extensions: &Extensions) -> Option<ClientConnection> {
    let plain = || {
        let ConnectInfo(remote) = extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(ClientConnection { remote: *remote, tls: false })
    };
    extensions.get().copied().or_else(plain)
}

fn upgrade_required() -> ApiError {
    let message = "This node takes plain HTTP from its own machine only: use https. If this request carried a token or a \
                   password, it crossed the network unprotected; revoke it.";
    ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
}
