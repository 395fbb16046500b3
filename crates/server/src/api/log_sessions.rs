//! Log sessions: `POST /apps/X/log-sessions`, and the streams behind the URLs that it gives out.
//!
//! The URL is `http(s)://<the request's own authority>/logs/<token>`: links follow the way that the client
//! came (an SSH tunnel, say), and no header is sent along, so that the token is the right to read.
//! It holds the whole session, sealed with the master key; nothing is kept on the node, so that a session
//! outlives a restart of it.
//!
//! Invariant: a session gives no more than the authorization that asked for it. Once that is revoked or has expired, or its
//! account may not see the app any more, the URL opens nothing, and a tail under way ends.
//!
//! Source: devcenter "Platform API Reference, Log Session"; reference of the CLI's log streaming.

use super::body::Body;
use super::conventions::RequestContext;
use super::links::Links;
use crate::access::Access;
use crate::api::routes::{Routes, get, post};
use crate::auth::ViewApp;
use crate::error::ApiError;
use crate::listener::ClientConnection;
use crate::log_stream::{self, Wanted};
use crate::node::{Node, now_ms};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::{Extension, Json};
use ferroku_api::Timestamp;
use ferroku_api::log_session::{Create, LogSession};
use ferroku_core::authorize::Verb;
use ferroku_core::{AppId, AuthorizationId, Millis};
use ferroku_logplex::{Filter, HISTORY_LINES};
use ferroku_store::MasterKey;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Lines that a session begins with when it does not say; what the CLI asks for.
const DEFAULT_LINES: i64 = 100;

/// How long a session's URL may be opened, in milliseconds; on Heroku it is 6 minutes.
pub const OPEN_FOR_MS: Millis = 5 * 60 * 1_000;

/// How long a reader that was cut off may come back, in milliseconds: as long as somebody may leave a tail running.
pub const REOPEN_FOR_MS: Millis = 24 * 3_600 * 1_000;

/// Longest `source` or `dyno` in bytes: it goes into the URL.
const MAX_NAME_BYTES: usize = 100;

/// Names what a token is, so that nothing else that is sealed passes for one.
const TOKEN_PURPOSE: &str = "log_session/token/1";

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/apps/{app}/log-sessions", post(create)).route("/logs/{token}", get(read))
}

async fn create(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    client: Option<Extension<ClientConnection>>,
    Body(request): Body<Create>,
) -> Result<(StatusCode, Json<LogSession>), ApiError> {
    let session = Session::from_request(app.id, user.authorization.id, request, now_ms())?;
    let scheme = client.map_or("http", |Extension(client)| client.scheme());
    let token = session.seal(node.store.key());
    let answer = LogSession {
        id: Uuid::new_v4(),
        created_at: Timestamp(session.created_at),
        updated_at: Timestamp(session.created_at),
        logplex_url: format!("{scheme}://{}/logs/{token}", links.authority()),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// No extractor asks who it is: the token is the right to read.
async fn read(
    State(node): State<Arc<Node>>,
    Path(token): Path<String>,
    context: RequestContext,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let comes_back = log_stream::last_event_id(&headers).is_some();
    let session = Session::unseal(node.store.key(), &token, comes_back, now_ms())?;
    let held = session.access().read(&node, &context).await?;
    let response = log_stream::open(&node.logplex, session.wanted(), &headers).await?;
    Ok(response.map(|body| held.limit(node, body)))
}

/// What a token holds. The names are short because it becomes a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    #[serde(rename = "a")]
    pub app_id: AppId,
    /// Whose right to read it is.
    #[serde(rename = "k")]
    pub authorization_id: AuthorizationId,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none", default)]
    pub source: Option<String>,
    #[serde(rename = "p", skip_serializing_if = "Option::is_none", default)]
    pub process: Option<String>,
    #[serde(rename = "n")]
    pub lines: usize,
    #[serde(rename = "t")]
    pub tail: bool,
    #[serde(rename = "c")]
    pub created_at: Millis,
}

impl Session {
    /// The session that a request asks for.
    ///
    /// # Errors
    /// 422 for a negative number of lines or a name that no process has.
    pub fn from_request(
        app_id: AppId,
        authorization_id: AuthorizationId,
        request: Create,
        now: Millis,
    ) -> Result<Self, ApiError> {
        let lines = request.lines.unwrap_or(DEFAULT_LINES);
        let lines = u64::try_from(lines)
            .map_err(|_| ApiError::invalid_params(format!("lines must not be negative; it is {lines}.")))?;
        let process = request.dyno.or(request.dyno_name).or(request.process_type);
        for (field, value) in [("source", &request.source), ("dyno", &process)] {
            if value.as_ref().is_some_and(|value| value.len() > MAX_NAME_BYTES) {
                let message = format!("{field} must not be longer than {MAX_NAME_BYTES} bytes.");
                return Err(ApiError::invalid_params(message));
            }
        }
        Ok(Self {
            app_id,
            authorization_id,
            source: request.source.filter(|source| !source.is_empty()),
            process: process.filter(|process| !process.is_empty()),
            lines: usize::try_from(lines.min(HISTORY_LINES)).expect("at most 1,500"),
            tail: request.tail.unwrap_or(false),
            created_at: now,
        })
    }

    /// The token for its URL.
    pub fn seal(&self, key: &MasterKey) -> String {
        let json = serde_json::to_vec(self).expect("a struct of strings and numbers is valid JSON");
        key.seal(TOKEN_PURPOSE, &json)
    }

    /// The session in a token, if it may still be opened; `comes_back` is a reader that was cut off.
    ///
    /// # Errors
    /// 404 when it is none of ours, 403 when it has expired: the CLI tells both as a stream that timed out.
    pub fn unseal(key: &MasterKey, token: &str, comes_back: bool, now: Millis) -> Result<Self, ApiError> {
        let json = key.unseal(TOKEN_PURPOSE, token).map_err(|_| ApiError::not_found("log session"))?;
        let session: Self = serde_json::from_slice(&json).map_err(|_| ApiError::not_found("log session"))?;
        let valid_ms = if comes_back { REOPEN_FOR_MS } else { OPEN_FOR_MS };
        if !(0..=valid_ms).contains(&(now - session.created_at)) {
            return Err(ApiError::forbidden("This log session has expired. Create a new one."));
        }
        Ok(session)
    }

    fn access(&self) -> Access {
        Access::new(self.authorization_id, self.app_id, Verb::View)
    }

    fn wanted(self) -> Wanted {
        let filter = Filter { source: self.source, process: self.process };
        Wanted { app_id: self.app_id, filter, lines: self.lines, tail: self.tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::Owner;
    use axum::body::to_bytes;
    use ferroku_logplex::LogLine;
    use ferroku_store::apps;
    use http::Request;
    use tower::ServiceExt;

    const APP: AppId = AppId(Uuid::from_u128(1));
    const KEY: AuthorizationId = AuthorizationId(Uuid::from_u128(2));

    #[test]
    fn a_token_opens_its_session_for_a_while_and_no_altered_one_does() {
        let (key, other) = (MasterKey::new("k", [7; 32]), MasterKey::new("k", [8; 32]));
        let request = Create { lines: Some(2), tail: Some(true), ..Create::default() };
        let session = Session::from_request(APP, KEY, request, 0).expect("valid");
        let token = session.seal(&key);
        let status = |token: &str, key: &MasterKey, comes_back, now| {
            Session::unseal(key, token, comes_back, now)
                .map(|found| assert_eq!(found, session))
                .map_err(|e| e.status)
        };
        assert_eq!(status(&token, &key, false, OPEN_FOR_MS), Ok(()));
        assert_eq!(status(&token, &key, false, OPEN_FOR_MS + 1), Err(StatusCode::FORBIDDEN));
        assert_eq!(status(&token, &key, true, REOPEN_FOR_MS), Ok(()));
        assert_eq!(status(&token, &key, true, REOPEN_FOR_MS + 1), Err(StatusCode::FORBIDDEN));
        assert_eq!(status(&token, &other, false, 0), Err(StatusCode::NOT_FOUND), "another node's");
        for at in 0..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'0' { b'1' } else { b'0' };
            let altered = String::from_utf8(altered).expect("hex");
            assert_eq!(status(&altered, &key, false, 0), Err(StatusCode::NOT_FOUND), "altered at {at}");
        }
        let foreign = key.seal("config_snapshot/1", b"{}");
        assert_eq!(status(&foreign, &key, false, 0), Err(StatusCode::NOT_FOUND), "sealed for something else");
    }

    #[test]
    fn requests_of_every_client_are_understood_and_wrong_ones_refused() {
        let parse = |json: &str| {
            let request: Create = serde_json::from_str(json).expect("JSON");
            Session::from_request(APP, KEY, request, 5).map_err(|error| error.message)
        };
        let process = |json| parse(json).expect("valid").process;
        assert_eq!(process(r#"{"dyno":"web.1","lines":10}"#).as_deref(), Some("web.1"));
        assert_eq!(process(r#"{"dyno_name":"web"}"#).as_deref(), Some("web"));
        assert_eq!(process(r#"{"type":"worker"}"#).as_deref(), Some("worker"));
        assert_eq!(process(r#"{"dyno":null,"source":""}"#), None);
        let default = parse("{}").expect("valid");
        assert_eq!((default.lines, default.tail, default.source), (100, false, None));
        assert_eq!(parse(r#"{"lines":99999}"#).expect("valid").lines, 1_500);
        assert_eq!(parse(r#"{"lines":-1}"#), Err("lines must not be negative; it is -1.".to_owned()));
        assert!(parse(&format!(r#"{{"source":"{}"}}"#, "x".repeat(101))).is_err());
    }

    struct Client {
        node: Arc<Node>,
        api_key: String,
    }

    impl Client {
        async fn request(
            &self,
            method: &str,
            path: &str,
            key: Option<&str>,
            body: &str,
            tls: bool,
        ) -> (StatusCode, String) {
            let mut request = Request::builder().method(method).uri(path).header("host", "localhost:7777");
            if let Some(key) = key {
                request = request.header("authorization", format!("Bearer {key}"));
            }
            let remote = ([127, 0, 0, 1], 9).into();
            let request = request
                .extension(ClientConnection { remote, tls })
                .body(axum::body::Body::from(body.to_owned()));
            let answer = crate::api::app(self.node.clone())
                .oneshot(request.expect("a request"))
                .await
                .expect("infallible");
            let status = answer.status();
            let bytes = to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
            (status, String::from_utf8(bytes.to_vec()).expect("text"))
        }

        async fn session(&self, app: &str, body: &str, tls: bool) -> (StatusCode, String) {
            self.request("POST", &format!("/apps/{app}/log-sessions"), Some(&self.api_key), body, tls).await
        }
    }

    #[tokio::test]
    async fn a_session_is_asked_for_with_a_key_and_read_by_its_url_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let node = Node::for_tests(folder.path()).await;
        let owner: Owner =
            serde_json::from_slice(&std::fs::read(folder.path().join("owner.json")).expect("there"))
                .expect("the owner");
        let client = Client { node: node.clone(), api_key: owner.api_key };
        let (status, body) =
            client.request("POST", "/apps", Some(&client.api_key), r#"{"name":"example"}"#, false).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        let app = apps::find(&node.store, "example").await.expect("read").expect("there");
        node.logplex.append(app.id, LogLine::new(1_767_268_800_000_000, "app", "worker.1", "not wanted"));
        node.logplex.append(app.id, LogLine::new(1_767_268_800_000_000, "app", "web.1", "text"));

        for (tls, scheme) in [(false, "http"), (true, "https")] {
            let (status, body) =
                client.session("example", r#"{"dyno":"web","lines":10,"tail":false}"#, tls).await;
            assert_eq!(status, StatusCode::CREATED, "{body}");
            let session: LogSession = serde_json::from_str(&body).expect("a log session");
            let path = session.logplex_url.strip_prefix(&format!("{scheme}://localhost:7777"));
            let path = path.unwrap_or_else(|| panic!("{} does not follow the request", session.logplex_url));
            let (status, lines) = client.request("GET", path, None, "", tls).await;
            assert_eq!(status, StatusCode::OK, "{lines}");
            assert_eq!(lines, "2026-01-01T12:00:00.000000+00:00 app[web.1]: text\n");
            let (status, _) = client.request("GET", &path[..path.len() - 2], None, "", tls).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
        }
        let (status, _) =
            client.request("POST", "/apps/example/log-sessions", Some("wrong"), "{}", false).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, body) = client.session("nothing", "{}", false).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(body.contains("Couldn't find that app."), "{body}");
        let (status, body) = client.session("example", r#"{"lines":"many"}"#, false).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(body.contains("lines"), "{body}");
    }
}
