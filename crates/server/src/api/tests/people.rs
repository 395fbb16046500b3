//! Sign-up, invitation, lost passwords, changes and the end of accounts: by pages, by the API, and by real letters.

use super::letters::{Browser, Mailbox};
use super::{Api, error_of, read};
use crate::mail::MailSettings;
use crate::people::{PeopleSettings, SignUp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferroku_api::Client;
use reqwest::Method;
use serde_json::{Value, json};

pub const PASSWORD: &str = "correct horse battery";

impl Api {
    /// A node where these may sign up, with a mailbox.
    pub async fn of_people(sign_up: SignUp) -> (Self, Mailbox) {
        let mailbox = Mailbox::open().await;
        let api = Self::start_with(people(sign_up), mailbox.settings()).await;
        let node = api.node.clone();
        tokio::spawn(async move { node.mail.run().await });
        (api, mailbox)
    }

    /// An account made by its letter, and its browser.
    pub async fn signed_up(&self, mailbox: &mut Mailbox, email: &str) -> Browser {
        let mut browser = Browser::new(&self.url);
        assert_eq!(browser.post("/web/sign-up", &[("email", email)]).await.status, 200);
        let token = mailbox.next_about("Confirm your address").await.token();
        let form = [
            ("token", token.as_str()),
            ("password", PASSWORD),
            ("password_confirmation", PASSWORD),
            ("name", "Ann"),
        ];
        let seen = browser.post("/web/welcome", &form).await;
        assert_eq!((seen.status, seen.location.as_str()), (303, "/web/account"), "{}", seen.text);
        browser.get("/web/account").await;
        browser
    }

    /// What `heroku login -i` sends.
    pub async fn log_in(&self, email: &str, password: &str, code: Option<&str>) -> (u16, Value) {
        let basic = format!("Basic {}", STANDARD.encode(format!("{email}:{password}")));
        let body = json!({"description": "Heroku CLI login", "expires_in": 2_592_000, "scope": ["global"]});
        let url = format!("{}/oauth/authorizations", self.url);
        let mut request = reqwest::Client::new().post(url).header("Authorization", basic).json(&body);
        if let Some(code) = code {
            request = request.header("Heroku-Two-Factor-Code", code);
        }
        read(request.send().await.expect("answered")).await
    }

    /// A client with a token that was got by the password.
    pub async fn client_of(&self, email: &str, password: &str) -> Client {
        let (status, made) = self.log_in(email, password, None).await;
        assert_eq!(status, 201, "{made}");
        Client::new(&self.url, made["access_token"]["token"].as_str().expect("a token"))
    }
}

fn people(sign_up: SignUp) -> PeopleSettings {
    PeopleSettings { sign_up, public_url: "http://node.example:5080".to_owned() }
}

impl Api {
    /// Something was done by this account.
    async fn assert_event(&self, kind: &str, email: &str) {
        let all = ferroku_store::events::after(&self.node.store, 0, 1000).await.expect("read");
        assert!(all.iter().any(|event| event.kind == kind && event.email == email), "{all:?}");
    }
}

async fn status_of(client: &Client) -> u16 {
    client.request(Method::GET, "/account").send().await.expect("answered").status().as_u16()
}

async fn patch(client: &Client, path: &str, body: Value) -> (u16, Value) {
    read(client.request(Method::PATCH, path).json(&body).send().await.expect("answered")).await
}

#[tokio::test]
async fn somebody_signs_up_by_a_letter_whose_link_works_once() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = Browser::new(&api.url);
    let asked = browser.post("/web/sign-up", &[("email", "Ann@Example.com")]).await;
    let letter = mailbox.next().await;
    assert_eq!((letter.to.as_str(), letter.subject.as_str()), ("ann@example.com", "Confirm your address"));
    for _ in 0..2 {
        let page = browser.get(&letter.link()).await;
        assert!(page.status == 200 && page.text.contains("ann@example.com"), "looking changes nothing");
    }
    let token = letter.token();
    let bad = [("token", token.as_str()), ("password", "short"), ("password_confirmation", "short")];
    assert_eq!(browser.post("/web/welcome", &bad).await.status, 422);
    let unlike =
        [("token", token.as_str()), ("password", PASSWORD), ("password_confirmation", "another one")];
    assert_eq!(browser.post("/web/welcome", &unlike).await.status, 422);
    let good = [("token", token.as_str()), ("password", PASSWORD), ("password_confirmation", PASSWORD)];
    assert_eq!(browser.post("/web/welcome", &good).await.status, 303);
    assert!(browser.get("/web/account").await.text.contains("ann@example.com"), "logged in at once");
    assert_eq!(browser.post("/web/welcome", &good).await.status, 404, "taken");
    assert_eq!(browser.get("/web/welcome?token=nonsense").await.status, 404);
    let client = api.client_of("ANN@example.com", PASSWORD).await;
    assert!(client.apps().await.expect("listed").is_empty());

    let again = browser.post("/web/sign-up", &[("email", "ann@example.com")]).await;
    assert_eq!((again.status, again.text.to_lowercase()), (asked.status, asked.text.to_lowercase()));
    let letter = mailbox.next().await;
    assert_eq!(letter.subject, "You have an account already");
    assert!(!letter.text.contains("token="));
}

#[tokio::test]
async fn the_admin_says_who_may_have_an_account() {
    let (api, mut mailbox) = Api::of_people(SignUp::Invitation).await;
    let mut browser = Browser::new(&api.url);
    assert_eq!(browser.post("/web/sign-up", &[("email", "a@example.com")]).await.status, 403);
    let invite = |client: Client, email: &'static str| async move {
        let request = client.request(Method::POST, "/admin/invitations").json(&json!({"email": email}));
        read(request.send().await.expect("answered")).await
    };
    let (status, invitation) = invite(api.client.clone(), "Bob@example.com").await;
    assert_eq!(
        (status, &invitation["email"], &invitation["letter_file"]),
        (201, &json!("bob@example.com"), &json!(null))
    );
    let first = mailbox.next().await.token();
    invite(api.client.clone(), "bob@example.com").await;
    let letter = mailbox.next().await;
    assert!(letter.text.contains("owner@example.com invites you"), "{}", letter.text);
    let form = |token: &str| {
        vec![
            ("token", token.to_owned()),
            ("password", PASSWORD.to_owned()),
            ("password_confirmation", PASSWORD.to_owned()),
        ]
    };
    for (token, status) in [(first, 404), (letter.token(), 303)] {
        let form = form(&token);
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(browser.post("/web/welcome", &form).await.status, status, "only the newest link counts");
    }
    let bob = api.client_of("bob@example.com", PASSWORD).await;
    assert_eq!(invite(bob.clone(), "carl@example.com").await.0, 403);
    assert_eq!(invite(api.client.clone(), "bob@example.com").await.0, 422, "has one");
    let (_, all) = api.send("GET", "/admin/accounts", "").await;
    let emails: Vec<&Value> =
        all.as_array().expect("a list").iter().map(|account| &account["email"]).collect();
    assert_eq!(emails, ["bob@example.com", "owner@example.com"]);
    assert_eq!(bob.request(Method::GET, "/admin/accounts").send().await.expect("answered").status(), 403);

    let closed = Api::start_with(people(SignUp::Closed), MailSettings::default()).await;
    assert_eq!(invite(closed.client.clone(), "bob@example.com").await.0, 422);
    let by_file = Api::start_with(people(SignUp::Invitation), MailSettings::default()).await;
    let (_, invitation) = invite(by_file.client.clone(), "bob@example.com").await;
    let letter = std::fs::read_to_string(invitation["letter_file"].as_str().expect("a file")).expect("read");
    assert!(letter.contains("http://node.example:5080/web/welcome?token="), "{letter}");
}

#[tokio::test]
async fn a_lost_password_is_replaced_by_a_letter_and_ends_every_login() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = api.signed_up(&mut mailbox, "ann@example.com").await;
    let cli = api.client_of("ann@example.com", PASSWORD).await;
    let body = json!({"description": "deploys"});
    let made = cli.request(Method::POST, "/oauth/authorizations").json(&body).send().await.expect("answered");
    let (_, made) = read(made).await;
    let deploys = Client::new(&api.url, made["access_token"]["token"].as_str().expect("a token"));

    let ask = |email: &'static str| {
        let body = json!({"email": email});
        let request = reqwest::Client::new().post(format!("{}/password-resets", api.url)).json(&body);
        async move { read(request.send().await.expect("answered")).await }
    };
    let (unknown, known) = (ask("nobody@example.com").await, ask("ann@example.com").await);
    assert_eq!((unknown.0, known.0), (201, 201));
    let shape = |answer: &Value| answer.to_string().split("email").map(str::len).collect::<Vec<_>>();
    assert_eq!(shape(&unknown.1)[0], shape(&known.1)[0], "{} {}", unknown.1, known.1);
    let token = mailbox.next_about("Choose a new password").await.token();

    let finalize = |token: String, password: &'static str, again: &'static str| {
        let url = format!("{}/password-resets/{token}/actions/finalize", api.url);
        let body = json!({"password": password, "password_confirmation": again});
        async move { read(reqwest::Client::new().post(url).json(&body).send().await.expect("answered")).await }
    };
    assert_eq!(finalize(token.clone(), "another horse", "another one").await.0, 422);
    assert_eq!(finalize("nonsense".to_owned(), "another horse", "another horse").await.0, 404);
    assert_eq!(finalize(token.clone(), "another horse", "another horse").await.0, 200);
    assert_eq!(finalize(token, "a third horse", "a third horse").await.0, 404, "taken");
    api.assert_event("account.password", "ann@example.com").await;
    let notice = mailbox.next().await;
    assert_eq!(
        (notice.subject.as_str(), notice.to.as_str()),
        ("Your password was changed", "ann@example.com")
    );
    assert!(mailbox.rest().is_empty(), "nobody@example.com got nothing");

    assert_eq!(browser.get("/web/account").await.location, "/web/login?next=/web/account");
    assert_eq!((status_of(&cli).await, status_of(&deploys).await), (401, 200), "made on purpose: it goes on");
    assert_eq!(api.log_in("ann@example.com", PASSWORD, None).await.0, 401);
    assert_eq!(api.log_in("ann@example.com", "another horse", None).await.0, 201);
}

#[tokio::test]
async fn a_password_is_changed_with_the_old_one_and_other_logins_end() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = api.signed_up(&mut mailbox, "ann@example.com").await;
    let mut other = Browser::new(&api.url);
    assert_eq!(other.log_in("ann@example.com", PASSWORD).await.status, 303);
    let (one, two) =
        (api.client_of("ann@example.com", PASSWORD).await, api.client_of("ann@example.com", PASSWORD).await);
    let (status, told) = patch(&one, "/account", json!({"new_password": "another horse"})).await;
    assert!(status == 422 && told["message"].as_str().expect("text").contains("password"), "{told}");
    let change = json!({"password": "wrong", "new_password": "another horse"});
    assert_eq!(patch(&one, "/account", change).await.0, 401);
    let change = json!({"password": PASSWORD, "new_password": "ann"});
    assert_eq!(patch(&one, "/account", change).await.0, 422);
    assert_eq!(status_of(&two).await, 200, "nothing happened yet");
    let change = json!({"password": PASSWORD, "new_password": "another horse", "name": "Ann B."});
    let (status, changed) = patch(&one, "/users/~", change).await;
    assert_eq!((status, &changed["name"]), (200, &json!("Ann B.")));
    assert_eq!((status_of(&one).await, status_of(&two).await), (200, 401));
    assert_eq!(browser.get("/web/account").await.status, 303);

    browser.log_in("ann@example.com", "another horse").await;
    browser.get("/web/account").await;
    let form =
        [("password", "another horse"), ("new_password", PASSWORD), ("password_confirmation", PASSWORD)];
    assert_eq!(browser.post("/web/account/password", &form).await.status, 200);
    assert_eq!(browser.get("/web/account").await.status, 200, "the one it was changed in goes on");
    assert_eq!(status_of(&one).await, 401);
    let wrong =
        [("password", "another horse"), ("new_password", PASSWORD), ("password_confirmation", PASSWORD)];
    assert_eq!(browser.post("/web/account/password", &wrong).await.status, 401);
}

#[tokio::test]
async fn an_address_changes_once_its_letter_is_followed() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = api.signed_up(&mut mailbox, "ann@example.com").await;
    let client = api.client_of("ann@example.com", PASSWORD).await;
    let (status, told) =
        patch(&client, "/account", json!({"email": "new@example.com", "password": PASSWORD})).await;
    assert_eq!((status, &told["email"]), (200, &json!("ann@example.com")), "not yet");
    let letter = mailbox.next().await;
    assert_eq!(
        (letter.to.as_str(), letter.subject.as_str()),
        ("new@example.com", "Confirm your new address")
    );
    assert_eq!(browser.get(&letter.link()).await.status, 200);
    assert_eq!(browser.post("/web/email", &[("token", &letter.token())]).await.status, 200);
    assert_eq!(browser.post("/web/email", &[("token", &letter.token())]).await.status, 404);
    let notice = mailbox.next().await;
    assert_eq!(
        (notice.to.as_str(), notice.subject.as_str()),
        ("ann@example.com", "Your address was changed")
    );
    assert!(browser.get("/web/account").await.text.contains("new@example.com"));
    assert_eq!(api.log_in("ann@example.com", PASSWORD, None).await.0, 401);

    let taken = json!({"email": "owner@example.com", "password": PASSWORD});
    assert_eq!(patch(&client, "/account", taken).await.0, 200, "says nothing of who has an account");
    let wrong = json!({"email": "x@example.com", "password": "wrong"});
    assert_eq!(patch(&client, "/account", wrong).await.0, 401);
    assert!(mailbox.rest().is_empty());
}

#[tokio::test]
async fn forms_from_elsewhere_are_refused_and_pages_carry_strict_headers() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = api.signed_up(&mut mailbox, "ann@example.com").await;
    let page = browser.get("/web/account").await;
    for (name, part) in [
        ("content-security-policy", "default-src 'none'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert!(page.headers[name].to_str().expect("text").contains(part), "{name}");
    }
    assert!(!page.text.contains("<script") && !page.text.contains(" style="));
    let seen = browser.log_in("ann@example.com", PASSWORD).await;
    let cookie = seen.headers["set-cookie"].to_str().expect("text");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    browser.get("/web/account").await;
    let csrf = std::mem::replace(&mut browser.csrf, "0".repeat(64));
    assert_eq!(browser.post("/web/account/name", &[("name", "Eve")]).await.status, 403, "another token");
    browser.csrf = csrf.clone();
    let cookie = browser.cookie.clone().expect("logged in");
    let form = format!("name=Eve&csrf={csrf}");
    let send = |header: &'static str, value: String| {
        let request = reqwest::Client::new()
            .post(format!("{}/web/account/name", api.url))
            .header("Cookie", &cookie)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header(header, value)
            .body(form.clone());
        async move { request.send().await.expect("answered").status().as_u16() }
    };
    assert_eq!(send("Origin", "http://evil.example".to_owned()).await, 403);
    assert_eq!(send("Origin", "null".to_owned()).await, 403);
    assert_eq!(send("Sec-Fetch-Site", "same-site".to_owned()).await, 403);
    let (_, account) = read(
        api.client_of("ann@example.com", PASSWORD)
            .await
            .request(Method::GET, "/account")
            .send()
            .await
            .expect("answered"),
    )
    .await;
    assert_eq!(account["name"], "Ann", "nothing was changed");
    assert_eq!(send("Origin", api.url.clone()).await, 200);
    let evil = browser.post("/web/account/name", &[("name", "<script>\"&")]).await.text;
    assert!(evil.contains("&lt;script&gt;&quot;&amp;") && !evil.contains("<script>"), "{evil}");
}

#[tokio::test]
async fn letters_are_few_for_one_client_and_one_mailbox() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = Browser::new(&api.url);
    let mut statuses = Vec::new();
    for number in 0..31 {
        let email = if number < 8 { "one@example.com".to_owned() } else { format!("{number}@example.com") };
        statuses.push(browser.post("/web/sign-up", &[("email", &email)]).await.status);
    }
    assert_eq!(statuses.pop(), Some(429));
    assert!(statuses.iter().all(|status| *status == 200), "the same answer, letter or not");
    let mut to_one = 0;
    for _ in 0..27 {
        to_one += usize::from(mailbox.next().await.to == "one@example.com");
    }
    assert_eq!((to_one, mailbox.rest().len()), (5, 0));
}

#[tokio::test]
async fn an_account_is_suspended_let_in_again_and_deleted() {
    let (api, mut mailbox) = Api::of_people(SignUp::Open).await;
    let mut browser = api.signed_up(&mut mailbox, "ann@example.com").await;
    let client = api.client_of("ann@example.com", PASSWORD).await;
    client.create_app(Some("example")).await.expect("created");
    let change = |body: Value| {
        let client = api.client.clone();
        async move { patch(&client, "/admin/accounts/ann@example.com", body).await }
    };
    let (status, told) = change(json!({"suspended": true})).await;
    assert!(status == 200 && told["suspended_at"].is_string(), "{told}");
    let (status, id, _) = error_of(client.apps().await);
    assert_eq!((status, id.as_str()), (403, "suspended"));
    assert_eq!(api.log_in("ann@example.com", PASSWORD, None).await.1["id"], "suspended");
    assert_eq!(
        api.log_in("ann@example.com", "wrong", None).await.1["id"],
        "unauthorized",
        "only who knows it is told"
    );
    assert_eq!(browser.get("/web/account").await.status, 403);
    change(json!({"suspended": false})).await;
    assert_eq!((status_of(&client).await, browser.get("/web/account").await.status), (200, 200));
    let (status, _) = patch(&client, "/admin/accounts/owner@example.com", json!({"suspended": true})).await;
    assert_eq!(status, 403);
    assert_eq!(
        patch(&api.client, "/admin/accounts/owner@example.com", json!({"suspended": true})).await.0,
        422
    );

    let delete = |body: Value| {
        let request = client.request(Method::DELETE, "/account").json(&body);
        async move { read(request.send().await.expect("answered")).await }
    };
    assert_eq!(delete(json!({})).await.0, 422, "the password is asked for");
    assert_eq!(delete(json!({"password": "wrong"})).await.0, 401);
    let (status, told) = delete(json!({"password": PASSWORD})).await;
    assert!(status == 422 && told["message"].as_str().expect("text").contains("example"), "{told}");
    let page = browser.post("/web/account/delete", &[("password", PASSWORD)]).await;
    assert!(page.status == 422 && page.text.contains("owns example"), "{}", page.text);
    client.destroy_app("example").await.expect("destroyed");
    assert_eq!(delete(json!({"password": PASSWORD})).await.0, 200);
    api.assert_event("account.destroy", "ann@example.com").await;
    assert_eq!(status_of(&client).await, 401);
    assert_eq!(browser.get("/web/account").await.status, 303);
    assert_eq!(api.log_in("ann@example.com", PASSWORD, None).await.0, 401);
    api.signed_up(&mut mailbox, "ann@example.com").await;
    let own = json!({"password": api.owner.password.clone()});
    let answer = api.client.request(Method::DELETE, "/account").json(&own).send().await.expect("answered");
    assert_eq!(answer.status(), 422, "a node has an owner");
}

/// Pages for whoever has no session.
const OPEN: [&str; 6] = ["/", "/style.css", "/login", "/login/code", "/sign-up", "/password-reset"];

#[tokio::test]
async fn every_other_page_sends_strangers_to_the_login_and_changes_nothing() {
    let (api, _mailbox) = Api::of_people(SignUp::Open).await;
    let mut stranger = Browser::new(&api.url);
    for (method, path) in crate::pages::routes().table() {
        let path = path.replace("{login}", "x");
        let by_letter = ["/welcome", "/email", "/password-reset/finish"].contains(&path.as_str());
        let is_open = by_letter || OPEN.contains(&path.as_str());
        let url = format!("/web{}", path.trim_end_matches('/'));
        let seen = match *method {
            Method::GET => stranger.get(&format!("{url}?token=x")).await,
            _ => stranger.post(&url, &[("token", "x")]).await,
        };
        let to_login = seen.location.starts_with("/web/login?next=");
        let told = (seen.status, to_login);
        match is_open {
            _ if *method == Method::POST && path == "/login/code" => assert_eq!(told, (400, false)),
            true if by_letter && *method == Method::GET => assert_eq!(told, (404, false), "{path}"),
            true => assert!(!to_login, "{method} {path}: {told:?}"),
            false => assert_eq!(told, (303, true), "{method} {path}"),
        }
        assert!(seen.headers.contains_key("content-security-policy"), "{method} {path}");
    }
}
