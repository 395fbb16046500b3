//! Links in answers follow the request: whoever came through a tunnel at another port gets that port back.

use crate::listener::ClientConnection;
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
    scheme: &'static str,
}

impl Links {
    /// The git URL of an app: always https, because that is the only kind that the CLI's credential helper serves.
    pub fn git_url(&self, app_name: &str) -> String {
        format!("https://{}/{app_name}.git", self.authority)
    }

    /// A path of this node. By TLS for who came so from elsewhere, where nothing else is answered; plain for the machine
    /// itself, whose clients may not know the node's CA.
    pub fn url(&self, path: impl Display) -> String {
        format!("{}://{}{path}", self.scheme, self.authority)
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
        let elsewhere = |client: &ClientConnection| client.tls && !client.is_local();
        let scheme = if parts.extensions.get().is_some_and(elsewhere) { "https" } else { "http" };
        Ok(Self { authority: host.or(uri).unwrap_or("localhost").to_owned(), scheme })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[tokio::test]
    async fn streams_are_read_by_tls_where_nothing_else_is_answered() {
        for (remote, tls, url) in [
            ("127.0.0.1:9", false, "http://node.example:5080/streams/builds/7"),
            ("127.0.0.1:9", true, "http://node.example:5080/streams/builds/7"),
            ("[::ffff:127.0.0.1]:9", true, "http://node.example:5080/streams/builds/7"),
            ("192.0.2.1:9", true, "https://node.example:5080/streams/builds/7"),
        ] {
            let client = ClientConnection { remote: remote.parse().expect("an address"), tls };
            let request = Request::get("/").header(HOST, "node.example:5080").extension(client);
            let (mut parts, ()) = request.body(()).expect("a request").into_parts();
            let Ok(links) = Links::from_request_parts(&mut parts, &()).await;
            assert_eq!(links.url("/streams/builds/7"), url, "{remote}");
        }
    }
}
