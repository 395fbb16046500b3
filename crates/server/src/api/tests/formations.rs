//! Formation, dynos and dyno sizes over the API: what is written down and what is refused.

use super::Api;
use ferroku_core::app::App;
use ferroku_core::slug::ProcessTypes;
use ferroku_store::{StoreError, apps, events, formations, write};
use serde_json::{Value, json};

impl Api {
    /// An app whose slug has a web and a worker process.
    pub(super) async fn app_with_types(&self) -> App {
        self.client.create_app(Some("shop")).await.expect("created");
        let app = apps::find(&self.node.store, "shop").await.expect("read").expect("there");
        let commands = [("web", "gunicorn app"), ("worker", "work")];
        let types: ProcessTypes =
            commands.iter().map(|(name, command)| ((*name).to_owned(), (*command).to_owned())).collect();
        let applied: Result<(), StoreError> = async {
            write!(&self.node.store, tx => { formations::apply_process_types(&mut tx, app.id, &types, true, 5).await })
        }
        .await;
        applied.expect("applied");
        app
    }

    async fn quantities(&self) -> Vec<(String, u64, String)> {
        let (status, all) = self.send("GET", "/apps/shop/formation", "").await;
        assert_eq!(status, 200);
        let all = all.as_array().expect("a list").clone();
        let text = |one: &Value, name: &str| one[name].as_str().expect("text").to_owned();
        all.iter()
            .map(|one| (text(one, "type"), one["quantity"].as_u64().expect("a number"), text(one, "size")))
            .collect()
    }

    async fn last_event(&self) -> (String, Option<String>) {
        let all = events::after(&self.node.store, 0, 1000).await.expect("read");
        let last = all.last().expect("at least the app's creation");
        (last.kind.clone(), last.log_message.clone())
    }
}

#[tokio::test]
async fn scaling_takes_numbers_and_changes_for_one_or_several_types() {
    let api = Api::start().await;
    api.app_with_types().await;
    assert_eq!(
        api.quantities().await,
        [("web".into(), 1, "Basic".into()), ("worker".into(), 0, "Basic".into())]
    );
    let updates = json!({"updates": [
        {"type": "web", "quantity": "+1"},
        {"type": "worker", "quantity": "2", "size": "standard-2x"},
    ]});
    let (status, changed) = api.send("PATCH", "/apps/shop/formation", &updates.to_string()).await;
    assert_eq!((status, changed.as_array().expect("a list").len()), (200, 2));
    assert_eq!(changed[1]["dyno_size"]["name"], "Standard-2X");
    let scaled = Some("Scaled to web@2:Basic worker@2:Standard-2X".to_owned());
    assert_eq!(api.last_event().await, ("formation.update".into(), scaled));

    let (status, changed) = api.send("PATCH", "/apps/shop/formation/web", r#"{"quantity": 0}"#).await;
    assert_eq!((status, changed["quantity"].as_u64()), (200, Some(0)));
    let id = changed["id"].as_str().expect("an id");
    let (status, shown) = api.send("GET", &format!("/apps/shop/formation/{id}"), "").await;
    assert_eq!((status, &shown), (200, &changed));
    assert_eq!(
        api.quantities().await,
        [("web".into(), 0, "Basic".into()), ("worker".into(), 2, "Standard-2X".into())]
    );
}

#[tokio::test]
async fn a_batch_with_one_bad_update_changes_nothing_and_says_what_is_wrong() {
    let api = Api::start().await;
    api.app_with_types().await;
    let cases = [
        (json!({"type": "clock", "quantity": 1}), 404, "Couldn't find that process type (clock)."),
        (json!({"type": "web", "quantity": "two"}), 422, "Invalid quantity \"two\""),
        (json!({"type": "web", "quantity": -1}), 422, "-1 is no number of dynos"),
        (json!({"type": "web", "quantity": 1.5}), 422, "1.5 is no number of dynos"),
        (json!({"type": "web", "size": "huge"}), 422, "Couldn't find the dyno size huge"),
        (json!({"type": "web", "quantity": 2, "size": "eco"}), 422, "Eco dynos are limited to 1"),
        (json!({"type": "web", "quantity": 101}), 422, "limited to 100"),
        (json!({"quantity": 1}), 422, "needs a type"),
    ];
    for (bad, expected, message) in cases {
        let updates = json!({"updates": [{"type": "worker", "quantity": 5}, bad]});
        let (status, error) = api.send("PATCH", "/apps/shop/formation", &updates.to_string()).await;
        assert_eq!(status, expected, "{error}");
        let told = error["message"].as_str().expect("a message");
        assert!(told.contains(message), "{told}");
    }
    assert_eq!(
        api.quantities().await,
        [("web".into(), 1, "Basic".into()), ("worker".into(), 0, "Basic".into())]
    );
}

#[tokio::test]
async fn restart_and_stop_change_what_is_wanted_and_know_what_there_is() {
    let api = Api::start().await;
    let app = api.app_with_types().await;
    assert_eq!(api.send("GET", "/apps/shop/dynos", "").await, (200, json!([])));
    assert_eq!(api.send("DELETE", "/apps/shop/dynos", "").await, (202, json!({})));
    let after = apps::by_id(&api.node.store, app.id).await.expect("read").expect("there");
    assert_eq!(after.restart_generation, app.restart_generation + 1);
    assert_eq!(api.last_event().await, ("dyno.restart_all".into(), Some("Restart all dynos".into())));
    for (method, path, expected) in [
        ("DELETE", "/apps/shop/dynos/worker", 202),
        ("DELETE", "/apps/shop/formations/worker", 202),
        ("POST", "/apps/shop/dynos/worker/actions/stop", 202),
        ("POST", "/apps/shop/formations/web/actions/stop", 202),
        ("DELETE", "/apps/shop/dynos/web.7", 404),
        ("DELETE", "/apps/shop/dynos/clock", 404),
        ("DELETE", "/apps/shop/formations/clock", 404),
        ("POST", "/apps/shop/dynos/run.1234/actions/stop", 404),
        ("GET", "/apps/shop/dynos/web.1", 404),
    ] {
        let (status, answer) = api.send(method, path, "").await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
    }
    for (body, wrong) in [
        (json!({}), "command"),
        (json!({"command": "  "}), "command"),
        (json!({"command": "ls", "env": {"A": []}}), "env.A"),
        (
            json!({"command": "ls", "env": {"A": "x".repeat(200_000)}}),
            "200001 bytes long in all; the limit is 65536 bytes",
        ),
        (json!({"command": "ls", "type": "a b"}), "type"),
        (json!({"command": "ls", "time_to_live": 90_000}), "time_to_live"),
    ] {
        let (status, error) = api.send("POST", "/apps/shop/dynos", &body.to_string()).await;
        assert_eq!(status, 422, "{error}");
        assert!(error["message"].as_str().expect("a message").contains(wrong), "{error}");
    }
}

#[tokio::test]
async fn dyno_sizes_are_found_by_name_whatever_its_case() {
    let api = Api::start().await;
    let (status, all) = api.send("GET", "/dyno-sizes", "").await;
    assert_eq!((status, all.as_array().expect("a list").len()), (200, 6));
    let (status, basic) = api.send("GET", "/dyno-sizes/BASIC", "").await;
    assert_eq!((status, basic["name"].as_str(), basic["memory"].as_f64()), (200, Some("Basic"), Some(0.5)));
    assert_eq!(api.send("GET", "/dyno-sizes/huge", "").await.0, 404);
}
