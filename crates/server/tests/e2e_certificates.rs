//! Automatic certificates from a real ACME authority, checked by a real TLS client.

use ferroku_server::crash_point;
use ferroku_testkit::pebble::TestAuthority;
use ferroku_testkit::{NodeOptions, TestNode};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Two days, in seconds: nothing is renewed while a test runs.
const LONG: u32 = 2 * 24 * 3600;

struct Fixture {
    node: TestNode,
    authority: TestAuthority,
}

impl Fixture {
    fn start(lifetime_seconds: u32) -> Self {
        let mut authority = TestAuthority::prepare(lifetime_seconds);
        let node = TestNode::start_with(NodeOptions {
            environment: environment(&authority, &[]),
            ..NodeOptions::default()
        });
        authority.serve(node.router.port());
        node.run("heroku create shop --no-remote").succeeded();
        Self { node, authority }
    }

    fn get(&self, path: &str) -> Value {
        let output = Command::new("curl")
            .args(["-s", "--noproxy", "*", "-u", &format!(":{}", self.node.owner.api_key)])
            .arg(format!("http://{}{path}", self.node.api))
            .output()
            .expect("curl runs");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn domain(&self, hostname: &str) -> Value {
        self.get(&format!("/apps/shop/domains/{hostname}"))
    }

    /// Control may be killed between the domain's commit and its answer.
    fn add_until_answered(&self, hostname: &str) {
        let line = format!("heroku domains:add {hostname} -a shop");
        self.node.wait_for("the domain", || {
            let told = self.node.run_unchecked(&line);
            told.status == 0 || told.text.contains("already added")
        });
    }

    fn wait_for_status(&self, hostname: &str, status: &str) {
        self.node.wait_for(&format!("{hostname} to be {status:?}"), || {
            self.domain(hostname)["acm_status"] == status
        });
    }

    /// What a TLS client that trusts only the authority's root says of the router's certificate: curl's exit status.
    fn shake_hands(&self, hostname: &str, root: &Path) -> i32 {
        let port = self.node.router.port();
        let status = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "--noproxy", "*", "--cacert"])
            .arg(root)
            .args(["--resolve", &format!("{hostname}:{port}:127.0.0.1")])
            .arg(format!("https://{hostname}:{port}/"))
            .status();
        status.expect("curl runs").code().expect("not killed")
    }
}

fn environment(authority: &TestAuthority, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let root = authority.root().display().to_string();
    let directory = authority.directory_url();
    let own = [("FERROKU_ACME_DIRECTORY", directory.as_str()), ("FERROKU_ACME_ROOT", root.as_str())];
    own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_domain_that_leads_here_gets_a_certificate_and_another_its_reason() {
    let Fixture { node, authority } = Fixture::start(LONG);
    let fixture = Fixture { node, authority };
    let Fixture { node, authority } = &fixture;
    authority.lead("elsewhere.example.com", "127.0.0.9");
    for hostname in ["www.example.com", "elsewhere.example.com", "'*.example.org'"] {
        node.run(&format!("heroku domains:add {hostname} -a shop")).succeeded();
    }
    assert_ne!(fixture.shake_hands("www.example.com", &authority.root()), 0, "no certificate yet");
    node.run("heroku certs:auto:enable -a shop").succeeded();
    fixture.wait_for_status("www.example.com", "cert issued");
    fixture.wait_for_status("elsewhere.example.com", "failing");
    let root = authority.issuing_root();
    node.wait_for("the router to show the certificate", || {
        fixture.shake_hands("www.example.com", &root) == 0
    });
    assert_ne!(fixture.shake_hands("elsewhere.example.com", &root), 0);
    let shown = node.run("heroku certs:auto -a shop").succeeded().text;
    assert!(shown.contains("Automatic Certificate Management is enabled on shop"), "{shown}");
    let reason = fixture.domain("elsewhere.example.com")["acm_status_reason"].to_string();
    assert!(reason.contains("127.0.0.9") || reason.contains("refused"), "{reason}");
    let listed = node.run("heroku certs -a shop").succeeded().text;
    assert!(listed.contains("ACM") && listed.contains("www.example.com"), "{listed}");

    // Put right, and asked for again at once.
    authority.lead("elsewhere.example.com", "127.0.0.1");
    node.run("heroku certs:auto:refresh -a shop").succeeded();
    fixture.wait_for_status("elsewhere.example.com", "cert issued");

    node.run("heroku certs:auto:disable -a shop --confirm shop").succeeded();
    assert_eq!(fixture.get("/apps/shop/sni-endpoints"), Value::Array(Vec::new()));
    node.wait_for("the router to forget the certificate", || {
        fixture.shake_hands("www.example.com", &root) != 0
    });
    let Fixture { node, authority } = fixture;
    node.stop();
    drop(authority);
}

#[test]
fn a_certificate_is_renewed_before_it_expires() {
    let fixture = Fixture::start(90);
    fixture.node.run("heroku domains:add www.example.com -a shop").succeeded();
    fixture.node.run("heroku certs:auto:enable -a shop").succeeded();
    fixture.wait_for_status("www.example.com", "cert issued");
    let first = fixture.get("/apps/shop/sni-endpoints")[0].clone();
    fixture.node.wait_for("another certificate", || {
        let now = &fixture.get("/apps/shop/sni-endpoints")[0];
        now["ssl_cert"]["id"].is_string() && now["ssl_cert"]["id"] != first["ssl_cert"]["id"]
    });
    let second = fixture.get("/apps/shop/sni-endpoints")[0].clone();
    assert_eq!(second["name"], first["name"], "in the same endpoint");
    assert_ne!(second["certificate_chain"], first["certificate_chain"]);
    let renewed = second["ssl_cert"]["starts_at"].as_str().expect("a time");
    assert!(
        renewed < first["ssl_cert"]["expires_at"].as_str().expect("a time"),
        "before the first one's end"
    );
    let Fixture { node, authority } = fixture;
    node.stop();
    drop(authority);
}

#[test]
fn an_order_survives_a_kill_at_every_step() {
    let mut fixture = Fixture::start(LONG);
    fixture.node.run("heroku certs:auto:enable -a shop").succeeded();
    for (number, point) in crash_point::CERTIFICATE_ORDER.iter().enumerate() {
        let once = fixture.node.work.join(format!("killed-{number}")).display().to_string();
        let crash = [("FERROKU_CRASH_AT", *point), ("FERROKU_CRASH_ONCE", once.as_str())];
        fixture.node.stop_supervisor();
        fixture.node.set_environment(environment(&fixture.authority, &crash));
        fixture.node.start_again();
        let hostname = format!("www{number}.example.com");
        fixture.add_until_answered(&hostname);
        fixture.wait_for_status(&hostname, "cert issued");
        assert!(Path::new(&once).exists(), "{point} was not reached");
        // One managed endpoint is shown, with each domain once, whatever was done twice.
        let endpoints = fixture.get("/apps/shop/sni-endpoints");
        let names = endpoints[0]["ssl_cert"]["cert_domains"].as_array().expect("a list").clone();
        assert_eq!(
            (endpoints.as_array().map(Vec::len), names.len()),
            (Some(1), number + 1),
            "{point}: {endpoints}"
        );
        let root = fixture.authority.issuing_root();
        fixture.node.wait_for("the router to show it", || fixture.shake_hands(&hostname, &root) == 0);
    }
    let Fixture { node, authority } = fixture;
    node.stop();
    drop(authority);
}
