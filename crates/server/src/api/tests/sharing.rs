//! Apps that several people work on: collaborators, transfers, teams, and the node's admins.

use super::{Api, read};
use crate::auth::token_hash;
use crate::node::now_ms;
use ferroku_api::Client;
use ferroku_store::{accounts, events};
use reqwest::Method;
use serde_json::{Value, json};

const ALICE: &str = "alice@example.com";
const BOB: &str = "bob@example.com";
const CAROL: &str = "carol@example.com";

/// Sends a request as somebody; its status and body.
async fn ask(client: &Client, method: &str, path: &str, body: Value) -> (u16, Value) {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let request = client.request(method, path).body(body.to_string());
    read(request.send().await.expect("answered")).await
}

async fn status(client: &Client, method: &str, path: &str, body: Value) -> u16 {
    ask(client, method, path, body).await.0
}

/// The names in a list.
async fn names(client: &Client, path: &str) -> Vec<String> {
    let (code, all) = ask(client, "GET", path, json!({})).await;
    assert_eq!(code, 200, "{path}: {all}");
    let all = all.as_array().expect("a list").clone();
    all.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

fn told(answer: &(u16, Value)) -> &str {
    answer.1["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_collaborator_works_on_a_personal_app_until_removed() {
    let api = Api::start().await;
    let (alice, bob) = (api.member(ALICE).await, api.member(BOB).await);
    alice.create_app(Some("hers")).await.expect("created");
    let add = |email: &str| json!({"user": email});
    let unknown = ask(&alice, "POST", "/apps/hers/collaborators", add("nobody@example.com")).await;
    assert_eq!(unknown.0, 422);
    assert!(told(&unknown).contains("There is no account nobody@example.com on this node."), "{unknown:?}");
    assert_eq!(
        status(&bob, "POST", "/apps/hers/collaborators", add(BOB)).await,
        403,
        "nobody adds themselves"
    );
    let (code, added) = ask(&alice, "POST", "/apps/hers/collaborators", add("Bob@Example.com")).await;
    assert_eq!((code, &added["user"]["email"], &added["role"]), (201, &json!(BOB), &json!("collaborator")));
    let twice = ask(&alice, "POST", "/apps/hers/collaborators", add(BOB)).await;
    assert!(twice.0 == 422 && told(&twice).contains("already"), "{twice:?}");

    assert_eq!(names(&bob, "/users/~/apps").await, ["hers"]);
    assert_eq!(status(&bob, "PATCH", "/apps/hers/config-vars", json!({"A": "1"})).await, 200);
    assert_eq!(status(&bob, "PATCH", "/apps/hers", json!({"maintenance": true})).await, 200);
    assert_eq!(status(&bob, "PATCH", "/apps/hers", json!({"name": "mine"})).await, 403);
    assert_eq!(status(&bob, "DELETE", "/apps/hers", json!({})).await, 403);
    assert_eq!(status(&bob, "POST", "/apps/hers/collaborators", add(CAROL)).await, 403);
    let owner = format!("/apps/hers/collaborators/{ALICE}");
    assert_eq!(status(&bob, "DELETE", &owner, json!({})).await, 403);
    let own = ask(&alice, "DELETE", &owner, json!({})).await;
    assert!(own.0 == 422 && told(&own).contains("apps:transfer"), "{own:?}");
    let personal =
        ask(&alice, "PATCH", "/teams/apps/hers/collaborators/bob@example.com", json!({"permissions": []}));
    assert!(told(&personal.await).contains("not owned by a team"));

    let session = ask(&bob, "POST", "/apps/hers/log-sessions", json!({"tail": false})).await;
    let address = session.1["logplex_url"].as_str().expect("a URL").to_owned();
    assert_eq!(reqwest::get(&address).await.expect("answered").status(), 200);
    assert_eq!(status(&alice, "DELETE", "/apps/hers/collaborators/bob@example.com", json!({})).await, 200);
    for path in ["/apps/hers", "/apps/hers/config-vars", "/apps/hers/collaborators"] {
        assert_eq!(status(&bob, "GET", path, json!({})).await, 403, "{path}");
    }
    assert_eq!(
        reqwest::get(&address).await.expect("answered").status(),
        403,
        "the log's address is void, too"
    );
    assert!(names(&bob, "/users/~/apps").await.is_empty());

    assert_eq!(status(&alice, "POST", "/apps/hers/collaborators", add(BOB)).await, 201);
    assert_eq!(
        status(&bob, "DELETE", "/apps/hers/collaborators/bob%40example.com", json!({})).await,
        200,
        "left"
    );
    assert_eq!(status(&bob, "GET", "/apps/hers", json!({})).await, 403);
    let log: Vec<String> = events::after(&api.node.store, 0, 1000)
        .await
        .expect("read")
        .into_iter()
        .filter(|event| event.kind.starts_with("collaborator"))
        .filter_map(|event| event.log_message.map(|text| format!("{text} by {}", event.email)))
        .collect();
    assert_eq!(
        log,
        [
            format!("Add collaborator {BOB} by {ALICE}"),
            format!("Remove collaborator {BOB} by {ALICE}"),
            format!("Add collaborator {BOB} by {ALICE}"),
            format!("Remove collaborator {BOB} by {BOB}"),
        ]
    );
}

#[tokio::test]
async fn an_app_changes_hands_when_its_recipient_accepts() {
    let api = Api::start().await;
    let (alice, bob, carol) = (api.member(ALICE).await, api.member(BOB).await, api.member(CAROL).await);
    alice.create_app(Some("gift")).await.expect("created");
    let transfers = "/account/app-transfers";
    let offer = |to: &str| json!({"app": "gift", "recipient": to});
    assert_eq!(status(&bob, "POST", transfers, offer(BOB)).await, 403, "nobody takes what is another's");
    assert_eq!(status(&alice, "POST", transfers, offer("nobody@example.com")).await, 422);
    assert_eq!(status(&alice, "POST", transfers, offer(ALICE)).await, 422);
    let (code, made) = ask(&alice, "POST", transfers, offer(BOB)).await;
    assert_eq!((code, &made["state"], &made["recipient"]["email"]), (201, &json!("pending"), &json!(BOB)));
    let again = ask(&alice, "POST", transfers, offer(CAROL)).await;
    assert!(again.0 == 422 && told(&again).contains("pending already"), "{again:?}");
    let path = format!("{transfers}/{}", made["id"].as_str().expect("an id"));
    assert_eq!(status(&carol, "GET", &path, json!({})).await, 404);
    assert_eq!(status(&alice, "PATCH", &path, json!({"state": "accepted"})).await, 403);
    assert_eq!(status(&bob, "GET", "/apps/gift", json!({})).await, 403, "an offer gives no access");
    assert_eq!(status(&bob, "PATCH", &path, json!({"state": "declined"})).await, 200);
    assert_eq!(status(&bob, "PATCH", &path, json!({"state": "accepted"})).await, 422, "it is over");

    let (_, made) = ask(&alice, "POST", transfers, offer(BOB)).await;
    let path = format!("{transfers}/{}", made["id"].as_str().expect("an id"));
    assert_eq!(status(&bob, "DELETE", &path, json!({})).await, 403);
    let (code, accepted) = ask(&bob, "PATCH", &path, json!({"state": "accepted"})).await;
    assert_eq!((code, &accepted["state"]), (200, &json!("accepted")));
    let (_, app) = ask(&bob, "GET", "/apps/gift", json!({})).await;
    assert_eq!(app["owner"]["email"], BOB);
    assert_eq!(
        status(&alice, "PATCH", "/apps/gift/config-vars", json!({"A": "1"})).await,
        200,
        "still works on it"
    );
    assert_eq!(status(&alice, "DELETE", "/apps/gift", json!({})).await, 403);
    assert_eq!(status(&bob, "DELETE", "/apps/gift", json!({})).await, 200);
    assert_eq!(ask(&alice, "GET", transfers, json!({})).await.1, json!([]), "gone with the app");
}

#[tokio::test]
async fn a_teams_apps_are_its_members_by_their_roles_and_permissions() {
    let api = Api::start().await;
    let (alice, bob, carol) = (api.member(ALICE).await, api.member(BOB).await, api.member(CAROL).await);
    assert_eq!(status(&alice, "POST", "/teams", json!({"name": "Acme"})).await, 422);
    assert_eq!(status(&alice, "POST", "/teams", json!({"name": "acme"})).await, 201);
    assert_eq!(status(&bob, "POST", "/teams", json!({"name": "acme"})).await, 422);
    assert_eq!(status(&bob, "GET", "/teams/acme", json!({})).await, 403);
    let member = |email: &str, role: &str| json!({"email": email, "role": role});
    let members = "/teams/acme/members";
    assert_eq!(status(&alice, "PUT", members, member(BOB, "boss")).await, 422);
    assert_eq!(status(&alice, "PUT", members, member("nobody@example.com", "member")).await, 422);
    assert_eq!(status(&alice, "PATCH", members, member(BOB, "member")).await, 404, "not in it yet");
    assert_eq!(status(&alice, "PUT", members, member(BOB, "member")).await, 200);
    assert_eq!(status(&alice, "POST", members, member(BOB, "admin")).await, 422);
    let (_, teams) = ask(&bob, "GET", "/teams", json!({})).await;
    assert_eq!((&teams[0]["name"], &teams[0]["role"]), (&json!("acme"), &json!("member")));
    assert_eq!(status(&bob, "PUT", members, member(CAROL, "member")).await, 403);

    let (code, app) = ask(&alice, "POST", "/teams/apps", json!({"name": "site", "team": "acme"})).await;
    assert_eq!((code, &app["team"]["name"], &app["joined"]), (201, &json!("acme"), &json!(true)));
    assert_eq!(app["owner"]["email"], "acme@herokumanager.com");
    assert_eq!(status(&carol, "POST", "/teams/apps", json!({"team": "acme"})).await, 403);
    assert_eq!(names(&bob, "/teams/acme/apps").await, ["site"]);
    assert_eq!(names(&bob, "/apps").await, ["site"]);
    assert!(names(&alice, "/users/~/apps").await.is_empty(), "it is not her own");

    let config = "/apps/site/config-vars";
    assert_eq!(status(&bob, "GET", config, json!({})).await, 403, "a member sees the app, no more");
    assert_eq!(status(&alice, "PATCH", "/teams/apps/site", json!({"locked": true})).await, 200);
    let join = || ask(&bob, "POST", "/teams/apps/site/collaborators", json!({"user": BOB}));
    let locked = join().await;
    assert!(locked.0 == 403 && told(&locked).contains("locked"), "{locked:?}");
    assert_eq!(status(&alice, "PATCH", "/teams/apps/site", json!({"locked": false})).await, 200);
    assert_eq!(join().await.0, 201);
    assert_eq!(status(&bob, "GET", config, json!({})).await, 200);
    assert_eq!(status(&carol, "POST", "/teams/apps/site/collaborators", json!({"user": CAROL})).await, 403);
    let bobs = "/teams/apps/site/collaborators/bob@example.com";
    assert_eq!(status(&bob, "PATCH", bobs, json!({"permissions": ["manage"]})).await, 403);
    assert_eq!(status(&alice, "PATCH", bobs, json!({"permissions": ["rule"]})).await, 422);
    let (_, updated) = ask(&alice, "PATCH", bobs, json!({"permissions": ["operate"]})).await;
    assert_eq!((&updated["permissions"][0]["name"], &updated["role"]), (&json!("operate"), &json!("member")));
    assert_eq!(updated["permissions"][1]["name"], "view");
    assert_eq!(status(&bob, "PUT", "/apps/site/buildpack-installations", json!({"updates": []})).await, 403);

    let add = json!({"user": CAROL, "permissions": ["deploy"]});
    let (code, added) = ask(&alice, "POST", "/teams/apps/site/collaborators", add).await;
    assert_eq!((code, &added["role"]), (201, &json!("collaborator")));
    assert_eq!(names(&carol, "/apps").await, ["site"]);
    assert_eq!(status(&carol, "GET", members, json!({})).await, 403);
    assert_eq!(status(&alice, "DELETE", "/teams/acme", json!({})).await, 422, "it has apps");
}

#[tokio::test]
async fn a_team_keeps_an_admin_and_whoever_leaves_it_loses_its_apps() {
    let api = Api::start().await;
    let (alice, bob, carol) = (api.member(ALICE).await, api.member(BOB).await, api.member(CAROL).await);
    assert_eq!(status(&alice, "POST", "/teams", json!({"name": "acme"})).await, 201);
    let members = "/teams/acme/members";
    let own = format!("{members}/{ALICE}");
    let last = ask(&alice, "DELETE", &own, json!({})).await;
    assert!(last.0 == 422 && told(&last).contains("last admin"), "{last:?}");
    let demoted = ask(&alice, "PATCH", members, json!({"email": ALICE, "role": "viewer"})).await;
    assert!(demoted.0 == 422 && told(&demoted).contains("last admin"), "{demoted:?}");
    assert_eq!(status(&alice, "PUT", members, json!({"email": BOB, "role": "member"})).await, 200);
    assert_eq!(status(&bob, "POST", "/teams/apps", json!({"name": "site", "team": "acme"})).await, 201);
    assert_eq!(
        status(&bob, "PATCH", "/apps/site", json!({"name": "page"})).await,
        200,
        "who made it manages it"
    );
    assert_eq!(status(&bob, "DELETE", &own, json!({})).await, 403);
    assert_eq!(status(&bob, "DELETE", &format!("{members}/{BOB}"), json!({})).await, 200, "bob leaves");
    assert_eq!(
        status(&bob, "GET", "/apps/page", json!({})).await,
        403,
        "who made it owns it no more than others"
    );

    carol.create_app(Some("tool")).await.expect("created");
    let to = |owner: &str| json!({"owner": owner});
    assert_eq!(status(&carol, "PATCH", "/teams/apps/tool", to("acme")).await, 403, "not in the team");
    assert_eq!(status(&carol, "PATCH", "/teams/apps/tool", to(BOB)).await, 422, "to people by an offer");
    assert_eq!(status(&alice, "PUT", members, json!({"email": CAROL, "role": "member"})).await, 200);
    let (code, given) = ask(&carol, "PATCH", "/teams/apps/tool", to("acme")).await;
    assert_eq!((code, &given["owner"]["email"]), (200, &json!("acme@herokumanager.com")));
    assert_eq!(status(&alice, "DELETE", "/apps/tool/collaborators/carol@example.com", json!({})).await, 200);
    assert_eq!(status(&alice, "PATCH", "/teams/apps/tool", to(BOB)).await, 422, "bob is not in it any more");
    let (code, taken) = ask(&alice, "PATCH", "/teams/apps/tool", to(ALICE)).await;
    assert_eq!((code, &taken["owner"]["email"], &taken["team"]), (200, &json!(ALICE), &Value::Null));
    assert_eq!(status(&carol, "GET", "/apps/tool", json!({})).await, 403, "nobody else keeps access");
    assert_eq!(status(&alice, "DELETE", "/apps/page", json!({})).await, 200);
    assert_eq!(status(&alice, "DELETE", "/teams/acme", json!({})).await, 200);
    assert_eq!(status(&alice, "GET", "/teams/acme", json!({})).await, 404);
}

#[tokio::test]
async fn the_nodes_owner_makes_admins_who_see_and_operate_all_apps() {
    let api = Api::start().await;
    let (alice, bob) = (api.member(ALICE).await, api.member(BOB).await);
    alice.create_app(Some("hers")).await.expect("created");
    let bobs = "/admin/admins/bob@example.com";
    assert_eq!(status(&bob, "PUT", bobs, json!({})).await, 403);
    assert_eq!(status(&bob, "GET", "/apps/hers", json!({})).await, 403);
    assert_eq!(status(&bob, "GET", "/metrics", json!({})).await, 403);
    assert_eq!(status(&api.client, "PUT", "/admin/admins/nobody@example.com", json!({})).await, 422);
    assert_eq!(status(&api.client, "DELETE", "/admin/admins/owner@example.com", json!({})).await, 422);
    let (code, made) = ask(&api.client, "PUT", bobs, json!({})).await;
    assert_eq!((code, &made["role"], &made["email"]), (200, &json!("admin"), &json!(BOB)));
    assert_eq!(names(&bob, "/apps").await, ["hers"]);
    assert!(names(&bob, "/users/~/apps").await.is_empty());
    assert_eq!(status(&bob, "PATCH", "/apps/hers/config-vars", json!({"A": "1"})).await, 200);
    assert_eq!(status(&bob, "DELETE", "/apps/hers", json!({})).await, 403);
    assert_eq!(status(&bob, "PUT", "/admin/admins/alice@example.com", json!({})).await, 403);
    assert_eq!(status(&api.client, "DELETE", bobs, json!({})).await, 200);
    assert_eq!(status(&bob, "GET", "/apps/hers", json!({})).await, 403, "at once");
}

#[tokio::test]
async fn a_token_of_a_narrow_scope_is_made_shown_and_kept_to() {
    let api = Api::start().await;
    api.client.create_app(Some("site")).await.expect("created");
    let scope = json!({"scope": ["write-protected", "read"], "description": "ci"});
    let (code, made) = ask(&api.client, "POST", "/oauth/authorizations", scope).await;
    assert_eq!((code, &made["scope"]), (201, &json!(["read", "write-protected"])));
    let token = made["access_token"]["token"].as_str().expect("a token");
    let narrow = Client::new(&api.url, token);
    assert_eq!(status(&narrow, "PATCH", "/apps/site/config-vars", json!({"A": "1"})).await, 200);
    let refused = ask(&narrow, "GET", "/apps/site/config-vars", json!({})).await;
    assert_eq!((refused.0, &refused.1["id"]), (403, &json!("forbidden")));
    assert!(told(&refused).ends_with("it needs read-protected."), "{refused:?}");
    assert_eq!(told(&ask(&narrow, "GET", "/apps/nosuch/config-vars", json!({})).await), told(&refused));
    let more = ask(&narrow, "POST", "/oauth/authorizations", json!({"scope": ["read"]})).await;
    assert_eq!(more.0, 403, "what it made could outlive it");
    let stored = accounts::by_token_hash(&api.node.store, &token_hash(&token.into()), now_ms()).await;
    let (_, stored) = stored.expect("read").expect("there");
    assert_eq!(stored.scope.names(), ["read", "write-protected"]);
}
