//! Who may ask in clear text, and what every answer tells a browser.

use super::Api;
use crate::listener::ClientConnection;
use crate::node::{Node, now_ms};
use axum::body::{Body, to_bytes};
use ferroku_store::accounts;
use futures::StreamExt;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// A generous time for what comes at once.
const SOON: Duration = Duration::from_secs(20);

/// A request as it arrives from this address.
async fn ask(
    node: &Arc<Node>,
    from: &str,
    tls: bool,
    key: Option<&str>,
    path: &str,
) -> (StatusCode, HeaderMap, String) {
    let remote = from.parse().expect("an address");
    let mut request = Request::builder().uri(path).extension(ClientConnection { remote, tls });
    if let Some(key) = key {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let request = request.body(Body::empty()).expect("a request");
    let answer = crate::api::app(node.clone()).oneshot(request).await.expect("infallible");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    (status, headers, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn plain_http_is_for_the_machine_itself_and_elsewhere_no_key_is_looked_at() {
    let api = Api::start().await;
    api.client.create_app(Some("example")).await.expect("created");
    let key = api.owner.api_key.clone();
    let account =
        accounts::find_by_email(&api.node.store, &api.owner.email).await.expect("read").expect("made");
    let left = || api.node.rate_limits.remaining(account.id, now_ms());
    for from in ["127.0.0.1:5", "127.8.9.1:5", "[::1]:5", "[::ffff:127.0.0.1]:5"] {
        assert_eq!(ask(&api.node, from, false, Some(&key), "/apps/example").await.0, 200, "{from}");
    }
    for from in ["192.0.2.7:5", "10.0.0.1:5", "[2001:db8::1]:5", "[::ffff:192.0.2.7]:5"] {
        assert_eq!(ask(&api.node, from, true, Some(&key), "/apps/example").await.0, 200, "{from} by TLS");
        let before = left();
        let paths = [
            "/apps/example",
            "/logs/0",
            "/example.git/info/refs?service=git-upload-pack",
            "/metrics",
            "/nothing",
        ];
        for path in paths {
            for key in [Some(key.as_str()), Some("wrong"), None] {
                let (status, headers, body) = ask(&api.node, from, false, key, path).await;
                assert_eq!(status, StatusCode::UPGRADE_REQUIRED, "{from} {path}: {body}");
                assert_eq!(headers["upgrade"], "TLS/1.2, HTTP/1.1");
                assert!(headers.contains_key("request-id") && !headers.contains_key("ratelimit-remaining"));
                if path.contains(".git/") {
                    // git shows its user nothing of another type.
                    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
                    assert!(body.contains("use https"), "{body}");
                    continue;
                }
                let body: Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(body["id"], "upgrade_required", "{body}");
            }
        }
        assert!(left() >= before, "a request that was refused has counted: its key was looked at");
    }
}

#[tokio::test]
async fn every_answer_has_the_headers_for_browsers_and_only_tls_from_elsewhere_asks_for_tls() {
    let api = Api::start().await;
    let key = api.owner.api_key.clone();
    let strict = "strict-transport-security";
    for (from, tls, has_strict) in [
        ("127.0.0.1:5", false, false),
        ("127.0.0.1:5", true, false),
        ("192.0.2.7:5", true, true),
        ("192.0.2.7:5", false, false),
    ] {
        for (path, key) in [("/account", Some(key.as_str())), ("/account", None), ("/nothing", None)] {
            let (_, headers, _) = ask(&api.node, from, tls, key, path).await;
            assert_eq!(headers.contains_key(strict), has_strict, "{from} {tls} {path}");
            assert_eq!(headers["cache-control"], "no-store");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["x-frame-options"], "DENY");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            let policy = headers["content-security-policy"].to_str().expect("text");
            assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        }
    }
}

#[tokio::test]
async fn in_clear_text_from_elsewhere_nothing_else_of_a_request_is_looked_at() {
    let api = Api::start().await;
    let remote = "192.0.2.7:5".parse().expect("an address");
    let request = Request::builder()
        .method("POST")
        .uri("/apps%00")
        .header("Accept", "application/vnd.heroku+json; version=4")
        .header("Origin", "https://evil.example")
        .header("If-Match", "\"x\"")
        .extension(ClientConnection { remote, tls: false });
    let request = request.body(Body::empty()).expect("a request");
    let answer = crate::api::app(api.node.clone()).oneshot(request).await.expect("infallible");
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing_with_a_password_that_a_browser_keeps() {
    let api = Api::start().await;
    let host = api.url.strip_prefix("http://").expect("http").to_owned();
    let own = format!("http://{host}");
    let cases = [
        (None, None, 201),
        (Some(("Origin", own.as_str())), None, 201),
        (Some(("Sec-Fetch-Site", "same-origin")), None, 201),
        (Some(("Origin", "https://evil.example")), None, 403),
        (Some(("Origin", "null")), None, 403),
        (Some(("Sec-Fetch-Site", "cross-site")), Some(("Origin", own.as_str())), 403),
        (Some(("Sec-Fetch-Site", "same-site")), None, 403),
    ];
    for (one, other, expected) in cases {
        let before = api.client.apps().await.expect("listed").len();
        let request = api.client.request(reqwest::Method::POST, "/apps");
        let headers = one.into_iter().chain(other);
        let request = headers.fold(request, |request, (name, value)| request.header(name, value));
        let answer = request.send().await.expect("answered");
        assert_eq!(answer.status(), expected, "{one:?}");
        let made = api.client.apps().await.expect("listed").len() - before;
        assert_eq!(made, usize::from(expected == 201), "{one:?}");
    }
    let reads = api.client.request(reqwest::Method::GET, "/apps").header("Origin", "https://evil.example");
    let answer = reads.send().await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("access-control-allow-origin"), "which its page cannot read");
}

/// The address of a new log session of the app, for whoever the client is.
async fn log_url(client: &ferroku_api::Client, app: &str) -> String {
    let path = format!("/apps/{app}/log-sessions");
    let body = json!({"lines": 10, "tail": true}).to_string();
    let answer = client.request(reqwest::Method::POST, &path).body(body).send().await.expect("answered");
    let session: Value = answer.json().await.expect("JSON");
    session["logplex_url"].as_str().expect("a session").to_owned()
}

#[tokio::test]
async fn a_log_session_ends_with_the_access_that_it_was_made_with() {
    let api = Api::start().await;
    api.node.spawn_tasks();
    let member = api.member("member@example.com").await;
    member.create_app(Some("theirs")).await.expect("created");
    let url = log_url(&member, "theirs").await;
    let again = || async {
        let request = reqwest::Client::new().get(&url).header("Accept", "text/event-stream");
        request.header("Last-Event-ID", "0").send().await.expect("answered")
    };
    let tail = again().await;
    assert_eq!(tail.status(), 200);
    let mut lines = tail.bytes_stream();
    let first = tokio::time::timeout(SOON, lines.next()).await.expect("in time");
    assert!(first.is_some(), "the tail is open");

    // The member's key is taken away, as a logout does it.
    let (_, all) = super::read(
        member.request(reqwest::Method::GET, "/oauth/authorizations").send().await.expect("answered"),
    )
    .await;
    let id = all[0]["id"].as_str().expect("an id");
    let path = format!("/oauth/authorizations/{id}");
    let revoked = member.request(reqwest::Method::DELETE, &path).send().await.expect("answered");
    assert_eq!(revoked.status(), 200);
    let rest = async { while lines.next().await.is_some() {} };
    tokio::time::timeout(SOON, rest).await.expect("the tail goes on without access");
    assert_eq!(again().await.status(), 403, "and neither it nor the history opens again");
    assert_eq!(api.client.app("theirs").await.expect("the admin's access is another").name, "theirs");
    let others = log_url(&api.client, "theirs").await;
    assert_eq!(reqwest::get(&others).await.expect("answered").status(), 200);
}
