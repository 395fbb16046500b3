//! The few pages that people need besides the CLI: sign-up, login, a lost password, their account, letting the CLI in.
//!
//! Plain HTML, no script. Every form is refused unless it comes from a page of ours ([`form`]); every answer carries
//! headers that keep pages out of caches, frames and other sites' reach. Tokens stand in query strings, which no log of
//! ours has; following a link changes nothing, only the form behind it does, because mail programs look ahead.

mod account;
mod cli;
mod form;
mod login;
mod password;
mod session;
mod sign_up;
mod two_factor;

use crate::api::routes::{Routes, get};
use crate::error::ApiError;
use crate::node::Node;
use axum::Router;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Redirect, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, html};
use std::sync::Arc;

/// Of every answer. `same-origin`, because with `no-referrer` browsers send no origin with our own forms (Fetch standard,
/// "append a request `Origin` header").
const HEADERS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The pages with their headers, to be put below `/web`.
pub fn router() -> Router<Arc<Node>> {
    routes().into_router().layer(map_response(with_headers))
}

/// Every page. No token of the API opens any; who needs no session is listed in `api/tests/people.rs`.
pub fn routes() -> Routes {
    Routes::new()
        .route("/", get(|| async { Redirect::to("/web/account") }))
        .route("/style.css", get(style))
        .merge(account::routes())
        .merge(cli::routes())
        .merge(login::routes())
        .merge(password::routes())
        .merge(sign_up::routes())
        .merge(two_factor::routes())
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css")).into_response()
}

/// A page, or why there is none.
type Answer = Result<Page, PageError>;

/// A whole page.
struct Page {
    status: StatusCode,
    title: &'static str,
    body: Markup,
}

impl Page {
    fn new(title: &'static str, body: Markup) -> Self {
        Self { status: StatusCode::OK, title, body }
    }

    /// A form that was refused: the same page again, with why.
    fn refused(title: &'static str, error: &ApiError, body: &Markup) -> Self {
        let body = html! { p.error role="alert" { (error.message) } (body) };
        Self { status: error.status, title, body }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) " - Ferroku" }
                    link rel="stylesheet" href="/web/style.css";
                }
                body { main { h1 { (self.title) } (self.body) } }
            }
        };
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        (self.status, [(CONTENT_TYPE, html)], page.into_string()).into_response()
    }
}

/// What a page answers when it refuses or fails.
pub enum PageError {
    /// The browser has to log in first, and then comes back to this path.
    LogIn {
        next: String,
    },
    /// The password was given; the second factor is still to be.
    SecondFactor {
        next: String,
    },
    Api(ApiError),
}

impl<E: Into<ApiError>> From<E> for PageError {
    fn from(error: E) -> Self {
        Self::Api(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        match self {
            Self::LogIn { next } => Redirect::to(&format!("/web/login?next={next}")).into_response(),
            Self::SecondFactor { next } => {
                Redirect::to(&format!("/web/login/code?next={next}")).into_response()
            }
            Self::Api(error) => {
                let (status, message) = (error.status, error.message.clone());
                // Its JSON goes, its cause and headers stay.
                let (mut parts, _) = error.into_response().into_parts();
                let body = html! { p.error { (message) } p { a href="/web/account" { "Your account" } } };
                let page = Page { status, title: "That did not work", body }.into_response();
                let (page_parts, body) = page.into_parts();
                parts.headers = page_parts.headers;
                Response::from_parts(parts, body)
            }
        }
    }
}
