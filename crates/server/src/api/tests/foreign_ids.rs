//! What belongs to another app is not there under this one's name, whoever owns both.

use super::Api;
use super::conventions::builds_and_dynos;
use super::domains::{chain, input};
use super::pipelines::deploy;
use crate::api;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What there is nothing of.
const NOTHING: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// Ids of what the app has, by the parameter that stands for them in paths.
async fn things_of(api: &Api, name: &str) -> BTreeMap<&'static str, String> {
    deploy(api, name, "d1", false).await;
    builds_and_dynos(api, name).await;
    let send = async |path: &str, body: Value| {
        let (status, made) = api.send("POST", &format!("/apps/{name}/{path}"), &body.to_string()).await;
        assert!((200..300).contains(&status), "{path}: {made}");
        made["id"].as_str().expect("an id").to_owned()
    };
    let www = chain(&["www.example.com"]);
    let certificate = serde_json::from_str(&input(&www.leaf, &www.key)).expect("JSON");
    let domain = send("domains", json!({"hostname": "www.example.com", "sni_endpoint": null})).await;
    let endpoint = send("sni-endpoints", certificate).await;
    let last = async |path: &str| {
        let (_, all) = api.send("GET", &format!("/apps/{name}/{path}"), "").await;
        all.as_array().and_then(|all| all.last()).expect(path).clone()
    };
    let release = last("releases").await;
    let id = |thing: &Value| thing["id"].as_str().expect("an id").to_owned();
    BTreeMap::from([
        ("{build}", id(&last("builds").await)),
        ("{domain}", domain),
        ("{dyno}", id(&last("dynos").await)),
        ("{endpoint}", endpoint),
        ("{formation}", id(&last("formation").await)),
        ("{release}", id(&release)),
        ("{slug}", id(&release["slug"])),
    ])
}

/// All that the API says of an app, but for links that are made anew each time.
async fn state_of(api: &Api, name: &str) -> Vec<Value> {
    let mut state = Vec::new();
    for what in ["builds", "domains", "dynos", "formation", "releases", "sni-endpoints"] {
        let (_, mut all) = api.send("GET", &format!("/apps/{name}/{what}"), "").await;
        let all = all.as_array_mut().expect(what);
        all.iter_mut().for_each(|one| one["output_stream_url"] = Value::Null);
        state.append(all);
    }
    state
}

/// A body that the handler takes.
fn body_of(method: &str, path: &str) -> String {
    let www = chain(&["www.example.com"]);
    match (method, path) {
        ("POST", "/apps/{app}/dynos/{dyno}") => r#"{"command": "ls"}"#.to_owned(),
        ("PATCH", "/apps/{app}/domains/{domain}") => r#"{"sni_endpoint": null}"#.to_owned(),
        ("PATCH", "/apps/{app}/formation/{formation}") => r#"{"quantity": 3}"#.to_owned(),
        ("PATCH", "/apps/{app}/sni-endpoints/{endpoint}") => input(&www.leaf, &www.key),
        _ => String::new(),
    }
}

#[tokio::test]
async fn ids_of_another_apps_things_are_as_good_as_none() {
    let api = Api::start().await;
    for name in ["mine", "other"] {
        api.client.create_app(Some(name)).await.expect("created");
    }
    deploy(&api, "mine", "d2", false).await;
    let things = things_of(&api, "other").await;
    let before = state_of(&api, "other").await;
    let mut asked = BTreeSet::new();
    for (method, path) in api::routes().table() {
        let below_an_app = path.starts_with("/apps/{app}/");
        let thing = things.iter().find(|(parameter, _)| below_an_app && path.contains(*parameter));
        let Some((parameter, id)) = thing else { continue };
        let body = body_of(method.as_str(), path);
        let ask = async |app: &str, id: &str| {
            let path = path.replace("{app}", app).replace(parameter, id);
            let (status, answer) = api.send(method.as_str(), &path, &body).await;
            (status, answer.to_string().replace(id, "ID"))
        };
        let (none, foreign) = (ask("mine", NOTHING).await, ask("mine", id).await);
        assert_eq!((none.0, &none), (404, &foreign), "{method} {path}");
        if method == http::Method::GET {
            assert_eq!(ask("other", id).await.0, 200, "{method} {path}: it is asked rightly");
        }
        asked.insert(*parameter);
    }
    assert_eq!(state_of(&api, "other").await, before, "nobody has changed it");
    assert!(things.keys().all(|parameter| asked.contains(parameter)), "{asked:?}");
}
