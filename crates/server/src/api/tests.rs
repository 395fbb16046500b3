//! Every endpoint over a real socket, by the typed client and by hand.

mod access;
mod audit;
mod authorization;
mod bodies;
mod compatibility;
mod conventions;
mod domains;
mod exposure;
mod foreign_ids;
mod formations;
mod keys;
mod letters;
mod limits;
mod nonsense;
mod openapi;
mod people;
mod pipelines;
mod second_factor;
mod sharing;

use crate::auth::{new_token, redact, token_hash};
use crate::mail::MailSettings;
use crate::node::{Node, now_ms};
use crate::people::{PeopleSettings, SignUp};
use crate::secrets::Owner;
use ferroku_api::release::Release;
use ferroku_api::{Client, ClientError};
use ferroku_core::account::Role;
use ferroku_core::config_var::ConfigPatch;
use ferroku_core::oauth_authorization::Scopes;
use ferroku_core::{AccountId, AuthorizationId};
use ferroku_store::accounts::{self, NewAccount};
use ferroku_store::oauth_authorizations::{self, NewAuthorization};
use ferroku_store::{StoreError, write};
use reqwest::{Method, Response};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tempfile::TempDir;
use uuid::Uuid;

/// A node's API on a free port, and its owner's client.
struct Api {
    node: Arc<Node>,
    url: String,
    owner: Owner,
    client: Client,
    _folder: TempDir,
}

impl Api {
    async fn start() -> Self {
        let people = PeopleSettings { sign_up: SignUp::Closed, public_url: String::new() };
        Self::start_with(people, MailSettings::default()).await
    }

    async fn start_with(people: PeopleSettings, mail: MailSettings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::for_tests_of_people(folder.path(), people, mail).await;
        Self::serve(folder, node).await
    }

    async fn serve(folder: TempDir, node: Arc<Node>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let app = super::app(node.clone()).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let text = std::fs::read(folder.path().join("owner.json")).expect("written at the first start");
        let owner: Owner = serde_json::from_slice(&text).expect("JSON");
        let client = Client::new(&url, &owner.api_key);
        Self { node, url, owner, client, _folder: folder }
    }

    /// A client of another account, which may do nothing on the node but have apps.
    async fn member(&self, email: &str) -> Client {
        let account_id = self.account(email, Role::Member).await;
        Client::new(&self.url, &self.token(account_id, &Scopes::global()).await)
    }

    /// A new account.
    async fn account(&self, email: &str, role: Role) -> AccountId {
        let id = AccountId(Uuid::new_v4());
        let new = NewAccount { id, email, name: None, password_hash: "", role };
        let made: Result<(), StoreError> = async {
            write!(&self.node.store, tx => {
                accounts::create(&mut tx, &new, 0).await?;
                Ok(())
            })
        }
        .await;
        made.expect("an account");
        id
    }

    /// A token of an account's.
    async fn token(&self, account_id: AccountId, scope: &Scopes) -> String {
        let token = new_token();
        let (hash, redacted) = (token_hash(&token), redact(&token));
        let new = NewAuthorization {
            id: AuthorizationId(Uuid::new_v4()),
            account_id,
            description: "test",
            scope,
            token_hash: &hash,
            token_redacted: &redacted,
            expires_at: None,
            is_login: false,
        };
        let made: Result<(), StoreError> = async {
            write!(&self.node.store, tx => {
                oauth_authorizations::create(&mut tx, &new, 0).await?;
                Ok(())
            })
        }
        .await;
        made.expect("a token");
        token.expose_secret().to_owned()
    }

    /// Sends a request by hand.
    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let answer = self.client.request(method, path).body(body.to_owned()).send().await.expect("answered");
        read(answer).await
    }
}

async fn read(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().expect("text").to_owned());
    assert_eq!(kind.as_deref(), Some("application/json"), "every answer is JSON");
    (status, answer.json().await.expect("JSON"))
}

fn error_of<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String, String) {
    match result.expect_err("refused") {
        ClientError::Api { status, id, message } => (status, id, message),
        other => panic!("{other}"),
    }
}

fn patch(entries: &[(&str, Option<&str>)]) -> ConfigPatch {
    entries.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
}

#[tokio::test]
async fn an_app_is_created_shown_changed_and_destroyed() {
    let api = Api::start().await;
    let app = api.client.create_app(Some("example")).await.expect("created");
    let authority = api.url.strip_prefix("http://").expect("http");
    assert_eq!(app.git_url, format!("https://{authority}/example.git"));
    assert_eq!(app.web_url.as_deref(), Some("http://example.localhost:8080/"));
    assert_eq!((app.owner.email.as_str(), app.stack.name.as_str()), ("owner@example.com", "heroku-24"));
    assert_eq!((app.repo_size, app.slug_size, app.acm), (Some(0), Some(0), false));
    for name in ["example", &app.id.to_string()] {
        assert_eq!(api.client.app(name).await.expect("found"), app);
    }
    let (status, taken) = api.send("POST", "/apps", r#"{"name": "example"}"#).await;
    assert_eq!(
        (status, &taken["id"], &taken["message"]),
        (422, &json!("invalid_params"), &json!("Name example is already taken"))
    );

    let random = api.client.create_app(None).await.expect("created");
    let parts: Vec<&str> = random.name.split('-').collect();
    assert!(parts.len() == 3 && parts[2].len() == 5 && parts[2].parse::<u32>().is_ok(), "{}", random.name);
    assert_ne!(api.client.create_app(None).await.expect("created").name, random.name);

    let (status, renamed) =
        api.send("PATCH", "/apps/example", r#"{"name": "other", "maintenance": 1}"#).await;
    assert_eq!((status, &renamed["name"], &renamed["maintenance"]), (200, &json!("other"), &json!(true)));
    assert_eq!(renamed["web_url"], "http://other.localhost:8080/");
    assert_eq!(api.send("PATCH", "/apps/other", r#"{"maintenance": 0}"#).await.1["maintenance"], false);
    assert_eq!(error_of(api.client.app("example").await).0, 404);

    assert_eq!(api.client.apps().await.expect("listed").len(), 3);
    assert_eq!(api.client.destroy_app("other").await.expect("destroyed").name, "other");
    let gone = error_of(api.client.app("other").await);
    assert_eq!(gone, (404, "not_found".to_owned(), "Couldn't find that app.".to_owned()));
    assert_eq!(api.client.apps().await.expect("listed").len(), 2);
    assert_ne!(api.client.create_app(Some("other")).await.expect("the name is free").id, app.id);
}

#[tokio::test]
async fn links_follow_the_authority_that_the_client_used() {
    let api = Api::start().await;
    api.client.create_app(Some("example")).await.expect("created");
    for (host, git_url) in [
        ("localhost:15080", "https://localhost:15080/example.git"),
        ("127.0.0.1", "https://127.0.0.1/example.git"),
        ("[::1]:5080", "https://[::1]:5080/example.git"),
        ("evil@host/path", "https://localhost/example.git"),
    ] {
        let request = api.client.request(Method::GET, "/apps/example").header("Host", host);
        let (_, app) = read(request.send().await.expect("answered")).await;
        assert_eq!(app["git_url"], git_url, "{host}");
        assert_eq!(app["web_url"], "http://example.localhost:8080/");
    }
}

#[tokio::test]
async fn a_config_change_is_one_release_and_no_change_is_none() {
    let api = Api::start().await;
    api.client.create_app(Some("example")).await.expect("created");
    let set = |entries: Vec<(&'static str, Option<&'static str>)>| {
        let client = &api.client;
        async move { client.patch_config_vars("example", &patch(&entries)).await }
    };
    let vars = set(vec![("B", Some("2")), ("A", Some("1"))]).await.expect("set");
    assert_eq!(serde_json::to_value(&vars).expect("JSON"), json!({"A": "1", "B": "2"}));
    set(vec![("A", Some("1")), ("NOT_THERE", None)]).await.expect("nothing to do");
    set(vec![("A", None)]).await.expect("removed");
    assert_eq!(api.client.config_vars("example").await.expect("read"), [("B".into(), "2".into())].into());
    let releases = api.client.releases("example").await.expect("listed");
    let told: Vec<(i64, &str, bool)> = releases
        .iter()
        .map(|release| (release.version, release.description.as_str(), release.current))
        .collect();
    let expected = [
        (1, "Initial release", false),
        (2, "Enable Logplex", false),
        (3, "Set A, B config vars", false),
        (4, "Remove A config vars", true),
    ];
    assert_eq!(told, expected);
    let (_, old) = api.send("GET", "/apps/example/releases/v3/config-vars", "").await;
    assert_eq!(old, json!({"A": "1", "B": "2"}));
    let refused = set(vec![("GOOD", Some("x")), ("BAD-NAME", Some("x"))]).await;
    assert_eq!(error_of(refused).0, 422);
    assert!(!api.client.config_vars("example").await.expect("read").contains_key("GOOD"), "all or nothing");
}

#[tokio::test]
async fn a_rollback_is_a_new_release_with_the_old_config_vars() {
    let api = Api::start().await;
    api.client.create_app(Some("example")).await.expect("created");
    for value in ["1", "2"] {
        api.client.patch_config_vars("example", &patch(&[("A", Some(value))])).await.expect("set");
    }
    let by_version = api.client.rollback("example", "v3").await.expect("rolled back");
    assert_eq!((by_version.version, by_version.description.as_str()), (5, "Rollback to v3"));
    assert!(by_version.current && by_version.eligible_for_rollback);
    assert_eq!(api.client.config_vars("example").await.expect("read")["A"], "1");
    let v4: Release = api.client.get("/apps/example/releases/4").await.expect("found");
    let by_id = api.client.rollback("example", &v4.id.to_string()).await.expect("rolled back");
    assert_eq!(by_id.description, "Rollback to v4");
    assert_eq!(api.client.config_vars("example").await.expect("read")["A"], "2");
    let (status, by_number) = api.send("POST", "/apps/example/releases", r#"{"release": 2}"#).await;
    assert_eq!((status, &by_number["version"]), (201, &json!(7)));
    assert!(api.client.config_vars("example").await.expect("read").is_empty());
    for missing in ["v99", "99", "nonsense", "01234567-89ab-cdef-0123-456789abcdef"] {
        assert_eq!(error_of(api.client.rollback("example", missing).await).0, 404, "{missing}");
    }
}

#[tokio::test]
async fn releases_are_listed_newest_first_in_parts_when_asked() {
    let api = Api::start().await;
    api.client.create_app(Some("example")).await.expect("created");
    let mut range = "version ..; max=1, order=desc".to_owned();
    let mut seen = Vec::new();
    loop {
        let request = api.client.request(Method::GET, "/apps/example/releases").header("Range", &range);
        let answer = request.send().await.expect("answered");
        let status = answer.status().as_u16();
        let next = answer.headers().get("Next-Range").map(|next| next.to_str().expect("text").to_owned());
        let part: Vec<Release> = answer.json().await.expect("a list");
        seen.extend(part.iter().map(|release| release.version));
        assert_eq!(status, if next.is_some() { 206 } else { 200 });
        let Some(next) = next else { break };
        range = next;
    }
    assert_eq!(seen, [2, 1]);
}

#[tokio::test]
async fn logging_in_makes_a_token_that_works_until_it_is_deleted() {
    let api = Api::start().await;
    let http = reqwest::Client::new();
    let url = format!("{}/oauth/authorizations", api.url);
    let log_in = |password: String| {
        let body = json!({"description": "Heroku CLI login from test", "expires_in": 2_592_000, "scope": ["global"]});
        http.post(&url).basic_auth("Owner@Example.com", Some(password)).json(&body).send()
    };
    let (status, refused) = read(log_in("wrong".to_owned()).await.expect("answered")).await;
    assert_eq!((status, &refused["message"]), (401, &json!("Invalid credentials provided.")));
    let (status, made) = read(log_in(api.owner.password.clone()).await.expect("answered")).await;
    assert_eq!((status, &made["user"]["email"]), (201, &json!("owner@example.com")));
    let expires_in = made["access_token"]["expires_in"].as_i64().expect("a number");
    assert!((2_591_990..=2_592_000).contains(&expires_in), "{expires_in}");
    let token = made["access_token"]["token"].as_str().expect("the whole token");
    let client = Client::new(&api.url, token);
    let account = client.account().await.expect("the token works");
    assert!(account.last_login.is_some() && account.email == "owner@example.com");
    // The password opens nothing else.
    let account =
        http.get(format!("{}/account", api.url)).basic_auth("owner@example.com", Some(&api.owner.password));
    assert_eq!(read(account.send().await.expect("answered")).await.0, 401);

    let (_, all) = api.send("GET", "/oauth/authorizations", "").await;
    let listed = all.as_array().expect("a list").iter().find(|one| one["id"] == made["id"]).expect("listed");
    let shown = listed["access_token"]["token"].as_str().expect("text");
    assert!(shown.contains("**********") && !shown.contains(&token[10..20]), "{shown}");
    let (_, key) = api.send("GET", "/oauth/authorizations/~", "").await;
    assert_eq!(key["description"], "API key");
    assert_ne!(key["id"], made["id"]);
    let (status, no_session) = api.send("DELETE", "/oauth/sessions/~", "").await;
    assert_eq!((status, &no_session["resource"]), (404, &json!("session")));
    let path = format!("/oauth/authorizations/{}", made["id"].as_str().expect("an id"));
    assert_eq!(api.send("DELETE", &path, "").await.0, 200);
    assert_eq!(error_of(client.account().await).0, 401);
    assert_eq!(api.send("DELETE", &path, "").await.0, 404);
}

#[tokio::test]
async fn every_form_of_token_is_accepted_and_wrong_ones_are_401() {
    let api = Api::start().await;
    let http = reqwest::Client::new();
    let get = || http.get(format!("{}/account", api.url));
    let key = &api.owner.api_key;
    let requests = [
        (get().bearer_auth(key), 200),
        (get().basic_auth("", Some(key)), 200),
        (get().basic_auth("heroku", Some(key)), 200),
        (get().basic_auth("owner@example.com", Some(key)), 200),
        (get().basic_auth(key, Some("")), 200),
        (get(), 401),
        (get().bearer_auth("HRKU-wrong"), 401),
        (get().bearer_auth(""), 401),
        (get().basic_auth("", Some("wrong")), 401),
        (get().header("Authorization", "rubbish"), 401),
    ];
    for (number, (request, expected)) in requests.into_iter().enumerate() {
        let (status, body) = read(request.send().await.expect("answered")).await;
        assert_eq!(status, expected, "request {number}: {body}");
        if expected == 401 {
            assert_eq!(body["id"], "unauthorized");
        }
    }
}

#[tokio::test]
async fn an_expired_token_is_worth_nothing() {
    let api = Api::start().await;
    let (_, made) = api.send("POST", "/oauth/authorizations", r#"{"expires_in": 1}"#).await;
    let token = made["access_token"]["token"].as_str().expect("a token");
    let hash = token_hash(&token.into());
    let find = |now| accounts::by_token_hash(&api.node.store, &hash, now);
    assert!(find(now_ms()).await.expect("read").is_some());
    assert!(find(now_ms() + 1000).await.expect("read").is_none());
}

#[tokio::test]
async fn every_path_of_an_app_is_shut_to_strangers_and_open_to_its_owner() {
    let api = Api::start().await;
    let alice = api.member("alice@example.com").await;
    let eve = api.member("eve@example.com").await;
    alice.create_app(Some("hers")).await.expect("created");
    let paths = [
        ("GET", "/apps/hers"),
        ("GET", "/apps/hers/config-vars"),
        ("GET", "/apps/hers/releases"),
        ("GET", "/apps/hers/releases/1"),
        ("GET", "/apps/hers/releases/1/config-vars"),
        ("GET", "/apps/hers/collaborators"),
        ("GET", "/apps/hers/domains"),
        ("GET", "/apps/hers/addons"),
        ("GET", "/apps/hers/addon-attachments"),
        ("GET", "/apps/hers/features"),
        ("GET", "/apps/hers/log-drains"),
        ("GET", "/apps/hers/sni-endpoints"),
        ("GET", "/apps/hers/features/http-session-affinity"),
        ("DELETE", "/apps/hers/acm"),
        ("GET", "/apps/hers/webhooks"),
        ("PATCH", "/apps/hers/config-vars"),
        ("PATCH", "/apps/hers"),
        ("DELETE", "/apps/hers"),
    ];
    for (method, path) in paths {
        let send = |client: &Client| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            client.request(method, path).body("{}").send()
        };
        let (status, body) = read(send(&eve).await.expect("answered")).await;
        assert_eq!((status, &body["id"]), (403, &json!("forbidden")), "{method} {path}: {body}");
        assert_eq!(body["message"], "You do not have access to the app hers.");
        let nobody = reqwest::Client::new()
            .request(Method::from_bytes(method.as_bytes()).expect("a method"), format!("{}{path}", api.url));
        assert_eq!(read(nobody.send().await.expect("answered")).await.0, 401, "{method} {path}");
        let (status, body) = read(send(&alice).await.expect("answered")).await;
        assert_eq!(status, 200, "{method} {path}: {body}");
    }
    assert!(eve.apps().await.expect("listed").is_empty());
    let other = error_of(eve.get::<Value>("/users/alice@example.com/apps").await);
    assert_eq!(other.0, 403);
    assert_eq!(eve.get::<Vec<Value>>("/users/~/apps").await.expect("listed").len(), 0);
}

#[tokio::test]
async fn bad_requests_are_answered_in_herokus_shape() {
    let api = Api::start().await;
    api.client.create_app(Some("example")).await.expect("created");
    let large = format!(r#"{{"A": "{}"}}"#, "x".repeat(64 * 1024));
    let huge = "x".repeat(super::body::MAX_BODY_BYTES + 1);
    let cases: Vec<(&str, &str, &str, u16, &str)> = vec![
        ("POST", "/apps", "{", 400, "not valid JSON"),
        ("POST", "/apps", "[]", 422, "not a JSON object"),
        ("POST", "/apps", r#"{"name": 1}"#, 422, "Invalid value for name: invalid type: integer `1`"),
        ("POST", "/apps", r#"{"name": "Bad"}"#, 422, "Name must start with a letter"),
        ("POST", "/apps", r#"{"name": "ab"}"#, 422, "between 3 and 30"),
        ("POST", "/apps", r#"{"name": "../x"}"#, 422, "Name must start with a letter"),
        ("POST", "/apps", r#"{"stack": "heroku-18"}"#, 422, "Stack heroku-18 is not available"),
        ("POST", "/apps", r#"{"region": "mars"}"#, 422, "Region mars is not available"),
        ("POST", "/apps", r#"{"space": "mine"}"#, 422, "no private spaces"),
        ("POST", "/apps", &huge, 413, "larger than"),
        ("PATCH", "/apps/example", r#"{"maintenance": "yes"}"#, 422, "Invalid value for maintenance"),
        ("PATCH", "/apps/example", r#"{"name": "x"}"#, 422, "between 3 and 30"),
        ("PATCH", "/apps/example", r#"{"build_stack": "cnb"}"#, 422, "Stack cnb is not available"),
        (
            "PATCH",
            "/apps/example/config-vars",
            r#"{"A": 1}"#,
            422,
            "Invalid value for A: invalid type: integer `1`",
        ),
        ("PATCH", "/apps/example/config-vars", r#"{"A": {}}"#, 422, "Invalid value for A"),
        ("PATCH", "/apps/example/config-vars", r#"{"1A": "x"}"#, 422, "name \"1A\" is not allowed"),
        ("PATCH", "/apps/example/config-vars", r#"{"": "x"}"#, 422, "name \"\" is not allowed"),
        ("PATCH", "/apps/example/config-vars", r#"{"A": "a\u0000b"}"#, 422, "NUL"),
        ("PATCH", "/apps/example/config-vars", &large, 422, "64 KB"),
        ("PATCH", "/apps/example/config-vars", "nonsense", 400, "not valid JSON"),
        ("POST", "/apps/example/releases", "{}", 422, "Name either the release to go back to"),
        ("POST", "/apps/example/releases", r#"{"release": []}"#, 422, "Invalid value for release"),
        ("GET", "/apps/example/releases/x", "", 404, "Couldn't find that release."),
        ("GET", "/apps/example/pipeline-couplings", "", 404, "Couldn't find that"),
        ("GET", "/apps/example/features/preboot", "", 404, "Couldn't find that"),
        ("GET", "/account/features/preboot", "", 404, "Couldn't find that"),
        ("GET", "/apps/missing", "", 404, "Couldn't find that app."),
        ("GET", "/apps/%FF", "", 400, "UTF-8"),
        ("GET", "/nonsense", "", 404, "The requested API endpoint was not found."),
        ("PUT", "/apps", "", 405, "does not support that HTTP method"),
        ("DELETE", "/account", "", 422, "password"),
        ("POST", "/oauth/authorizations", r#"{"expires_in": -1}"#, 422, "expires_in"),
        ("POST", "/oauth/authorizations", r#"{"expires_in": 9223372036854775807}"#, 422, "expires_in"),
        ("POST", "/oauth/authorizations", r#"{"scope": ["all"]}"#, 422, "\"all\" is no scope"),
        ("GET", "/oauth/authorizations/x", "", 404, "Couldn't find that authorization."),
    ];
    for (method, path, body, expected, message) in cases {
        let (status, answer) = api.send(method, path, body).await;
        let told = answer["message"].as_str().unwrap_or_default();
        assert_eq!(status, expected, "{method} {path}: {told}");
        assert!(told.contains(message), "{method} {path}: {told}");
        assert!(answer["id"].is_string(), "{method} {path}: {answer}");
    }
    assert_eq!(api.client.releases("example").await.expect("listed").len(), 2, "nothing was changed");
    let request =
        api.client.request(Method::GET, "/apps").header("Accept", "application/vnd.heroku+json; version=2");
    assert_eq!(read(without_default_accept(request, &api).await).await.0, 406);
}

/// The client adds its own `Accept`, which would hide a wrong one.
async fn without_default_accept(request: reqwest::RequestBuilder, api: &Api) -> Response {
    let mut request = request.build().expect("a request");
    let wrong = request.headers().get_all("Accept").iter().last().expect("set").clone();
    request.headers_mut().insert("Accept", wrong);
    let _ = api;
    reqwest::Client::new().execute(request).await.expect("answered")
}

#[tokio::test]
async fn answers_carry_request_ids_and_the_rate_limit() {
    let api = Api::start().await;
    let theirs = "01234567-89ab-cdef-0123-456789abcdef";
    let request = api.client.request(Method::GET, "/account").header("Request-Id", theirs);
    let answer = request.send().await.expect("answered");
    let ids = answer.headers()["Request-Id"].to_str().expect("text");
    assert!(ids.ends_with(&format!(",{theirs}")) && ids.len() == 73, "{ids}");
    let remaining: i64 =
        answer.headers()["RateLimit-Remaining"].to_str().expect("text").parse().expect("a number");
    let (_, told) = api.send("GET", "/account/rate-limits", "").await;
    assert!((remaining - 5..=remaining).contains(&told["remaining"].as_i64().expect("a number")));
    let nobody = reqwest::get(format!("{}/account", api.url)).await.expect("answered");
    assert!(
        nobody.headers().get("RateLimit-Remaining").is_none() && nobody.headers().get("Request-Id").is_some()
    );
}

#[tokio::test]
async fn what_the_cli_asks_for_on_its_way_is_there() {
    let api = Api::start().await;
    api.client.create_app(Some("example")).await.expect("created");
    for path in [
        "/account/features",
        "/account/keys",
        "/addon-attachments",
        "/addons",
        "/spaces",
        "/teams",
        "/pipelines",
        "/oauth/clients",
        "/oauth/sessions",
        "/apps/example/addons",
        "/apps/example/addon-attachments",
        "/apps/example/log-drains",
        "/apps/example/sni-endpoints",
    ] {
        assert_eq!(api.send("GET", path, "").await, (200, json!([])), "{path}");
    }
    let (_, account) = api.send("GET", "/account", "").await;
    let quota = format!("/accounts/{}/actions/get-quota", account["id"].as_str().expect("an id"));
    assert_eq!(api.send("GET", &quota, "").await.0, 404);
    let (_, collaborators) = api.send("GET", "/apps/example/collaborators", "").await;
    assert_eq!(collaborators[0]["user"]["email"], "owner@example.com");
    assert_eq!(collaborators[0]["role"], "owner");
    let (_, domains) = api.send("GET", "/apps/example/domains", "").await;
    assert_eq!(
        (&domains[0]["hostname"], &domains[0]["kind"]),
        (&json!("example.localhost"), &json!("heroku"))
    );
    let (_, stacks) = api.send("GET", "/stacks", "").await;
    assert_eq!((&stacks[0]["name"], &stacks[0]["default"]), (&json!("heroku-24"), &json!(true)));
    assert_eq!(api.send("GET", "/regions/us", "").await.1["name"], "us");
    assert_eq!(api.send("GET", "/regions/eu", "").await.0, 404);
    let (_, named) = api.send("PATCH", "/account", r#"{"name": "Ada"}"#).await;
    assert_eq!(named["name"], "Ada");
}
