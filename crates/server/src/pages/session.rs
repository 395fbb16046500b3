//! The session of a browser: its cookie, and the token that stands in its forms.

use super::PageError;
use crate::api::conventions::{RequestContext, request_context};
use crate::auth;
use crate::listener::ClientConnection;
use crate::node::{Node, now_ms};
use axum::extract::FromRequestParts;
use ferroku_core::account::Account;
use ferroku_core::browser_session::BrowserSession;
use ferroku_core::event::Actor;
use ferroku_store::browser_sessions;
use http::header::{COOKIE, SET_COOKIE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use maud::{Markup, html};
use secrecy::{ExposeSecret, SecretString};
use std::convert::Infallible;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Over TLS the name keeps other hosts and clear text from setting it (RFC 6265bis, section 4.1.3.2).
const NAME_TLS: &str = "__Host-ferroku";
const NAME_PLAIN: &str = "ferroku";

/// A browser that is logged in, second factor included.
pub struct Session {
    pub account: Account,
    pub session: BrowserSession,
    pub browser: Browser,
    csrf: String,
}

/// A browser, logged in or not.
#[derive(Debug, Clone)]
pub struct Browser {
    pub context: RequestContext,
    /// What it calls itself.
    pub name: String,
    tls: bool,
    cookie: Option<SecretString>,
}

impl Browser {
    fn of(parts: &Parts) -> Self {
        let tls = parts.extensions.get().is_some_and(|connection: &ClientConnection| connection.tls);
        let name = parts.headers.get(USER_AGENT).and_then(|name| name.to_str().ok());
        Self {
            context: request_context(parts),
            name: name.unwrap_or("A browser without a name").to_owned(),
            tls,
            cookie: cookie(&parts.headers, if tls { NAME_TLS } else { NAME_PLAIN }),
        }
    }

    /// Whose session the cookie is, if it is one.
    ///
    /// # Errors
    /// The store failed; 403 for an account that is suspended.
    pub async fn session(&self, node: &Node) -> Result<Option<(Account, BrowserSession)>, PageError> {
        let Some(cookie) = &self.cookie else { return Ok(None) };
        let found = browser_sessions::by_token_hash(&node.store, &auth::token_hash(cookie), now_ms()).await?;
        if let Some((account, _)) = &found {
            auth::refuse_suspended(account)?;
        }
        Ok(found)
    }

    /// Gives the browser this cookie, or takes it away.
    pub fn set_cookie(&self, cookie: Option<&SecretString>) -> [(http::HeaderName, HeaderValue); 1] {
        let (name, secure) = if self.tls { (NAME_TLS, "; Secure") } else { (NAME_PLAIN, "") };
        let attributes = format!("; Path=/; HttpOnly; SameSite=Strict{secure}");
        let text = match cookie {
            Some(cookie) => format!("{name}={}{attributes}", cookie.expose_secret()),
            None => format!("{name}=; Max-Age=0{attributes}"),
        };
        let mut value = HeaderValue::from_str(&text).expect("letters and digits are valid in a header");
        value.set_sensitive(true);
        [(SET_COOKIE, value)]
    }
}

impl Session {
    /// For events.
    pub fn actor(&self) -> Actor {
        self.browser.context.actor(&self.account)
    }

    /// Whether a form carries this session's token.
    pub fn accepts(&self, csrf: &str) -> bool {
        csrf.as_bytes().ct_eq(self.csrf.as_bytes()).into()
    }

    /// The field that every form of a session has.
    pub fn field(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.csrf); }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Browser {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

impl FromRequestParts<Arc<Node>> for Session {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, PageError> {
        let browser = Browser::of(parts);
        let next = || format!("/web{}", parts.uri.path());
        let found = browser.session(node).await?;
        let Some((account, session)) = found else { return Err(PageError::LogIn { next: next() }) };
        if session.second_factor_due {
            return Err(PageError::SecondFactor { next: next() });
        }
        let cookie = browser.cookie.as_ref().map_or("", |cookie| cookie.expose_secret());
        let csrf = auth::token_hash(&format!("csrf {cookie}").into());
        Ok(Self { account, session, browser, csrf })
    }
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<SecretString> {
    let all = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value.into())
}
