//! Domains, certificates, automatic certificates, features.

use super::Api;
use ferroku_store::events;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

/// A root, an intermediate it signed, and a leaf for these names; all as PEM, and the leaf's key.
pub(super) struct Chain {
    root: String,
    pub(super) intermediate: String,
    pub(super) leaf: String,
    pub(super) key: String,
}

pub(super) fn chain(names: &[&str]) -> Chain {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let key = || KeyPair::generate().expect("a key");
    let root = CertifiedIssuer::self_signed(authority("Root"), key()).expect("a root");
    let intermediate =
        CertifiedIssuer::signed_by(authority("Between"), key(), &root).expect("an intermediate");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).expect("names");
    params.distinguished_name.push(DnType::CommonName, names[0].as_str());
    let leaf_key = key();
    let leaf = params.signed_by(&leaf_key, &intermediate).expect("a leaf");
    Chain {
        root: root.pem(),
        intermediate: intermediate.pem(),
        leaf: leaf.pem(),
        key: leaf_key.serialize_pem(),
    }
}

pub(super) fn input(chain: &str, key: &str) -> String {
    json!({"certificate_chain": chain, "private_key": key}).to_string()
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn domains_are_added_found_and_removed() {
    let api = Api::start().await;
    api.client.create_app(Some("shop")).await.expect("created");
    let add = |hostname: &str| {
        let body = json!({"hostname": hostname, "sni_endpoint": null}).to_string();
        let api = &api;
        async move { api.send("POST", "/apps/shop/domains", &body).await }
    };
    let (status, www) = add("WWW.Example.com.").await;
    assert_eq!((status, &www["hostname"], &www["kind"]), (201, &json!("www.example.com"), &json!("custom")));
    assert_eq!((&www["status"], &www["sni_endpoint"]), (&json!("pending"), &Value::Null));
    let cname = www["cname"].as_str().expect("a target");
    let label = cname.strip_suffix(".localhost").expect("under the node's domain");
    let parts: Vec<&str> = label.split('-').collect();
    assert!(parts.len() == 3 && parts[2].len() == 24, "{cname}");
    let (_, other) = add("bücher.example").await;
    assert_eq!(other["hostname"], "xn--bcher-kva.example");
    assert_ne!(other["cname"], www["cname"]);
    for (bad, why) in [
        ("www.example.com", "Domain already added to this app."),
        ("10.0.0.1", "IP address"),
        ("other.localhost", "serves every app"),
        ("shop.localhost", "own name already"),
        ("http://x.example", "without scheme"),
    ] {
        let (status, answer) = add(bad).await;
        assert_eq!(status, 422, "{bad}");
        assert!(message(&answer).contains(why), "{bad}: {answer}");
    }
    api.client.create_app(Some("other")).await.expect("created");
    let body = json!({"hostname": "www.example.com", "sni_endpoint": null}).to_string();
    let (_, taken) = api.send("POST", "/apps/other/domains", &body).await;
    assert_eq!(message(&taken), "www.example.com is currently in use by another app.");

    let id = www["id"].as_str().expect("an id");
    for name in ["www.example.com", "WWW.EXAMPLE.COM", id] {
        assert_eq!(api.send("GET", &format!("/apps/shop/domains/{name}"), "").await.1["id"], id, "{name}");
    }
    assert_eq!(api.send("GET", "/apps/other/domains/www.example.com", "").await.0, 404);
    let (_, all) = api.send("GET", "/apps/shop/domains", "").await;
    assert_eq!(all.as_array().expect("a list").len(), 3);
    for method in ["DELETE", "PATCH"] {
        let (status, refused) =
            api.send(method, "/apps/shop/domains/shop.localhost", r#"{"sni_endpoint":null}"#).await;
        assert_eq!(status, 422, "{refused}");
    }
    assert_eq!(api.send("DELETE", "/apps/shop/domains/www.example.com", "").await.0, 200);
    assert_eq!(api.send("DELETE", "/apps/shop/domains/www.example.com", "").await.0, 404);
    let told = events::after(&api.node.store, 0, 100).await.expect("read");
    let told: Vec<String> = told.into_iter().filter_map(|event| event.log_message).collect();
    assert!(told.contains(&"Remove domain www.example.com".to_owned()), "{told:?}");
}

#[tokio::test]
async fn a_certificate_is_checked_ordered_and_bound() {
    let api = Api::start().await;
    api.client.create_app(Some("shop")).await.expect("created");
    for hostname in ["www.example.com", "a.b.example.com"] {
        let body = json!({"hostname": hostname, "sni_endpoint": null}).to_string();
        assert_eq!(api.send("POST", "/apps/shop/domains", &body).await.0, 201);
    }
    let good = chain(&["*.example.com", "example.com"]);
    let other = chain(&["www.example.com"]);
    let send = |chain: String, key: &str| {
        let body = input(&chain, key);
        let api = &api;
        async move { api.send("POST", "/apps/shop/sni-endpoints", &body).await }
    };
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let cases = [
        (good.leaf.clone(), encrypted, "openssl pkey -in server.key"),
        (good.leaf.clone(), "nonsense", "no private key in PEM form"),
        (good.leaf.clone(), good.leaf.as_str(), "holds a certificate, not a private key"),
        ("nonsense".to_owned(), good.key.as_str(), "no certificate in PEM form"),
        (good.leaf.replacen("MII", "MIJ", 1), good.key.as_str(), "number 1 of the file is damaged"),
        (good.leaf.clone(), other.key.as_str(), "does not belong to the certificate /CN=*.example.com"),
        (good.leaf.clone() + &other.intermediate, good.key.as_str(), "not part of the chain"),
        (good.leaf.clone() + &good.root, good.key.as_str(), "/CN=Root is not part of the chain"),
    ];
    for (chain, key, why) in cases {
        let (status, answer) = send(chain, key).await;
        assert_eq!(status, 422, "{why}: {answer}");
        assert!(message(&answer).contains(why), "{why}: {answer}");
        assert!(!answer.to_string().contains("PRIVATE KEY-----\\n"), "a key is never shown");
    }
    // In the wrong order, and one twice.
    let (status, made) =
        send(format!("{0}{1}{2}{0}", good.root, good.intermediate, good.leaf), &good.key).await;
    assert_eq!(status, 201, "{made}");
    let pem = |text: &Value| text.as_str().expect("PEM").replace(['\n', '\r'], "");
    let ordered = format!("{}{}{}", good.leaf, good.intermediate, good.root);
    assert_eq!(pem(&made["certificate_chain"]), pem(&json!(ordered)));
    let cert = &made["ssl_cert"];
    assert_eq!(cert["cert_domains"], json!(["*.example.com", "example.com"]));
    assert_eq!((&cert["subject"], &cert["issuer"]), (&json!("/CN=*.example.com"), &json!("/CN=Between")));
    assert_eq!(
        (&cert["ca_signed?"], &cert["self_signed?"], &cert["acm"]),
        (&json!(false), &json!(false), &json!(false))
    );
    let name = made["name"].as_str().expect("a name");
    let (_, www) = api.send("GET", "/apps/shop/domains/www.example.com", "").await;
    assert_eq!((&www["sni_endpoint"]["name"], &made["domains"]), (&json!(name), &json!([www["id"]])));

    let bind = json!({"sni_endpoint": name}).to_string();
    let (status, unfit) = api.send("PATCH", "/apps/shop/domains/a.b.example.com", &bind).await;
    assert_eq!(status, 422);
    assert!(message(&unfit).contains("is not for a.b.example.com"), "{unfit}");
    let (status, _) =
        api.send("PATCH", "/apps/shop/domains/www.example.com", r#"{"sni_endpoint": "none-1"}"#).await;
    assert_eq!(status, 404);
    let path = format!("/apps/shop/sni-endpoints/{name}");
    let (status, updated) =
        api.send("PATCH", &path, &input(&(other.leaf + &other.intermediate), &other.key)).await;
    assert_eq!(
        (status, &updated["ssl_cert"]["cert_domains"]),
        (200, &json!(["www.example.com"])),
        "{updated}"
    );
    assert_ne!(updated["ssl_cert"]["id"], cert["id"]);
    assert_eq!(api.send("GET", &path, "").await.1, updated);
    assert_eq!(api.send("DELETE", &path, "").await.0, 200);
    assert_eq!(api.send("GET", &path, "").await.0, 404);
    assert_eq!(
        api.send("GET", "/apps/shop/domains/www.example.com", "").await.1["sni_endpoint"],
        Value::Null
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["www.example.com".to_owned()]).expect("names");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let key = key.serialize_pem();
    let checked = crate::certificate::check(&pem, &key, 0).expect("rcgen's default lasts for ages");
    let late = crate::certificate::check(&pem, &key, checked.certificate.expires_at).err().expect("refused");
    assert!(late.to_string().starts_with("The certificate expired on "), "{late}");
}

#[tokio::test]
async fn automatic_certificates_are_off_until_the_administrator_names_an_authority() {
    let api = Api::start().await;
    api.client.create_app(Some("shop")).await.expect("created");
    let (status, answer) = api.send("POST", "/apps/shop/acm", "{}").await;
    assert_eq!(status, 422);
    assert!(message(&answer).contains("--acme-directory"), "{answer}");
    let (status, answer) = api.send("PATCH", "/apps/shop/acm", r#"{"acm_refresh": true}"#).await;
    assert_eq!(status, 422);
    assert!(message(&answer).contains("certs:auto:enable"), "{answer}");
    assert_eq!(api.send("DELETE", "/apps/shop/acm", "").await.1["acm"], false);
}

#[tokio::test]
async fn features_are_switched_by_name_or_id() {
    let api = Api::start().await;
    api.client.create_app(Some("shop")).await.expect("created");
    let (_, all) = api.send("GET", "/apps/shop/features", "").await;
    let names: Vec<&str> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|feature| feature["name"].as_str().expect("text"))
        .collect();
    let expected = [
        "http-end-to-end-http2",
        "http-redirect-to-https",
        "http-session-affinity",
        "runtime-heroku-exec",
        "sleep-when-idle",
    ];
    assert_eq!(names, expected);
    assert!(all.as_array().expect("a list").iter().all(|feature| feature["enabled"] == false));
    let id = all[2]["id"].as_str().expect("an id");
    for (path, body, enabled) in [
        ("http-session-affinity", r#"{"enabled": true}"#, true),
        (id, r#"{"enabled": 0}"#, false),
        (id, r#"{"enabled": 1}"#, true),
    ] {
        let path = format!("/apps/shop/features/{path}");
        let (status, feature) = api.send("PATCH", &path, body).await;
        assert_eq!((status, &feature["enabled"]), (200, &json!(enabled)), "{body}");
        assert_eq!(api.send("GET", &path, "").await.1, feature);
    }
    assert_eq!(api.send("PATCH", "/apps/shop/features/http-session-affinity", "{}").await.0, 422);
    assert_eq!(api.send("GET", "/apps/shop/features/preboot", "").await.0, 404);
}

#[tokio::test]
async fn metrics_are_for_the_nodes_owner() {
    let api = Api::start().await;
    api.client.create_app(Some("shop")).await.expect("created");
    let member = api.member("alice@example.com").await;
    let get = |client: &ferroku_api::Client| client.request(reqwest::Method::GET, "/metrics").send();
    let refused = get(&member).await.expect("answered");
    assert_eq!(refused.status(), 403);
    assert_eq!(reqwest::get(format!("{}/metrics", api.url)).await.expect("answered").status(), 401);
    let answer = get(&api.client).await.expect("answered");
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.expect("text");
    assert!(text.contains("\nferroku_router_connections 0\n"), "{text}");
}
