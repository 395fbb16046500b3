//! Every route that changes something leaves an event that says who did it, and from where.

use super::Api;
use super::domains::chain;
use crate::api;
use crate::people::SignUp;
use ferroku_core::event::Actor;
use ferroku_store::events;
use http::Method;
use serde_json::{Value, json};

/// What a route leaves.
enum Leaves {
    Event(&'static str),
    /// Nothing, because it changes nothing: why.
    Nothing(&'static str),
    /// An event, but only another account may: `sharing.rs` and `people.rs` have it.
    AnothersEvent,
    /// An event, for which it takes a whole node, or an authority; tests of those look for it.
    OnANode,
}
use Leaves::{AnothersEvent, Event, Nothing, OnANode};

/// Every changing route, in an order in which all of them succeed; a route without a row fails the test.
const ROUTES: &[(&str, &str, &str, Leaves)] = &[
    ("PATCH", "/account", r#"{"name": "Ada"}"#, Event("account.update")),
    ("PATCH", "/ferroku/accounts/{account}", r#"{"trust": "trusted"}"#, Event("account.trust")),
    ("POST", "/oauth/authorizations", "{}", Event("oauth_authorization.create")),
    (
        "PATCH",
        "/oauth/authorizations/{authorization}",
        r#"{"description": "ci"}"#,
        Event("oauth_authorization.update"),
    ),
    (
        "POST",
        "/oauth/authorizations/{authorization}/actions/regenerate-tokens",
        "",
        Event("oauth_authorization.rotate"),
    ),
    ("DELETE", "/oauth/authorizations/{authorization}", "", Event("oauth_authorization.destroy")),
    ("POST", "/oauth/clients", CLIENT, Event("oauth_client.create")),
    ("PATCH", "/oauth/clients/{client}", r#"{"name": "ours"}"#, Event("oauth_client.update")),
    ("POST", "/oauth/clients/{client}/actions/rotate-credentials", "", Event("oauth_client.rotate")),
    ("DELETE", "/oauth/clients/{client}", "", Event("oauth_client.destroy")),
    ("POST", "/account/keys", SSH_KEY, Event("key.create")),
    ("DELETE", "/account/keys/{key}", "", Event("key.destroy")),
    ("PATCH", "/users/{user}", r#"{"name": "Grace"}"#, Event("account.update")),
    ("DELETE", "/account", "", AnothersEvent),
    ("DELETE", "/users/{user}", "", AnothersEvent),
    ("POST", "/auth", "", Nothing("the browser makes the authorization")),
    ("POST", "/password-resets", "", Nothing("it only sends a letter")),
    ("POST", "/password-resets/{token}/actions/finalize", "", AnothersEvent),
    ("POST", "/admin/garbage", "", Event("garbage.collect")),
    ("POST", "/filters/apps", "", Nothing("it only reads")),
    ("POST", "/pipeline-promotions", "", AnothersEvent),
    ("POST", "/admin/invitations", r#"{"email": "new@example.com"}"#, Event("invitation.create")),
    ("PATCH", "/admin/accounts/{account}", r#"{"suspended": true}"#, Event("account.suspend")),
    ("PATCH", "/admin/accounts/{account}", r#"{"suspended": false}"#, Event("account.resume")),
    ("DELETE", "/oauth/sessions/{session}", "", Nothing("there are none")),
    ("POST", "/apps", r#"{"name": "made"}"#, Event("app.create")),
    ("PATCH", "/apps/{app}", r#"{"maintenance": true}"#, Event("app.update")),
    ("POST", "/pipelines", r#"{"name": "line"}"#, Event("pipeline.create")),
    ("PATCH", "/pipelines/{pipeline}", r#"{"name": "pipe"}"#, Event("pipeline.update")),
    (
        "POST",
        "/pipeline-couplings",
        r#"{"app": "shop", "pipeline": "pipe", "stage": "staging"}"#,
        Event("pipeline_coupling.create"),
    ),
    (
        "PATCH",
        "/pipeline-couplings/{coupling}",
        r#"{"stage": "production"}"#,
        Event("pipeline_coupling.update"),
    ),
    ("DELETE", "/pipeline-couplings/{coupling}", "", Event("pipeline_coupling.destroy")),
    ("DELETE", "/pipelines/{pipeline}", "", Event("pipeline.destroy")),
    ("PATCH", "/apps/{app}/config-vars", r#"{"A": "1"}"#, Event("release.create")),
    ("POST", "/apps/{app}/releases", r#"{"release": "v1"}"#, Event("release.create")),
    (
        "PUT",
        "/apps/{app}/buildpack-installations",
        r#"{"updates": []}"#,
        Event("buildpack_installation.update"),
    ),
    ("DELETE", "/apps/{app}/build-cache", "", Event("build_cache.destroy")),
    ("POST", "/sources", "", Event("source.create")),
    ("POST", "/apps/{app}/sources", "", Event("source.create")),
    ("PUT", "/sources/{source}", "", Nothing("whoever got the link left the event")),
    ("POST", "/apps/{app}/slugs", r#"{"process_types": {}}"#, Event("slug.create")),
    ("PUT", "/slugs/{slug}", "", OnANode),
    ("POST", "/apps/{app}/builds", "", OnANode),
    ("DELETE", "/apps/{app}/builds/{build}", "", OnANode),
    ("PATCH", "/apps/{app}/features/{feature}", r#"{"enabled": true}"#, Event("app_feature.update")),
    (
        "PATCH",
        "/apps/{app}/formation",
        r#"{"updates": [{"type": "web", "quantity": 2}]}"#,
        Event("formation.update"),
    ),
    ("PATCH", "/apps/{app}/formation/{formation}", r#"{"quantity": 3}"#, Event("formation.update")),
    ("DELETE", "/apps/{app}/formations/{type}", "", Event("dyno.restart")),
    ("POST", "/apps/{app}/formations/{type}/actions/stop", "", Event("dyno.stop")),
    ("POST", "/apps/{app}/dynos", "", OnANode),
    ("DELETE", "/apps/{app}/dynos", "", Event("dyno.restart_all")),
    ("POST", "/apps/{app}/dynos/{dyno}", "", OnANode),
    ("DELETE", "/apps/{app}/dynos/{dyno}", "", Event("dyno.restart")),
    ("POST", "/apps/{app}/dynos/{dyno}/actions/stop", "", Event("dyno.stop")),
    ("POST", "/apps/{app}/log-sessions", "{}", Nothing("reading changes nothing")),
    ("POST", "/apps/{app}/acm", "", OnANode),
    ("PATCH", "/apps/{app}/acm", r#"{"acm_refresh": true}"#, Event("acm.update")),
    ("DELETE", "/apps/{app}/acm", "", Event("acm.destroy")),
    ("POST", "/apps/{app}/sni-endpoints", "CERTIFICATE", Event("sni_endpoint.create")),
    ("PATCH", "/apps/{app}/sni-endpoints/{endpoint}", "CERTIFICATE", Event("sni_endpoint.update")),
    (
        "POST",
        "/apps/{app}/domains",
        r#"{"hostname": "www.example.com", "sni_endpoint": null}"#,
        Event("domain.create"),
    ),
    ("PATCH", "/apps/{app}/domains/{domain}", r#"{"sni_endpoint": "ENDPOINT"}"#, Event("domain.update")),
    ("DELETE", "/apps/{app}/domains/{domain}", "", Event("domain.destroy")),
    ("DELETE", "/apps/{app}/sni-endpoints/{endpoint}", "", Event("sni_endpoint.destroy")),
    ("POST", "/apps/{app}/collaborators", MEMBER, Event("collaborator.create")),
    ("DELETE", "/apps/{app}/collaborators/{collaborator}", "", Event("collaborator.destroy")),
    ("POST", "/account/app-transfers", OFFER, Event("app_transfer.create")),
    ("PATCH", "/account/app-transfers/{transfer}", "", AnothersEvent),
    ("DELETE", "/account/app-transfers/{transfer}", "", Event("app_transfer.destroy")),
    ("POST", "/teams", r#"{"name": "acme"}"#, Event("team.create")),
    ("PATCH", "/teams/{team}", r#"{"name": "crew"}"#, Event("team.update")),
    ("PUT", "/teams/{team}/members", VIEWER, Event("team_member.update")),
    ("PATCH", "/teams/{team}/members", VIEWER, Event("team_member.update")),
    ("DELETE", "/teams/{team}/members/{member}", "", Event("team_member.destroy")),
    ("POST", "/teams/{team}/members", VIEWER, Event("team_member.update")),
    ("POST", "/teams/apps", r#"{"name": "made-too"}"#, Event("app.create")),
    ("PATCH", "/teams/apps/{app}", r#"{"owner": "crew"}"#, Event("app.transfer")),
    ("PATCH", "/teams/apps/{app}", r#"{"locked": true}"#, Event("app.lock")),
    ("POST", "/teams/apps/{app}/collaborators", MEMBER, Event("collaborator.create")),
    (
        "PATCH",
        "/teams/apps/{app}/collaborators/{collaborator}",
        r#"{"permissions": ["deploy"]}"#,
        Event("collaborator.update"),
    ),
    ("DELETE", "/teams/apps/{app}/collaborators/{collaborator}", "", Event("collaborator.destroy")),
    ("PUT", "/admin/admins/{account}", "", Event("account.appoint")),
    ("DELETE", "/admin/admins/{account}", "", Event("account.appoint")),
    ("DELETE", "/apps/{app}", "", Event("app.destroy")),
    ("DELETE", "/teams/{team}", "", Event("team.destroy")),
    ("DELETE", "/admin/accounts/{account}", "", Event("account.destroy")),
    ("PUT", "/api/v2/{dyno}", "", OnANode),
    ("POST", "/{repository}/git-receive-pack", "", OnANode),
    ("POST", "/{repository}/git-upload-pack", "", Nothing("fetching changes nothing")),
];

const CLIENT: &str = r#"{"name": "theirs", "redirect_uri": "https://example.com/back"}"#;
const SSH_KEY: &str = r#"{"public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINwGYmehlh2cfy262+DgqQUEz/xFpawCXestHWKb0yDG a@b"}"#;
const MEMBER: &str = r#"{"user": "member@example.com"}"#;
const OFFER: &str = r#"{"app": "shop", "recipient": "member@example.com"}"#;
const VIEWER: &str = r#"{"email": "member@example.com", "role": "viewer"}"#;

/// What a later row needs of an earlier one's answer.
#[derive(Default)]
struct Made {
    authorization: String,
    client: String,
    key: String,
    endpoint: String,
    team: String,
    pipeline: String,
    coupling: String,
}

fn concrete(text: &str, made: &Made) -> String {
    let certificate = chain(&["www.example.com"]);
    let certificate = json!({
        "certificate_chain": format!("{}{}", certificate.leaf, certificate.intermediate),
        "private_key": certificate.key,
    });
    [
        ("{account}", "member@example.com"),
        ("{app}", "shop"),
        ("{authorization}", &made.authorization),
        ("{client}", &made.client),
        ("{key}", &made.key),
        ("{user}", "~"),
        ("{collaborator}", "member@example.com"),
        ("{domain}", "www.example.com"),
        ("{dyno}", "web"),
        ("{endpoint}", &made.endpoint),
        ("{feature}", "http-session-affinity"),
        ("{formation}", "web"),
        ("{member}", "member@example.com"),
        ("{team}", &made.team),
        ("{pipeline}", &made.pipeline),
        ("{coupling}", &made.coupling),
        ("{transfer}", "shop"),
        ("{type}", "web"),
        ("CERTIFICATE", &certificate.to_string()),
        ("ENDPOINT", &made.endpoint),
    ]
    .iter()
    .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

#[tokio::test]
async fn every_changing_route_leaves_an_event_with_who_and_from_where() {
    let (api, _mailbox) = Api::of_people(SignUp::Invitation).await;
    api.member("member@example.com").await;
    let app = api.app_with_types().await;
    // The API would only with a certificate authority, which these nodes have none of.
    let (account_id, email) = (app.owner_id, api.owner.email.clone());
    let owner = Actor { account_id, email, remote_address: None, request_id: None };
    ferroku_store::acm::enable(&api.node.store, app.id, &owner, 5).await.expect("enabled");
    let all = api::routes();
    let changing = all.table().iter().filter(|(method, _)| *method != Method::GET && *method != Method::HEAD);
    let unknown: Vec<String> = changing
        .filter(|(method, path)| !ROUTES.iter().any(|row| row.0 == method.as_str() && row.1 == *path))
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    assert!(unknown.is_empty(), "no row says which event these leave: {unknown:?}");

    let mut made = Made::default();
    for (method, path, body, leaves) in ROUTES {
        let Event(kind) = leaves else { continue };
        let before = events::page(&api.node.store, None, i64::MAX, 1).await.expect("read");
        let before = before.first().map_or(0, |event| event.sequence);
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = api.client.request(method, &concrete(path, &made)).body(concrete(body, &made));
        let answer = request.send().await.expect("answered");
        let request_id = answer.headers()["Request-Id"].to_str().expect("text").to_owned();
        let (status, answer) = super::read(answer).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        let new = events::after(&api.node.store, before, 100).await.expect("read");
        let event = new.iter().find(|event| event.kind == *kind);
        let event = event.unwrap_or_else(|| panic!("{path} left {new:?}, no {kind}"));
        assert_eq!(event.email, "owner@example.com", "{path}");
        assert_eq!(event.remote_address.as_deref(), Some("127.0.0.1"), "{path}");
        assert!(request_id.starts_with(event.request_id.as_deref().expect("known")), "{path}");
        let is_of_app =
            ["/apps", "/app-transfers", "/pipeline-couplings"].iter().any(|noun| path.contains(noun));
        assert_eq!(event.app_id.is_some(), is_of_app, "{path}");
        let id = || answer["id"].as_str().expect("an id").to_owned();
        match *kind {
            "oauth_authorization.create" => made.authorization = id(),
            "oauth_client.create" => made.client = id(),
            "key.create" => made.key = id(),
            "sni_endpoint.create" => made.endpoint = id(),
            "team.create" => made.team = id(),
            "pipeline.create" => made.pipeline = id(),
            "pipeline_coupling.create" => made.coupling = id(),
            _ => {}
        }
    }
    let reasons = ROUTES.iter().filter_map(|row| match row.3 {
        Nothing(why) => Some(why),
        _ => None,
    });
    assert!(reasons.into_iter().all(|why| !why.is_empty()));
}

#[tokio::test]
async fn owners_read_their_apps_events_and_admins_all_of_them_page_by_page() {
    let api = Api::start().await;
    let member = api.member("member@example.com").await;
    member.create_app(Some("theirs")).await.expect("created");
    api.client.create_app(Some("other")).await.expect("created");
    for value in ["1", "2", "3"] {
        member.patch_config_vars("theirs", &super::patch(&[("A", Some(value))])).await.expect("set");
    }
    let get = async |client: &ferroku_api::Client, path: &str| {
        let answer = client.request(Method::GET, path).send().await.expect("answered");
        let next = answer.headers().get("link").map(|link| link.to_str().expect("text").to_owned());
        let (status, body) = super::read(answer).await;
        (status, body, next)
    };
    let (_, all, next) = get(&member, "/ferroku/apps/theirs/events").await;
    let kinds = |page: &Value| -> Vec<String> {
        let events = page.as_array().expect("a list").iter();
        events.map(|event| event["kind"].as_str().expect("text").to_owned()).collect()
    };
    let release = || "release.create".to_owned();
    let expected = [release(), release(), release(), release(), release(), "app.create".to_owned()];
    assert_eq!(kinds(&all), expected, "newest first, and nothing of another app");
    assert_eq!(next, None);
    assert_eq!(all[0]["actor"]["email"], "member@example.com");
    assert_eq!(all[0]["remote_address"], "127.0.0.1");
    assert!(all[0]["description"].as_str().expect("text").starts_with("Set A config vars"));
    assert!(!all.to_string().contains("\"3\""), "no values");

    let mut path = "/ferroku/apps/theirs/events?max=4".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, page, next) = get(&member, &path).await;
        assert_eq!(status, 200);
        seen.extend(page.as_array().expect("a list").iter().map(|event| event["id"].clone()));
        let Some(next) = next else { break };
        assert!(next.ends_with("; rel=\"next\""), "{next}");
        path = next[1..next.find('>').expect("closed")].to_owned();
    }
    let ids: Vec<Value> = all.as_array().expect("a list").iter().map(|event| event["id"].clone()).collect();
    assert_eq!(seen, ids, "the pages are the whole");

    assert_eq!(get(&member, "/ferroku/events").await.0, 403);
    assert_eq!(get(&member, "/ferroku/apps/other/events").await.0, 403);
    let (_, node, _) = get(&api.client, "/ferroku/events").await;
    assert!(node.as_array().expect("a list").len() > ids.len());
    member.destroy_app("theirs").await.expect("destroyed");
    let (_, after, _) = get(&api.client, "/ferroku/events?max=1").await;
    assert_eq!(
        (&after[0]["kind"], &after[0]["description"]),
        (&json!("app.destroy"), &json!("Destroy theirs"))
    );
    for bad in ["?max=x", "?before=", "?max=-1"] {
        let (status, _, _) = get(&api.client, &format!("/ferroku/events{bad}")).await;
        assert!(status == 400 || bad == "?max=-1", "{bad}: {status}");
    }
}
