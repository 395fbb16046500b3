//! SSH keys, OAuth clients, and what becomes of authorizations.

use super::{Api, read};
use ferroku_api::Client;
use reqwest::Method;
use serde_json::{Value, json};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINwGYmehlh2cfy262+DgqQUEz/xFpawCXestHWKb0yDG a@b";
const FINGERPRINT: &str = "17:0f:53:df:31:4f:f0:f9:47:5d:8c:87:0f:fc:68:20";

async fn status_of(api: &Api, token: &Value) -> u16 {
    let client = Client::new(&api.url, token.as_str().expect("a token"));
    client.request(Method::GET, "/account").send().await.expect("answered").status().as_u16()
}

#[tokio::test]
async fn keys_are_kept_shown_and_removed() {
    let api = Api::start().await;
    let body = json!({"public_key": format!("{KEY}\n")}).to_string();
    let (status, key) = api.send("POST", "/account/keys", &body).await;
    assert_eq!((status, &key["public_key"], &key["comment"]), (201, &json!(KEY), &json!("a@b")));
    assert_eq!((&key["fingerprint"], &key["email"]), (&json!(FINGERPRINT), &json!("owner@example.com")));
    let (status, told) = api.send("POST", "/account/keys", &body).await;
    assert!(status == 422 && told["message"].as_str().expect("text").contains("taken"), "{told}");
    for bad in ["", "ssh-rsa AAAA", "ssh-dss AAAAB3NzaC1kc3MAAACBA x", &format!("{KEY} {}", "x".repeat(300))]
    {
        let body = json!({"public_key": bad}).to_string();
        assert_eq!(api.send("POST", "/account/keys", &body).await.0, 422, "{bad}");
    }
    let other = api.member("bob@example.com").await;
    for name in [key["id"].as_str().expect("an id"), FINGERPRINT] {
        let path = format!("/account/keys/{name}");
        assert_eq!(api.send("GET", &path, "").await, (200, key.clone()));
        assert_eq!(other.request(Method::DELETE, &path).send().await.expect("answered").status(), 404);
    }
    assert_eq!(api.send("GET", "/account/keys", "").await.1, json!([key]));
    assert_eq!(api.send("DELETE", &format!("/account/keys/{FINGERPRINT}"), "").await.0, 200);
    assert_eq!(api.send("GET", "/account/keys", "").await.1, json!([]));
}

#[tokio::test]
async fn a_clients_secret_is_shown_when_it_is_made_and_never_again() {
    let api = Api::start().await;
    let body = r#"{"name": "Amazing", "redirect_uri": "https://example.com/cb"}"#;
    let (status, made) = api.send("POST", "/oauth/clients", body).await;
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    assert_eq!((status, secret.len(), &made["name"]), (201, 40, &json!("Amazing")));
    let path = format!("/oauth/clients/{}", made["id"].as_str().expect("an id"));
    for (method, body) in [("GET", ""), ("PATCH", r#"{"name": "Other"}"#)] {
        let (status, shown) = api.send(method, &path, body).await;
        assert_eq!((status, &shown["secret"]), (200, &json!("**********")), "{shown}");
    }
    let (_, listed) = api.send("GET", "/oauth/clients", "").await;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["redirect_uri"]),
        (&json!("Other"), &json!("https://example.com/cb"))
    );
    assert!(!listed.to_string().contains(&secret));
    let (_, rotated) = api.send("POST", &format!("{path}/actions/rotate-credentials"), "").await;
    assert!(rotated["secret"].as_str().expect("a secret") != secret && rotated["id"] == made["id"]);
    for bad in [
        r#"{"name": "x"}"#,
        r#"{"name": "", "redirect_uri": "https://a/"}"#,
        r#"{"name": "x", "redirect_uri": "http://a/"}"#,
    ] {
        assert_eq!(api.send("POST", "/oauth/clients", bad).await.0, 422, "{bad}");
    }
    let other = api.member("bob@example.com").await;
    assert_eq!(other.request(Method::GET, &path).send().await.expect("answered").status(), 404);
    assert_eq!(api.send("DELETE", &path, "").await.0, 200);
    assert_eq!(api.send("GET", &path, "").await.0, 404);
}

#[tokio::test]
async fn an_authorization_is_renamed_rotated_and_shown_whole_only_when_new() {
    let api = Api::start().await;
    let body = r#"{"description": "CI", "expires_in": "3600", "scope": ["read"]}"#;
    let (status, made) = api.send("POST", "/oauth/authorizations", body).await;
    assert_eq!((status, &made["scope"]), (201, &json!(["read"])), "{made}");
    let left = made["access_token"]["expires_in"].as_i64().expect("seconds");
    assert!((3_500..=3_600).contains(&left), "as the CLI writes it: {left}");
    assert_eq!(api.send("POST", "/oauth/authorizations", r#"{"expires_in": "soon"}"#).await.0, 422);
    let path = format!("/oauth/authorizations/{}", made["id"].as_str().expect("an id"));
    let (status, renamed) = api.send("PATCH", &path, r#"{"description": "deploys"}"#).await;
    assert_eq!((status, &renamed["description"]), (200, &json!("deploys")));
    let old = &made["access_token"]["token"];
    assert!(renamed["access_token"]["token"].as_str().expect("text").contains("**********"));
    assert_eq!(status_of(&api, old).await, 200);
    let (status, rotated) = api.send("POST", &format!("{path}/actions/regenerate-tokens"), "").await;
    let new = &rotated["access_token"]["token"];
    assert_eq!((status, status_of(&api, old).await, status_of(&api, new).await), (200, 401, 200));
    assert_eq!((&rotated["description"], &rotated["scope"]), (&json!("deploys"), &json!(["read"])));
    let (status, told) = api.send("PATCH", &path, r#"{"client": {"id": "x", "secret": "y"}}"#).await;
    assert!(status == 422 && told["message"].as_str().expect("text").contains("client"), "{told}");
    let other = api.member("bob@example.com").await;
    let rotate = other.request(Method::POST, &format!("{path}/actions/regenerate-tokens"));
    assert_eq!(read(rotate.send().await.expect("answered")).await.0, 404);
    assert_eq!(api.send("DELETE", &path, "").await.0, 200);
    assert_eq!(status_of(&api, new).await, 401);
}
