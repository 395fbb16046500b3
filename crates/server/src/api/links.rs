//! Links in answers follow the request: whoever came through a tunnel at another port gets that port back.

use axum::extract::FromRequestParts;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use std::convert::Infallible;
use std::fmt::Display;

/// The `host:port` that the client spoke to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    authority: String,
}

impl Links {
    /// The git URL of an app: always https, because that is the only kind that the CLI's credential helper serves.
    pub fn git_url(&self, app_name: &str) -> String {
        format!("https://{}/{app_name}.git", self.authority)
    }

    /// Where a stream of text is read, without a key: the id is the secret. `noun`: `builds`, `releases`.
    pub fn stream_url(&self, noun: &str, id: impl Display) -> String {
        format!("http://{}/streams/{noun}/{id}", self.authority)
    }

    /// The client's own name for this node, such as `localhost:5080`.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Links {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok());
        // Whatever is no authority would end up in answers as it is.
        let host =
            host.filter(|host| host.parse::<Authority>().is_ok_and(|read| !read.as_str().contains('@')));
        let uri = parts.uri.authority().map(Authority::as_str);
        Ok(Self { authority: host.or(uri).unwrap_or("localhost").to_owned() })
    }
}
