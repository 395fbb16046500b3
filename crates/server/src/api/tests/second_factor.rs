//! Logging in with a second factor and from the CLI through a browser.

use super::letters::Browser;
use super::people::PASSWORD;
use super::{Api, read};
use crate::node::now_ms;
use crate::people::SignUp;
use ferroku_api::Client;
use ferroku_store::accounts;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use totp_rs::{Builder, Secret, Totp};

/// The phone.
fn phone(secret: &str) -> Totp {
    Builder::new()
        .with_secret(Secret::try_from_base32(secret).expect("base 32"))
        .with_account_name("a")
        .build()
        .expect("a phone")
}

fn now_seconds() -> u64 {
    u64::try_from(now_ms() / 1000).expect("after 1970")
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).and_then(|(_, rest)| rest.split_once(after)).expect("on the page").0
}

/// Turns it on; gives the phone, the code that was used, and the recovery codes.
async fn enrol(browser: &mut Browser) -> (Totp, String, Vec<String>) {
    browser.get("/web/two-factor").await;
    assert_eq!(browser.post("/web/two-factor", &[("password", "wrong")]).await.status, 401);
    let page = browser.post("/web/two-factor", &[("password", PASSWORD)]).await;
    assert!(page.text.contains("<svg"), "{}", page.text);
    let phone = phone(between(&page.text, "<code>", "</code>"));
    assert_eq!(browser.post("/web/two-factor/enable", &[("code", "000000x")]).await.status, 422);
    let code = phone.generate(now_seconds()).to_string();
    let page = browser.post("/web/two-factor/enable", &[("code", &code)]).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let codes = between(&page.text, "<pre>", "</pre>").lines().map(str::to_owned).collect();
    (phone, code, codes)
}

#[tokio::test]
async fn a_second_factor_is_asked_for_taken_once_and_replaced_by_recovery_codes() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = api.signed_up(&mut mailbox, "ann@example.com").await;
    let cli = api.client_of("ann@example.com", PASSWORD).await;
    let (phone, used, recovery) = enrol(&mut browser).await;
    assert_eq!(recovery.len(), 10);
    let (_, account) = read(cli.request(Method::GET, "/account").send().await.expect("answered")).await;
    assert_eq!(account["two_factor_authentication"], true);

    let log_in = |code: Option<String>| {
        let api = &api;
        async move { api.log_in("ann@example.com", PASSWORD, code.as_deref()).await }
    };
    let (status, told) = log_in(None).await;
    assert_eq!((status, &told["id"]), (403, &json!("two_factor")));
    assert_eq!(api.log_in("ann@example.com", "wrong", Some("1")).await.1["id"], "unauthorized");
    assert_eq!(log_in(Some(used)).await.0, 401, "it was taken at the enrolment");
    // The next one is good already, and another one than that of the enrolment whenever this runs.
    let code = phone.generate(now_seconds() + 30).to_string();
    assert_eq!(log_in(Some(code.clone())).await.0, 201);
    assert_eq!(log_in(Some(code)).await.0, 401, "taken once");
    assert_eq!(log_in(Some(recovery[0].to_uppercase())).await.0, 201);
    assert_eq!(log_in(Some(recovery[0].clone())).await.0, 401, "taken once");

    // A browser gets nowhere with the password alone.
    let mut other = Browser::new(&api.url);
    assert_eq!(other.log_in("ann@example.com", PASSWORD).await.location, "/web/login/code?next=/web/account");
    assert_eq!(other.get("/web/account").await.location, "/web/login/code?next=/web/account");
    let half = other.cookie.clone();
    assert_eq!(other.post("/web/login/code", &[("code", "nonsense")]).await.status, 401);
    assert_eq!(other.post("/web/login/code", &[("code", &recovery[1])]).await.status, 303);
    assert!(other.cookie != half && other.get("/web/account").await.status == 200);
    assert!(other.get("/web/two-factor").await.text.contains("8 recovery codes left"));

    let page = other.post("/web/two-factor/recovery-codes", &[("password", PASSWORD)]).await;
    let fresh = between(&page.text, "<pre>", "</pre>").lines().next().expect("a code").to_owned();
    assert_eq!(log_in(Some(recovery[2].clone())).await.0, 401, "the old ones are gone");
    assert_eq!(log_in(Some(fresh)).await.0, 201);
    assert_eq!(other.post("/web/two-factor/disable", &[("password", PASSWORD)]).await.status, 200);
    assert_eq!(log_in(None).await.0, 201);
}

#[tokio::test]
async fn wrong_codes_are_held_back_whoever_sends_them_and_an_admin_helps() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = api.signed_up(&mut mailbox, "ann@example.com").await;
    let (_, _, recovery) = enrol(&mut browser).await;
    let store = &api.node.store;
    let account = accounts::find_by_email(store, "ann@example.com").await.expect("read").expect("there");
    let now = now_ms();
    let give = async |code: &str, from: &str, at| {
        let given = api.node.logins.second_factor(store, &account, &code.into(), from, at).await;
        given.map_or_else(|error| error.status.as_u16(), |()| 200)
    };
    for from in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"] {
        assert_eq!(give("123456", from, now).await, 401);
    }
    assert_eq!(give("123456", "192.0.2.6", now).await, 429);
    assert_eq!(give(&recovery[0], "192.0.2.6", now + 999).await, 429, "right ones, too");
    assert_eq!(give("123456", "192.0.2.6", now + 1_000).await, 401);
    assert_eq!(give(&recovery[0], "192.0.2.6", now + 2_999).await, 429, "twice as long");
    assert_eq!(give(&recovery[0], "192.0.2.6", now + 3_000).await, 200);
    let body = r#"{"two_factor_authentication": false}"#;
    assert_eq!(api.send("PATCH", "/admin/accounts/ann@example.com", body).await.0, 200);
    assert_eq!(api.log_in("ann@example.com", PASSWORD, None).await.0, 201);
}

/// `POST /auth`, and the request that waits for its end.
async fn begin(api: &Api) -> (String, tokio::task::JoinHandle<(u16, Value)>) {
    let http = reqwest::Client::new();
    let body = json!({"description": "Heroku CLI login from <laptop>"});
    let (status, begun) =
        read(http.post(format!("{}/auth", api.url)).json(&body).send().await.expect("answered")).await;
    assert_eq!(status, 200);
    let text = |name: &str| begun[name].as_str().expect("text").to_owned();
    let url = format!("{}{}", api.url, text("cli_url"));
    let stranger = http.get(&url).bearer_auth("wrong").send().await.expect("answered");
    assert_eq!(stranger.status(), 404);
    let request = http.get(&url).bearer_auth(text("token"));
    let waiting = tokio::spawn(async move { read(request.send().await.expect("answered")).await });
    (text("browser_url"), waiting)
}

#[tokio::test]
async fn the_cli_is_let_in_by_a_browser_that_says_what_asks() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    api.signed_up(&mut mailbox, "ann@example.com").await;
    let (page, waiting) = begin(&api).await;
    let mut browser = Browser::new(&api.url);
    let to_login = browser.get(&page).await.location;
    assert_eq!(to_login, format!("/web/login?next={page}"));
    assert!(browser.get(&to_login).await.text.contains(&format!("value=\"{page}\"")));
    let form = [("email", "ann@example.com"), ("password", PASSWORD), ("next", page.as_str())];
    assert_eq!(browser.post("/web/login", &form).await.location, page);
    let asked = browser.get(&page).await.text;
    assert!(asked.contains("Heroku CLI login from &lt;laptop&gt;") && asked.contains("127.0.0.1"), "{asked}");
    assert!(!waiting.is_finished(), "nothing is let in before the click");
    assert_eq!(browser.post(&page, &[("answer", "yes")]).await.status, 200);
    let (status, told) = waiting.await.expect("ended");
    let client = Client::new(&api.url, told["access_token"].as_str().expect("a token"));
    let (_, account) = read(client.request(Method::GET, "/account").send().await.expect("answered")).await;
    assert_eq!((status, &account["email"]), (200, &json!("ann@example.com")));
    assert_eq!(browser.post(&page, &[("answer", "yes")]).await.status, 404, "once");

    let (page, waiting) = begin(&api).await;
    browser.get(&page).await;
    browser.post(&page, &[("answer", "no")]).await;
    assert_eq!(waiting.await.expect("ended").1, json!({"error": "You refused in the browser."}));
    let (_, waiting) = begin(&api).await;
    // Until the request has come, closing would answer nobody.
    while !api.node.cli_logins.is_waited_for() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    api.node.cli_logins.close();
    assert!(waiting.await.expect("ended").1["error"].as_str().expect("why").contains("restarted"));
}
