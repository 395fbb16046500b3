//! Pipelines: who sees and changes them, and what a promotion releases.

use super::{Api, read};
use ferroku_api::Client;
use ferroku_core::collaborator::Permission;
use ferroku_core::dyno::DynoState;
use ferroku_core::event::Actor;
use ferroku_core::pipeline::COMMAND_FAILED;
use ferroku_core::slug::Slug;
use ferroku_core::{ReleaseId, SlugId};
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use ferroku_store::{StoreError, accounts, apps, collaborators, dynos, formations, releases, slugs, write};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

const ALICE: &str = "alice@example.com";

async fn ask(client: &Client, method: &str, path: &str, body: Value) -> (u16, Value) {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    read(client.request(method, path).body(body.to_string()).send().await.expect("answered")).await
}

/// The same, which must succeed.
async fn done(client: &Client, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = ask(client, method, path, body).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

/// What a push leaves, without its build.
pub(super) async fn deploy(api: &Api, app: &str, digest: &str, with_command: bool) {
    let store = &api.node.store;
    let app = apps::find(store, app).await.expect("read").expect("made");
    let owner = accounts::find(store, app.owner_id).await.expect("read").expect("made");
    let actor = Actor { account_id: owner.id, email: owner.email, remote_address: None, request_id: None };
    let mut types = vec![("web".to_owned(), "serve".to_owned())];
    types.extend(with_command.then(|| ("release".to_owned(), "migrate".to_owned())));
    let slug = Slug {
        id: SlugId(Uuid::new_v4()),
        app_id: app.id,
        digest: digest.to_owned(),
        commit: Some("abcdef0123456789".to_owned()),
        commit_description: None,
        stack: "heroku-24".to_owned(),
        size_bytes: 1,
        process_types: types.into_iter().collect(),
        buildpack_provided_description: None,
        archive_sha256: None,
        deleted_at: None,
        created_at: 5,
    };
    let made: Result<(), StoreError> = async {
        write!(store, tx => {
            slugs::create(&mut tx, &slug).await?;
            let new = NewRelease {
                id: ReleaseId(Uuid::new_v4()),
                app_id: app.id,
                actor: &actor,
                description: "Deploy abcdef01".to_owned(),
                slug: SlugChange::Set(slug.id),
                config: ConfigChange::Keep,
            };
            releases::create(&mut tx, store.key(), new, 5).await?;
            Ok(())
        })
    }
    .await;
    made.expect("released");
}

/// An account with apps in a pipeline: staging, and two in production.
struct Line {
    api: Api,
    alice: Client,
    pipeline: Value,
    ids: Vec<String>,
}

impl Line {
    async fn start() -> Self {
        let api = Api::start().await;
        let alice = api.member(ALICE).await;
        let pipeline = done(&alice, "POST", "/pipelines", json!({"name": "shop"})).await;
        let mut ids = Vec::new();
        for (name, stage) in [("shop-staging", "staging"), ("shop", "production"), ("shop-eu", "production")]
        {
            let app = alice.create_app(Some(name)).await.expect("created");
            let body = json!({"app": name, "pipeline": pipeline["id"], "stage": stage});
            let coupling = done(&alice, "POST", "/pipeline-couplings", body).await;
            assert_eq!(coupling["app"]["id"], json!(app.id));
            ids.push(app.id.to_string());
        }
        Self { api, alice, pipeline, ids }
    }

    fn promotion(&self, from: usize, to: &[usize]) -> Value {
        let targets: Vec<Value> = to.iter().map(|at| json!({"app": {"id": self.ids[*at]}})).collect();
        json!({
            "pipeline": {"id": self.pipeline["id"]},
            "source": {"app": {"id": self.ids[from]}},
            "targets": targets,
        })
    }

    async fn promote(&self, client: &Client, from: usize, to: &[usize]) -> (u16, Value) {
        ask(client, "POST", "/pipeline-promotions", self.promotion(from, to)).await
    }

    async fn targets(&self, promotion: &Value) -> Value {
        let id = promotion["id"].as_str().expect("an id");
        done(&self.alice, "GET", &format!("/pipeline-promotions/{id}/promotion-targets"), json!({})).await
    }
}

#[tokio::test]
async fn a_promotion_releases_the_same_slug_with_the_targets_own_config_vars() {
    let line = Line::start().await;
    let (status, told) = line.promote(&line.alice, 0, &[1]).await;
    assert!(status == 422 && told["message"].as_str().expect("text").contains("has no code yet"), "{told}");
    deploy(&line.api, "shop-staging", "the-digest", false).await;
    done(&line.alice, "PATCH", "/apps/shop-staging/config-vars", json!({"WHERE": "staging"})).await;
    done(&line.alice, "PATCH", "/apps/shop/config-vars", json!({"WHERE": "production"})).await;
    let (status, promotion) = line.promote(&line.alice, 0, &[1, 2]).await;
    assert_eq!((status, &promotion["status"]), (201, &json!("completed")), "{promotion}");
    let targets = line.targets(&promotion).await;
    for target in targets.as_array().expect("a list") {
        assert_eq!((&target["status"], &target["error_message"]), (&json!("succeeded"), &Value::Null));
    }
    let store = &line.api.node.store;
    let app = apps::find(store, "shop").await.expect("read").expect("made");
    let release = releases::current(store, app.id).await.expect("read").expect("made");
    assert_eq!((release.version, release.description.as_str()), (4, "Promote shop-staging v4 abcdef01"));
    let slug = slugs::find(store, release.slug_id.expect("code")).await.expect("read").expect("made");
    assert_eq!((slug.digest.as_str(), slug.app_id), ("the-digest", app.id));
    let vars = releases::config_vars(store, &release).await.expect("opened");
    assert_eq!(vars["WHERE"], "production");
    let formation = formations::list(store, app.id).await.expect("read");
    assert_eq!(formation.iter().map(|one| one.quantity).collect::<Vec<_>>(), [1], "a first deploy runs web");
    // The source may go: what was promoted stays.
    line.alice.request(Method::DELETE, "/apps/shop-staging").send().await.expect("answered");
    assert_eq!(slugs::by_digest(store, "the-digest").await.expect("read").len(), 2);
}

#[tokio::test]
async fn a_target_with_a_release_command_is_pending_until_that_has_ended() {
    let line = Line::start().await;
    deploy(&line.api, "shop-staging", "the-digest", true).await;
    let store = &line.api.node.store;
    let end = async |app: &str, status: i32| {
        let app = apps::find(store, app).await.expect("read").expect("made");
        let dyno = dynos::list(store, app.id).await.expect("read").remove(0);
        let ended: Result<(), StoreError> = async {
            write!(store, tx => { dynos::end(&mut tx, dyno.id, DynoState::Complete, Some(status), 9).await })
        }
        .await;
        ended.expect("ended");
    };
    end("shop-staging", 0).await;
    let (status, promotion) = line.promote(&line.alice, 0, &[1, 2]).await;
    assert_eq!((status, &promotion["status"]), (201, &json!("pending")), "{promotion}");
    let (_, again) = line.promote(&line.alice, 0, &[1]).await;
    let refused = line.targets(&again).await;
    assert_eq!(refused[0]["status"], "failed", "its command still runs: {refused}");
    end("shop", 0).await;
    end("shop-eu", 1).await;
    let targets = line.targets(&promotion).await;
    // In the order of their ids, which is none.
    let of = |app: usize| {
        let mut all = targets.as_array().expect("a list").iter();
        let target = all.find(|target| target["app"]["id"] == line.ids[app].as_str()).expect("promoted to");
        (target["status"].clone(), target["error_message"].clone())
    };
    assert_eq!(of(1), (json!("succeeded"), Value::Null));
    assert_eq!(of(2), (json!("failed"), json!(COMMAND_FAILED)));
}

#[tokio::test]
async fn only_who_sees_an_app_sees_its_pipeline_and_only_who_may_push_promotes() {
    let line = Line::start().await;
    deploy(&line.api, "shop-staging", "the-digest", false).await;
    let bob = line.api.member("bob@example.com").await;
    let pipeline = format!("/pipelines/{}", line.pipeline["id"].as_str().expect("an id"));
    let coupling = done(&line.alice, "GET", "/apps/shop/pipeline-couplings", json!({})).await;
    let coupling = format!("/pipeline-couplings/{}", coupling["id"].as_str().expect("an id"));
    for path in [&pipeline, &format!("{pipeline}/pipeline-couplings")] {
        assert_eq!(ask(&bob, "GET", path, json!({})).await.0, 404, "{path}");
    }
    assert_eq!(done(&bob, "GET", "/pipelines", json!({})).await, json!([]));
    assert_eq!(done(&bob, "GET", "/pipeline-couplings", json!({})).await, json!([]));
    let all = json!({"in": {"id": line.ids}});
    assert_eq!(done(&bob, "POST", "/filters/apps", all.clone()).await, json!([]));
    assert_eq!(ask(&bob, "DELETE", &coupling, json!({})).await.0, 403);
    assert_eq!(line.promote(&bob, 0, &[1]).await.0, 404);

    // Who sees it takes no app into it, to which the others' code would be promoted; who operates one of its apps does.
    let bobs = bob.create_app(Some("bobs")).await.expect("created");
    let into = json!({"app": "bobs", "pipeline": line.pipeline["id"], "stage": "production"});
    let share = json!({"user": "bob@example.com"});
    done(&line.alice, "POST", "/apps/shop-staging/collaborators", share).await;
    let permit = async |permissions: &[Permission]| {
        let store = &line.api.node.store;
        let staging = apps::find(store, "shop-staging").await.expect("read").expect("made");
        let bob =
            collaborators::find(store, staging.id, "bob@example.com").await.expect("read").expect("added");
        let actor = Actor {
            account_id: bob.account_id,
            email: bob.email.clone(),
            remote_address: None,
            request_id: None,
        };
        collaborators::update(store, &bob, &permissions.iter().copied().collect(), &actor, 1)
            .await
            .expect("changed");
    };
    permit(&[Permission::View]).await;
    let (status, refused) = ask(&bob, "POST", "/pipeline-couplings", into.clone()).await;
    assert_eq!(status, 403, "{refused}");

    // Who works on one of the apps sees the pipeline and that app of it.
    permit(&[Permission::View, Permission::Deploy, Permission::Operate]).await;
    assert_eq!(done(&bob, "GET", "/pipelines?eq[name]=shop", json!({})).await[0]["name"], "shop");
    let seen = done(&bob, "GET", &format!("{pipeline}/pipeline-couplings"), json!({})).await;
    assert_eq!(seen.as_array().map(Vec::len), Some(1), "{seen}");
    assert_eq!(done(&bob, "POST", "/filters/apps", all).await[0]["name"], "shop-staging");
    let taken_in = done(&bob, "POST", "/pipeline-couplings", into).await;
    assert_eq!(taken_in["app"]["id"], json!(bobs.id));
    for (method, body) in [("PATCH", json!({"name": "bobs"})), ("DELETE", json!({}))] {
        assert_eq!(ask(&bob, method, &pipeline, body).await.0, 403, "{method}");
    }
    assert_eq!(ask(&bob, "PATCH", &coupling, json!({"stage": "staging"})).await.0, 403);
    let (status, promotion) = line.promote(&bob, 0, &[1]).await;
    assert_eq!(status, 201);
    let target = line.targets(&promotion).await[0].clone();
    let told = (target["status"].as_str(), target["error_message"].as_str());
    assert_eq!(told, (Some("failed"), Some("User does not have access to that app")));
    let store = &line.api.node.store;
    let shop = apps::find(store, "shop").await.expect("read").expect("made");
    assert_eq!(releases::list(store, shop.id).await.expect("read").len(), 2, "nothing was released");
}

#[tokio::test]
async fn an_app_is_in_one_pipeline_and_what_cannot_be_is_refused() {
    let line = Line::start().await;
    let (alice, ids) = (&line.alice, &line.ids);
    deploy(&line.api, "shop-staging", "the-digest", false).await;
    let outside = alice.create_app(Some("outside")).await.expect("created").id.to_string();
    let to = |app: &str| {
        let mut body = line.promotion(0, &[1]);
        body["targets"] = json!([{"app": {"id": app}}]);
        body
    };
    let other = done(alice, "POST", "/pipelines", json!({"name": "other"})).await;
    let couple = |app: &str| json!({"app": app, "pipeline": other["id"], "stage": "staging"});
    let mut stage = couple("outside");
    stage["stage"] = json!("nowhere");
    let mut none = line.promotion(0, &[1]);
    none["targets"] = json!([]);
    for (path, body, why) in [
        ("/pipelines", json!({"name": "shop"}), "already taken"),
        ("/pipelines", json!({"name": "A"}), "must start with a letter"),
        ("/pipeline-couplings", couple("shop"), "is in a pipeline already"),
        ("/pipeline-couplings", stage, "stage"),
        ("/pipeline-promotions", to(&ids[0]), "to itself"),
        ("/pipeline-promotions", to(&outside), "is not in the pipeline shop"),
        ("/pipeline-promotions", to("x"), "is not in the pipeline shop"),
        ("/pipeline-promotions", none, "1 to 50"),
    ] {
        let (status, told) = ask(alice, "POST", path, body).await;
        assert_eq!(status, 422, "{path}: {told}");
        assert!(told["message"].as_str().expect("text").contains(why), "{why}: {told}");
    }
    let path = format!("/pipelines/{}", line.pipeline["id"].as_str().expect("an id"));
    assert_eq!(done(alice, "PATCH", &path, json!({"name": "store"})).await["name"], "store");
    let coupling = done(alice, "GET", "/apps/shop/pipeline-couplings", json!({})).await;
    assert_eq!((&coupling["pipeline"]["name"], &coupling["stage"]), (&json!("store"), &json!("production")));
    done(alice, "DELETE", &path, json!({})).await;
    assert_eq!(ask(alice, "GET", "/apps/shop/pipeline-couplings", json!({})).await.0, 404);
    assert!(alice.app("shop").await.is_ok(), "its apps stay");
}
