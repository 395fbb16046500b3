//! What a stranger is refused, and that trust lifts it; eco hours.

use super::Api;
use crate::node::{Node, now_ms};
use ferroku_api::Client;
use ferroku_core::dyno::{DynoKind, DynoState};
use ferroku_core::slug::ProcessTypes;
use ferroku_core::{AppId, DynoId};
use ferroku_store::dynos::{self, NewDynoRow};
use ferroku_store::{StoreError, apps, formations, releases, write};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

async fn send(client: &Client, method: Method, path: &str, body: Value) -> (u16, Value) {
    let answer = client.request(method, path).body(body.to_string()).send().await.expect("answered");
    super::read(answer).await
}

/// Refused in Heroku's shape, with what is too much and whom to ask.
fn assert_refused(answer: &(u16, Value), what: &str) {
    let (status, body) = answer;
    assert_eq!((*status, &body["id"]), (422, &json!("invalid_params")), "{body}");
    let message = body["message"].as_str().expect("text");
    assert!(message.contains(what) && message.contains("ask the node's admin"), "{message}");
}

#[tokio::test]
async fn a_stranger_has_five_apps_and_few_dynos_until_an_admin_trusts_it() {
    let api = Api::start().await;
    let member = api.member("member@example.com").await;
    for number in 1..=5 {
        member.create_app(Some(&format!("app-{number}"))).await.expect("within the limit");
    }
    let sixth = || send(&member, Method::POST, "/apps", json!({"name": "app-6"}));
    assert_refused(&sixth().await, "6 of apps");
    assert!(apps::find(&api.node.store, "app-6").await.expect("read").is_none(), "nothing was made");
    api.client.create_app(Some("app-7")).await.expect("others have their own limit");

    let app = apps::find(&api.node.store, "app-1").await.expect("read").expect("made");
    let types: ProcessTypes = [("web".to_owned(), "serve".to_owned())].into_iter().collect();
    let made: Result<(), StoreError> = async {
        write!(&api.node.store, tx => { formations::apply_process_types(&mut tx, app.id, &types, true, 5).await })
    }
    .await;
    made.expect("a formation");
    let scale = |client, quantity: u64, size: &str| {
        let body = json!({"quantity": quantity, "size": size});
        async move { send(client, Method::PATCH, "/apps/app-1/formation/web", body).await }
    };
    assert_refused(&scale(&member, 11, "basic").await, "11 of dynos");
    assert_refused(&scale(&member, 6, "standard-2x").await, "6144 MB of memory");
    assert_refused(&scale(&member, 1, "performance-m").await, "Performance-M");
    assert_refused(&scale(&api.client, 11, "basic").await, "11 of dynos");
    assert_eq!(scale(&member, 5, "standard-2x").await.0, 200);
    assert_eq!(scale(&member, 2, "standard-2x").await.0, 200, "less is always allowed");

    let account = "/ferroku/accounts/member@example.com";
    let (_, before) = send(&member, Method::GET, "/ferroku/accounts/~", json!({})).await;
    assert_eq!((&before["trust"], &before["limits"]["apps"]), (&json!("stranger"), &json!(5)));
    assert_eq!((&before["usage"]["apps"], &before["usage"]["dynos"]), (&json!(5), &json!(2)));
    assert_eq!(before["usage"]["memory_bytes"], 2_u64 << 30);
    let trust = json!({"trust": "trusted"});
    assert_eq!(send(&member, Method::PATCH, account, trust.clone()).await.0, 403, "nobody trusts themselves");
    let (status, after) = send(&api.client, Method::PATCH, account, trust).await;
    assert_eq!((status, &after["trust"], &after["limits"]["apps"]), (200, &json!("trusted"), &json!(100)));
    assert_eq!(send(&api.client, Method::PATCH, account, json!({"trust": "boundless"})).await.0, 422);
    assert_eq!(sixth().await.0, 201);
    assert_eq!(scale(&member, 11, "basic").await.0, 200);
    let (_, admin) = send(&api.client, Method::GET, "/ferroku/accounts/~", json!({})).await;
    assert_eq!(admin["limits"], Value::Null, "the node's owner has the node's limits only");
}

#[tokio::test]
async fn config_vars_of_all_releases_count_and_a_full_account_sets_no_more() {
    let api = Api::start().await;
    let member = api.member("member@example.com").await;
    let app = member.create_app(Some("example")).await.expect("created");
    let vars = "/apps/example/config-vars";
    let used = async || {
        let (_, shown) = send(&member, Method::GET, "/ferroku/accounts/~", json!({})).await;
        shown["usage"]["disk_bytes"].as_u64().expect("a number")
    };
    let before = used().await;
    for value in ["1", "2"] {
        let large = value.repeat(30_000);
        assert_eq!(send(&member, Method::PATCH, vars, json!({"LARGE": large})).await.0, 200);
    }
    assert!(used().await - before > 60_000, "old releases keep theirs");
    let id = apps::by_id(&api.node.store, ferroku_core::AppId(app.id)).await.expect("read").expect("made").id;
    apps::set_repo_size(&api.node.store, id, 6 << 30).await.expect("noted");
    assert_refused(&send(&member, Method::PATCH, vars, json!({"LARGE": "3"})).await, "disk space");
    assert_eq!(
        send(&member, Method::PATCH, vars, json!({"LARGE": null})).await.0,
        200,
        "giving up is allowed"
    );
    assert_eq!(send(&member, Method::PATCH, vars, json!({})).await.0, 200);
}

#[tokio::test]
async fn the_hours_requests_run_out_with_herokus_answer_and_for_this_account_only() {
    let api = Api::start().await;
    let member = api.member("member@example.com").await;
    let (status, account) = send(&member, Method::GET, "/account", json!({})).await;
    assert_eq!(status, 200);
    let id = account["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    // As many as there are, at a time that is not over soon.
    let later = crate::node::now_ms() + 60_000;
    while api.node.rate_limits.spend(id, later).is_some() {}
    let answer = member.request(Method::GET, "/account").send().await.expect("answered");
    assert_eq!(answer.headers()["RateLimit-Remaining"], "0");
    let (status, body) = super::read(answer).await;
    assert_eq!((status, &body["id"]), (429, &json!("rate_limit")));
    assert_eq!(body["message"], "Your account reached the API rate limit");
    let (_, left) = send(&member, Method::GET, "/account/rate-limits", json!({})).await;
    assert_eq!(left["remaining"], 0, "asking for it is free, and possible without any left");
    assert_eq!(api.client.apps().await.expect("another account").len(), 0);
}

/// Starts a web dyno of size eco, as of `since`.
async fn wake_eco_dyno(api: &Api, app_id: AppId, since: i64) -> DynoId {
    let store = &api.node.store;
    let release = releases::current(store, app_id).await.expect("read").expect("every app has one");
    let types: ProcessTypes = [("web".to_owned(), "serve".to_owned())].into_iter().collect();
    let id = DynoId(Uuid::new_v4());
    let new = NewDynoRow {
        id,
        app_id,
        kind: DynoKind::Formation,
        process_type: "web",
        ordinal: 1,
        release_id: release.id,
        release_version: release.version,
        restart_generation: 0,
        size: "eco",
        command: "serve",
        port: 5_000,
        attached: false,
        options: None,
        expires_at: None,
    };
    let made: Result<(), StoreError> = async {
        write!(store, tx => {
            formations::apply_process_types(&mut tx, app_id, &types, true, since).await?;
            dynos::create(&mut tx, store.key(), &new, since).await?;
            dynos::set_state(&mut tx, id, DynoState::Up, None, since).await
        })
    }
    .await;
    made.expect("a dyno");
    id
}

#[tokio::test]
async fn eco_hours_are_told_as_the_cli_reads_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Node::for_tests(folder.path()).await;
    Arc::get_mut(&mut node).expect("nobody else has it yet").config.dynos.eco_hours = Some(2);
    let api = Api::serve(folder, node).await;
    api.client.create_app(Some("example")).await.expect("created");
    let app = apps::find(&api.node.store, "example").await.expect("read").expect("made");
    let (_, account) = api.send("GET", "/account", "").await;
    let quota = format!("/accounts/{}/actions/get-quota", account["id"].as_str().expect("an id"));
    let unused = json!({"account_id": account["id"], "account_quota": 7200, "quota_used": 0, "apps": []});
    assert_eq!(api.send("GET", &quota, "").await, (200, unused));
    let tier = async || api.send("GET", "/apps/example", "").await.1["process_tier"].clone();
    assert_eq!(tier().await, "basic", "the CLI does not ask for a quota");

    let id = wake_eco_dyno(&api, app.id, now_ms() - 600_000).await;
    let scaled = api.send("PATCH", "/apps/example/formation/web", r#"{"size":"eco"}"#).await;
    assert_eq!((scaled.0, &scaled.1["size"]), (200, &json!("Eco")));
    assert_eq!(tier().await, "eco");
    assert_eq!(api.send("GET", "/apps", "").await.1[0]["process_tier"], "eco", "in lists, too");
    // Unless a month began within these minutes, all ten of them count.
    let used = async || {
        let (_, told) = api.send("GET", &quota, "").await;
        assert_eq!(told["apps"][0]["app_uuid"], json!(app.id.0), "{told}");
        assert_eq!(told["apps"][0]["quota_used"], told["quota_used"], "{told}");
        told["quota_used"].as_i64().expect("seconds")
    };
    let month = |from_now| ferroku_core::eco_hours::Month::of(now_ms() + from_now);
    let begun = month(-600_000) != month(7_300_000);
    assert!((if begun { 0 } else { 600 }..=7_200).contains(&used().await));
    let ended: Result<(), StoreError> = async {
        write!(&api.node.store, tx => {
            dynos::end(&mut tx, id, DynoState::Down, None, now_ms() + 7_200_000).await
        })
    }
    .await;
    ended.expect("ended");
    if !begun {
        assert!((3_600..=7_200).contains(&used().await), "a clock that jumped is an hour at most");
    }

    let member = api.member("member@example.com").await;
    assert_eq!(send(&member, Method::GET, &quota, json!({})).await.0, 403, "nobody else may see it");
    let (status, own) = send(&member, Method::GET, "/accounts/~/actions/get-quota", json!({})).await;
    assert_eq!((status, &own["quota_used"]), (200, &json!(0)));
}
