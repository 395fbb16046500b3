//! What every answer has in common: lists in parts, tags, HEAD, gzip, methods, and requests that are sent twice.

use super::{Api, patch};
use ferroku_core::build::{Build, BuildStatus};
use ferroku_core::dyno::DynoKind;
use ferroku_core::{BuildId, DynoId};
use ferroku_store::dynos::NewDynoRow;
use ferroku_store::{StoreError, apps, builds, dynos, releases, write};
use flate2::read::GzDecoder;
use http::HeaderMap;
use reqwest::Method;
use serde_json::{Value, json};
use std::io::Read;
use uuid::Uuid;

/// Every list, and how many items it has at least once [`lists`] has filled them.
const LISTS: [(&str, usize); 34] = [
    ("/account/features", 0),
    ("/account/keys", 2),
    ("/addon-attachments", 0),
    ("/addons", 0),
    ("/apps", 3),
    ("/apps/shop/addon-attachments", 0),
    ("/apps/shop/addons", 0),
    ("/apps/shop/available-dyno-sizes", 3),
    ("/apps/shop/buildpack-installations", 2),
    ("/apps/shop/builds", 3),
    ("/apps/shop/collaborators", 2),
    ("/apps/shop/domains", 3),
    ("/apps/shop/dynos", 11),
    ("/apps/shop/features", 2),
    ("/apps/shop/formation", 2),
    ("/apps/shop/log-drains", 0),
    ("/apps/shop/releases", 5),
    ("/apps/shop/sni-endpoints", 0),
    ("/apps/shop/telemetry-drains", 0),
    ("/apps/shop/webhooks", 0),
    ("/dyno-sizes", 3),
    ("/pipeline-couplings", 0),
    ("/admin/accounts", 2),
    ("/oauth/authorizations", 2),
    ("/oauth/clients", 0),
    ("/oauth/sessions", 0),
    ("/pipelines", 0),
    ("/regions", 1),
    ("/spaces", 0),
    ("/stacks", 1),
    ("/teams", 0),
    ("/teams/apps/shop/collaborators", 2),
    ("/teams/permissions", 2),
    ("/users/~/apps", 3),
];

struct Seen {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn items(&self) -> Vec<Value> {
        self.json().as_array().expect("a list").clone()
    }
}

impl Api {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Seen {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = headers
            .iter()
            .fold(self.client.request(method, path), |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.expect("answered");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Seen { status, headers, body: answer.bytes().await.expect("the body").to_vec() }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Seen {
        self.ask("GET", path, headers).await
    }

    /// All items, one by one.
    async fn walk(&self, path: &str, field: &str, order: &str) -> Vec<Value> {
        let mut range = format!("{field} ..; max=1, order={order}");
        let mut items = Vec::new();
        loop {
            let part = self.get(path, &[("Range", &range)]).await;
            let next = part.header("Next-Range").map(str::to_owned);
            assert_eq!(part.status, if next.is_some() { 206 } else { 200 }, "{path}: {range}");
            // Items that the field does not tell apart come together.
            assert!(part.items().iter().all(|item| item[field] == part.items()[0][field]), "{path}: {range}");
            if !part.items().is_empty() {
                let content_range = part.header("Content-Range").expect("says which part");
                assert!(content_range.starts_with(&format!("{field} ")), "{path}: {content_range}");
            }
            items.extend(part.items());
            assert!(items.len() < 100, "{path}: {range} never ends");
            match next {
                Some(next) => range = next,
                None => return items,
            }
        }
    }
}

/// An API with something in most lists.
pub(super) async fn lists() -> Api {
    let api = Api::start().await;
    api.app_with_types().await;
    for name in ["another", "zebra"] {
        api.client.create_app(Some(name)).await.expect("created");
    }
    for value in ["1", "2", "3"] {
        api.client.patch_config_vars("shop", &patch(&[("A", Some(value))])).await.expect("set");
    }
    for (method, path, body) in [
        ("POST", "/apps/shop/domains", json!({"hostname": "www.example.com"})),
        ("POST", "/apps/shop/domains", json!({"hostname": "example.org"})),
        (
            "PUT",
            "/apps/shop/buildpack-installations",
            json!({"updates": [{"buildpack": "https://example.com/a.git"}, {"buildpack": "heroku/python"}]}),
        ),
    ] {
        let (status, told) = api.send(method, path, &body.to_string()).await;
        assert!(status < 300, "{method} {path}: {told}");
    }
    api.member("bob@example.com").await;
    for (path, body) in [
        ("/apps/shop/collaborators", json!({"user": "bob@example.com"})),
        ("/oauth/authorizations", json!({"description": "another"})),
        ("/account/keys", json!({"public_key": format!("ssh-ed25519 {KEY}B a")})),
        ("/account/keys", json!({"public_key": format!("ssh-ed25519 {KEY}C b")})),
    ] {
        let (status, told) = api.send("POST", path, &body.to_string()).await;
        assert_eq!(status, 201, "{path}: {told}");
    }
    builds_and_dynos(&api, "shop").await;
    api
}

/// An SSH key, but for its last letter.
const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Three builds, two of which begin within one second, and eleven dynos.
pub(super) async fn builds_and_dynos(api: &Api, name: &str) {
    let store = &api.node.store;
    let app = apps::find(store, name).await.expect("read").expect("made");
    let release = releases::current(store, app.id).await.expect("read").expect("made");
    let made: Result<(), StoreError> = async {
        write!(store, tx => {
            for created_at in [1_000, 1_001, 2_000] {
                let build = Build {
                    id: BuildId(Uuid::new_v4()),
                    app_id: app.id,
                    account_id: release.account_id,
                    status: BuildStatus::Failed,
                    stack: "heroku-24".into(),
                    buildpacks: Vec::new(),
                    source: None,
                    source_version: None,
                    slug_id: None,
                    release_id: None,
                    created_at,
                    updated_at: created_at,
                };
                builds::create(&mut tx, &build).await?;
            }
            for ordinal in 1..=11 {
                let dyno = NewDynoRow {
                    id: DynoId(Uuid::new_v4()),
                    app_id: app.id,
                    kind: DynoKind::Formation,
                    process_type: "web",
                    ordinal,
                    release_id: release.id,
                    release_version: release.version,
                    restart_generation: 0,
                    size: "basic",
                    command: "serve",
                    port: 5000,
                    attached: false,
                    options: None,
                    expires_at: None,
                };
                dynos::create(&mut tx, store.key(), &dyno, 1).await?;
            }
            Ok(())
        })
    }
    .await;
    made.expect("builds and dynos");
}

#[tokio::test]
async fn whatever_answers_a_list_answers_it_in_parts() {
    // A person's trail of events goes back by `before`.
    const OTHERWISE: [&str; 2] = ["/ferroku/events", "/ferroku/apps/{app}/events"];
    let api = lists().await;
    for (method, path) in crate::api::routes().table() {
        let given = path.replace("{app}", "shop").replace("{account}", "~").replace("{user}", "~");
        if *method != Method::GET || given.contains('{') || OTHERWISE.contains(path) {
            continue;
        }
        let seen = api.get(&given, &[]).await;
        if seen.header("Content-Type") != Some("application/json") || !seen.body.starts_with(b"[") {
            continue;
        }
        assert!(seen.header("Accept-Ranges").is_some(), "{path} knows no Range");
        assert!(
            LISTS.iter().any(|(listed, _)| *listed == given) || seen.items().len() < 2,
            "{path} is missing in LISTS"
        );
    }
}

#[tokio::test]
async fn a_part_of_the_dynos_is_named_by_their_names() {
    let api = lists().await;
    let part = api.get("/apps/shop/dynos", &[("Range", "name web.2..web.10; max=5")]).await;
    assert_eq!(part.header("Content-Range"), Some("name web.2..web.6"));
    assert_eq!(part.header("Next-Range"), Some("name ]web.6..web.10; max=5"));
}

#[tokio::test]
async fn a_change_on_a_condition_that_cannot_be_met_is_not_made() {
    let api = lists().await;
    let tag = api.get("/apps/shop", &[]).await.header("ETag").expect("tagged").to_owned();
    for (condition, status) in [(tag.as_str(), 412), ("\"x\"", 412), ("*", 200)] {
        let request = api.client.request(Method::PATCH, "/apps/shop").header("If-Match", condition);
        let answer = request.body(r#"{"maintenance": true}"#).send().await.expect("answered");
        assert_eq!(answer.status(), status, "{condition}");
        let (_, app) = api.send("GET", "/apps/shop", "").await;
        assert_eq!(app["maintenance"], json!(status == 200), "{condition}");
    }
    assert_eq!(api.get("/apps/shop", &[("If-Match", "\"x\"")]).await.status, 200);
}

#[tokio::test]
async fn a_config_var_of_a_name_that_resources_have_stands_in_no_header() {
    let api = lists().await;
    let value = "2030-01-01T00:00:00Z";
    api.client.patch_config_vars("shop", &patch(&[("updated_at", Some(value))])).await.expect("set");
    for path in ["/apps/shop/config-vars", "/apps/shop/releases/6/config-vars"] {
        let seen = api.get(path, &[]).await;
        assert_eq!(
            (seen.json()["updated_at"].as_str(), seen.header("Last-Modified")),
            (Some(value), None),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_told_so_to_a_client_that_is_still_sending() {
    let api = Api::start().await;
    let large = "x".repeat(16 * 1024 * 1024);
    // With its length, and without.
    let stream = futures::stream::iter([Ok::<_, std::io::Error>(large.clone())]);
    for body in [reqwest::Body::from(large), reqwest::Body::wrap_stream(stream)] {
        let answer = api.client.request(Method::POST, "/apps").body(body).send().await.expect("answered");
        assert_eq!(answer.status(), 413);
        let told: Value = answer.json().await.expect("JSON");
        assert_eq!(told["id"], "payload_too_large");
    }
}

#[tokio::test]
async fn every_list_comes_in_parts_in_both_orders() {
    let api = lists().await;
    for (path, least) in LISTS {
        let all = api.get(path, &[]).await;
        let mut items = all.items();
        assert!(all.status == 200 && items.len() >= least, "{path}: {} items", items.len());
        let fields = all.header("Accept-Ranges").unwrap_or_else(|| panic!("{path} has no Accept-Ranges"));
        for field in fields.split(", ") {
            let rising = api.walk(path, field, "asc").await;
            let mut falling = api.walk(path, field, "desc").await;
            let key = |item: &Value| match &item[field] {
                Value::Number(number) => format!("{:020}", number.as_i64().expect("a whole number")),
                // A dyno's.
                Value::String(name) if name.starts_with("web.") => format!("web.{:0>9}", &name[4..]),
                value => value.as_str().unwrap_or_default().to_owned(),
            };
            assert!(rising.is_sorted_by_key(key), "{path} by {field}");
            falling.reverse();
            let ids = |items: &[Value]| items.iter().map(|item| item["id"].clone()).collect::<Vec<_>>();
            assert_eq!(ids(&rising), ids(&falling), "{path} by {field}");
            let by_text = |one: &Value, other: &Value| one.to_string().cmp(&other.to_string());
            let mut rising = rising;
            for item in rising.iter_mut().chain(&mut items) {
                // Another address each time.
                item.as_object_mut().expect("an object").remove("output_stream_url");
            }
            rising.sort_by(by_text);
            items.sort_by(by_text);
            assert_eq!(rising, items, "{path} by {field}");
        }
        for refused in ["nonsense a..b", "id ..; max=0", "id ..; order=sideways"] {
            let refused = api.get(path, &[("Range", refused)]).await;
            assert_eq!(
                (refused.status, &refused.json()["id"]),
                (416, &json!("requested_range_not_satisfiable"))
            );
            assert_eq!(refused.header("Accept-Ranges"), Some(fields), "{path}");
        }
    }
}

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again_and_heads_are_those_of_the_whole_answer() {
    let api = lists().await;
    let single =
        ["/account", "/apps/shop", "/apps/shop/config-vars", "/apps/shop/releases/3", "/stacks/heroku-24"];
    // A build's output has another address each time.
    let lists = LISTS.iter().map(|(path, _)| *path).filter(|path| !path.ends_with("/builds"));
    for path in lists.chain(single) {
        let seen = api.get(path, &[]).await;
        let tag = seen.header("ETag").unwrap_or_else(|| panic!("{path} has no tag")).to_owned();
        let strong = tag.trim_start_matches("W/").to_owned();
        for known in [&tag, &strong, &format!("\"other\", {tag}"), "*"] {
            let again = api.get(path, &[("If-None-Match", known)]).await;
            assert_eq!((again.status, again.body.len()), (304, 0), "{path}: {known}");
            assert_eq!(again.header("ETag"), Some(&*tag), "{path}");
            assert!(again.header("Request-Id").is_some() && again.header("RateLimit-Remaining").is_some());
        }
        assert_eq!(api.get(path, &[("If-None-Match", "\"other\"")]).await.status, 200, "{path}");
        let head = api.ask("HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        for name in ["ETag", "Content-Type", "Accept-Ranges", "Last-Modified", "Cache-Control"] {
            assert_eq!(head.header(name), seen.header(name), "{path}: {name}");
        }
        assert_eq!(head.header("Content-Length"), Some(&*seen.body.len().to_string()), "{path}");
        let packed = api.get(path, &[("Accept-Encoding", "gzip")]).await;
        assert_eq!(packed.header("ETag"), Some(&*tag), "{path}");
        let mut body = packed.body.clone();
        if seen.body.len() >= 1024 {
            assert_eq!(packed.header("Content-Encoding"), Some("gzip"), "{path}");
            body.clear();
            GzDecoder::new(&packed.body[..]).read_to_end(&mut body).expect("gzip");
        }
        assert_eq!(body, seen.body, "{path}");
    }
    let before = api.get("/apps/shop", &[]).await;
    assert!(before.header("Last-Modified").expect("a resource says when").ends_with(" GMT"));
    assert_eq!(api.send("PATCH", "/apps/shop", r#"{"maintenance": true}"#).await.0, 200);
    let known = before.header("ETag").expect("tagged");
    assert_eq!(api.get("/apps/shop", &[("If-None-Match", known)]).await.status, 200, "it was changed");
}

#[tokio::test]
async fn a_full_page_is_200_items_and_a_longer_one_1000() {
    let api = Api::start().await;
    api.client.create_app(Some("shop")).await.expect("created");
    for number in 0..210 {
        let path = "/apps/shop/domains";
        let (status, _) =
            api.send("POST", path, &format!(r#"{{"hostname": "n{number}.example.com"}}"#)).await;
        assert_eq!(status, 201);
    }
    let page = api.get("/apps/shop/domains", &[]).await;
    assert_eq!((page.status, page.items().len()), (206, 200));
    let next = page.header("Next-Range").expect("there is more");
    let rest = api.get("/apps/shop/domains", &[("Range", next)]).await;
    assert_eq!((rest.status, rest.items().len()), (200, 11));
    let all = api.get("/apps/shop/domains", &[("Range", "hostname ..; max=5000")]).await;
    assert_eq!((all.status, all.items().len()), (200, 211));
}

#[tokio::test]
async fn methods_and_types_that_are_not_served_are_refused_in_herokus_shape() {
    let api = lists().await;
    let origin = ("Origin", "https://evil.example");
    for (method, path, headers, status, id) in [
        (
            "OPTIONS",
            "/apps",
            &[origin, ("Access-Control-Request-Method", "POST")][..],
            405,
            "method_not_allowed",
        ),
        ("PUT", "/apps/shop", &[], 405, "method_not_allowed"),
        ("POST", "/apps/shop/config-vars", &[], 405, "method_not_allowed"),
        ("BREW", "/apps", &[], 405, "method_not_allowed"),
        ("GET", "/nothing", &[], 404, "not_found"),
        ("GET", "/apps", &[("Accept", "application/vnd.heroku+json; version=4")], 406, "not_acceptable"),
    ] {
        let seen = api.ask(method, path, headers).await;
        assert_eq!((seen.status, &seen.json()["id"]), (status, &json!(id)), "{method} {path}");
        assert!(seen.json()["message"].is_string(), "{method} {path}");
        assert!(seen.header("Request-Id").is_some(), "{method} {path}");
        assert_eq!(seen.header("Allow").is_some(), status == 405, "{method} {path}");
    }
    let seen = api.get("/apps", &[origin]).await;
    let cors = seen.headers.keys().find(|name| name.as_str().starts_with("access-control"));
    assert_eq!((seen.status, cors), (200, None), "no page of another origin may read this");
    let form =
        api.client.request(Method::POST, "/apps").header("Content-Type", "application/x-www-form-urlencoded");
    let answer = form.body("name=other").send().await.expect("answered");
    assert_eq!(answer.status().as_u16(), 415);
    assert_eq!(api.client.apps().await.expect("listed").len(), 3);
}

/// What the CLI sends for commands whose nouns this node has not.
#[tokio::test]
async fn what_heroku_has_and_this_node_has_not_is_named() {
    let api = lists().await;
    let id = "01234567-89ab-cdef-0123-456789abcdef";
    for (method, path, what) in [
        ("POST", "/apps/shop/webhooks", "webhooks"),
        ("DELETE", &*format!("/apps/shop/webhooks/{id}"), "webhooks"),
        ("GET", "/apps/shop/webhook-deliveries", "webhooks"),
        ("POST", "/apps/shop/log-drains", "log drains"),
        ("DELETE", "/apps/shop/log-drains/syslog%2Btls%3A%2F%2Fexample.com%3A6514", "log drains"),
        ("POST", "/telemetry-drains", "telemetry drains"),
        ("POST", "/apps/shop/addons", "add-ons"),
        ("POST", "/actions/addons/resolve", "add-ons"),
        ("POST", "/actions/addon-attachments/resolve", "add-ons"),
        ("GET", "/addon-services", "add-ons"),
        ("GET", "/addon-services/heroku-postgresql/plans", "add-ons"),
        ("GET", &*format!("/client/v11/databases/{id}"), "databases"),
        ("GET", &*format!("/redis/v0/databases/{id}"), "databases"),
        ("GET", &*format!("/pipelines/{id}/review-app-config"), "review apps"),
        ("POST", "/pipeline-transfers", "transfers of pipelines"),
        ("GET", "/spaces/example", "private spaces"),
        ("POST", "/spaces", "private spaces"),
    ] {
        let (status, told) = api.send(method, path, "{}").await;
        assert_eq!((status, &told["id"]), (404, &json!("not_found")), "{method} {path}");
        let message = told["message"].as_str().expect("text");
        assert!(
            message.starts_with("This node has no ") && message.contains(what),
            "{method} {path}: {message}"
        );
    }
    let (_, told) = api.send("GET", "/appsx", "").await;
    assert!(told["message"].as_str().expect("text").starts_with("The requested API endpoint was not found"));
}

/// The CLI sends a request again, up to five times, when the connection breaks before its answer has come: what was done
/// already must not be done twice.
#[tokio::test]
async fn a_request_that_is_sent_again_changes_nothing_more() {
    let api = lists().await;
    let version = async || api.client.releases("shop").await.expect("listed").len();
    for (method, path, body, first, again) in [
        ("POST", "/apps", r#"{"name": "twice"}"#, 201, 422),
        ("PATCH", "/apps/shop", r#"{"maintenance": true}"#, 200, 200),
        ("PATCH", "/apps/shop/config-vars", r#"{"TWICE": "1"}"#, 200, 200),
        ("PATCH", "/apps/shop/formation", r#"{"updates": [{"type": "web", "quantity": 1}]}"#, 200, 200),
        ("PATCH", "/apps/shop/features/http-session-affinity", r#"{"enabled": true}"#, 200, 200),
        ("POST", "/apps/shop/domains", r#"{"hostname": "twice.example.com"}"#, 201, 422),
        ("DELETE", "/apps/shop/domains/twice.example.com", "", 200, 404),
        ("PATCH", "/apps/zebra", r#"{"name": "lion"}"#, 200, 404),
        ("DELETE", "/apps/another", "", 200, 404),
    ] {
        assert_eq!(api.send(method, path, body).await.0, first, "{method} {path}");
        let before = (version().await, api.client.apps().await.expect("listed"));
        assert_eq!(api.send(method, path, body).await.0, again, "{method} {path} again");
        let mut after = (version().await, api.client.apps().await.expect("listed"));
        for (app, was) in after.1.iter_mut().zip(&before.1) {
            app.updated_at = was.updated_at;
        }
        assert_eq!(after, before, "{method} {path} again");
    }
}
