//! TLS as real clients see it: curl and openssl.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};

use common::{Control, Dyno, Node, app, patient};
use ferroku_core::protocol::router::{Certificate, RouteApp, RouteTable, ToRouter};
use ferroku_router::limits::ConnectionLimits;
use ferroku_router::{Listener, Router, RouterConfig, socket};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

type Issued = (Certificate, Vec<String>);

/// A certificate authority whose certificate lies in a file for clients.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, id: &str, hosts: &[&str]) -> Issued {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(hosts.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, id);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (Certificate::new(id, certificate.pem(), key.serialize_pem()), hosts)
    }

    fn curl(&self, address: SocketAddr, arguments: &[&str], url: &str) -> Output {
        let host = url.split('/').nth(2).unwrap().split(':').next().unwrap();
        Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(self.folder.path().join("ca.pem"))
            .arg("--resolve")
            .arg(format!("{host}:{}:127.0.0.1", address.port()))
            .args(arguments)
            .arg(url.replace("PORT", &address.port().to_string()))
            .output()
            .unwrap()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn publish(node: &mut Node, apps: Vec<RouteApp>, certificates: Vec<Issued>) {
    node.control.publish_certificates(apps, &certificates);
}

/// Whether a client that asks for the host is shown this certificate.
fn is_shown(node: &Node, host: &str, (certificate, _): &Issued) -> bool {
    let line = certificate.chain_pem.lines().nth(1).unwrap();
    s_client(node.address, &["-servername", host]).contains(line)
}

fn shop(dyno: &Dyno, hosts: &[&str]) -> RouteApp {
    RouteApp {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ..app(vec![dyno.target("web.1")])
    }
}

#[test]
fn a_client_is_shown_its_hosts_certificate_and_the_app_learns_of_tls() {
    let dyno = Dyno::answering(|head, _| {
        let proto = common::header(head, "x-forwarded-proto").unwrap().to_owned();
        let port = common::header(head, "x-forwarded-port").unwrap().to_owned();
        let body = format!("{proto} {port}");
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let authority = Authority::new();
    let exact = authority.issue("exact", &["a.example.com"]);
    let wildcard = authority.issue("wildcard", &["*.example.com"]);
    let mut node = Node::start(vec![]);
    let hosts = ["a.example.com", "b.example.com", "c.test"];
    publish(&mut node, vec![shop(&dyno, &hosts)], vec![wildcard, exact]);
    for (host, version, path) in
        [("a.example.com", "1.3", "/a"), ("b.example.com", "1.2", "/b"), ("B.Example.com", "1.2", "/c")]
    {
        let arguments = ["--http1.1", "--tls-max", version];
        let output = authority.curl(node.address, &arguments, &format!("https://{host}:PORT{path}"));
        assert_eq!(text(&output), format!("https {}", node.address.port()), "{host}");
        let line = node.control.line(path);
        assert!(line.ends_with(&format!("protocol=http1.1 tls=true tls_version=tls{version}")), "{line}");
    }
    // In clear text on the same port.
    let output = authority.curl(node.address, &[], "http://a.example.com:PORT/plain");
    assert_eq!(text(&output), format!("http {}", node.address.port()));
    // A host of an app without a certificate: no handshake, rather than an untrue certificate.
    let output = authority.curl(node.address, &["-k"], "https://c.test:PORT/");
    assert_eq!(output.status.code(), Some(35), "{}", text(&output));
    // The exact one comes before the wildcard, whatever their order.
    let shown = s_client(node.address, &["-servername", "a.example.com"]);
    assert!(leaf_names(&shown).contains("DNS:a.example.com"), "{shown}");
}

fn s_client(address: SocketAddr, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    text(&output)
}

/// The names in the first certificate of a text.
fn leaf_names(shown: &str) -> String {
    let begin = shown.find("-----BEGIN CERTIFICATE-----").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leaf.pem");
    std::fs::write(&file, &shown[begin..]).unwrap();
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(&file)
        .output()
        .unwrap();
    text(&output)
}

#[test]
fn old_versions_are_refused_and_sessions_are_resumed() {
    let dyno = Dyno::saying("ok");
    let authority = Authority::new();
    let mut node = Node::start(vec![]);
    let certificate = authority.issue("c", &["a.example.com"]);
    publish(&mut node, vec![shop(&dyno, &["a.example.com"])], vec![certificate]);
    let refused =
        s_client(node.address, &["-servername", "a.example.com", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    assert!(!refused.contains("BEGIN CERTIFICATE"), "{refused}");
    for version in ["-tls1_2", "-tls1_3"] {
        let session = authority.folder.path().join("session");
        let request = "GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n";
        let say = |kept: &str| {
            let mut child = Command::new("openssl")
                .args(["s_client", "-connect", &node.address.to_string()])
                .args(["-servername", "a.example.com", "-ign_eof", version, kept])
                .arg(&session)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), request.as_bytes()).unwrap();
            text(&child.wait_with_output().unwrap())
        };
        let first = say("-sess_out");
        assert!(first.contains("\nNew, "), "{first}");
        let second = say("-sess_in");
        assert!(second.contains("\nReused, ") && second.contains("HTTP/1.1 200 OK"), "{second}");
    }
}

#[test]
fn a_new_certificate_is_shown_from_the_next_table_on_and_keys_never_reach_the_disk() {
    let dyno = Dyno::saying("ok");
    let authority = Authority::new();
    let mut node = Node::start(vec![]);
    let apps = vec![shop(&dyno, &["a.example.com"])];
    let old = authority.issue("c", &["a.example.com"]);
    publish(&mut node, apps.clone(), vec![old.clone()]);
    assert!(is_shown(&node, "a.example.com", &old));
    let new = authority.issue("c", &["a.example.com"]);
    publish(&mut node, apps.clone(), vec![new.clone()]);
    assert!(is_shown(&node, "a.example.com", &new));
    // One that is broken takes nothing else along, and not the one that it was to replace either.
    let broken = |id| {
        let newer = authority.issue(id, &["a.example.com"]);
        (Certificate { key_pem: old.0.key_pem.clone(), ..newer.0 }, newer.1)
    };
    publish(&mut node, apps.clone(), vec![broken("d"), new.clone()]);
    assert!(is_shown(&node, "a.example.com", &new));
    publish(&mut node, apps, vec![broken("c")]);
    assert_eq!(text(&authority.curl(node.address, &[], "https://a.example.com:PORT/")), "ok");
    for entry in std::fs::read_dir(node.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        assert!(!String::from_utf8_lossy(&bytes).contains("PRIVATE KEY"), "{}", path.display());
    }
    let kept = std::fs::read_to_string(node.folder.path().join("table.json")).unwrap();
    let secret = new.0.key_pem.lines().nth(1).unwrap();
    assert!(!kept.contains(secret) && !kept.contains("certificates"), "{kept}");
}

#[test]
fn what_is_shown_changes_with_a_table_only_and_what_no_table_names_is_forgotten() {
    let dyno = Dyno::saying("ok");
    let authority = Authority::new();
    let mut node = Node::start(vec![]);
    let apps = vec![shop(&dyno, &["a.example.com", "b.example.com"])];
    let table = |certificates: &[Issued]| RouteTable {
        apps: apps.clone(),
        certificates: common::shown(certificates),
        ..RouteTable::default()
    };
    let a = authority.issue("a", &["a.example.com"]);
    let b = authority.issue("b", &["b.example.com"]);
    publish(&mut node, apps.clone(), vec![a.clone(), b.clone()]);
    // A table that names what is there needs no certificate to be sent again.
    node.control.publish_table(table(&[a.clone(), b.clone()]));
    assert!(is_shown(&node, "a.example.com", &a) && is_shown(&node, "b.example.com", &b));
    // A new one waits for its table.
    let newer = authority.issue("a", &["a.example.com"]);
    node.control.say(&ToRouter::Certificate(newer.0.clone()));
    node.control.publish_table(table(&[a.clone(), b.clone()]));
    assert!(is_shown(&node, "a.example.com", &a));
    // It was not for that table, and is forgotten with it: the one before stays.
    node.control.publish_table(table(&[newer.clone(), b.clone()]));
    assert!(is_shown(&node, "a.example.com", &a));
    node.control.say(&ToRouter::Certificate(newer.0.clone()));
    node.control.publish_table(table(&[newer.clone(), b.clone()]));
    assert!(is_shown(&node, "a.example.com", &newer));
    // What a table leaves out is gone for the next one, too; the other app's is not shown instead.
    node.control.publish_table(table(&[b.clone()]));
    node.control.publish_table(table(&[newer.clone(), b.clone()]));
    let refused = s_client(node.address, &["-servername", "a.example.com"]);
    assert!(!refused.contains("BEGIN CERTIFICATE"), "{refused}");
    assert!(is_shown(&node, "b.example.com", &b));
    // What one control sent without a table is not the next one's.
    node.control.say(&ToRouter::Certificate(newer.0.clone()));
    node.control = Control::connect(&node.socket());
    node.control.publish_table(table(&[newer.clone(), b.clone()]));
    let refused = s_client(node.address, &["-servername", "a.example.com"]);
    assert!(!refused.contains("BEGIN CERTIFICATE"), "{refused}");
    // One that sends all again changes nothing but that.
    publish(&mut node, apps.clone(), vec![newer.clone(), b.clone()]);
    assert!(is_shown(&node, "a.example.com", &newer) && is_shown(&node, "b.example.com", &b));
}

#[test]
fn a_new_router_lets_tls_clients_wait_until_control_has_sent_the_keys() {
    let dyno = Dyno::saying("ok");
    let authority = Authority::new();
    let mut node = Node::start(vec![]);
    let apps = vec![shop(&dyno, &["a.example.com"])];
    let certificates = vec![authority.issue("c", &["a.example.com"])];
    publish(&mut node, apps.clone(), certificates.clone());
    let old = node.router.take().unwrap();
    old.leave();
    old.wait();
    node.router = Some(common::start_router(node.folder.path(), &node.listener, patient()));
    let address = node.address;
    let waiting =
        std::thread::spawn(move || text(&authority.curl(address, &[], "https://a.example.com:PORT/")));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!waiting.is_finished(), "without a key there is nothing to answer");
    node.control = Control::connect(&node.socket());
    publish(&mut node, apps, certificates);
    assert_eq!(waiting.join().unwrap(), "ok");
}

#[test]
fn clear_text_is_sent_to_https_when_the_app_says_so() {
    let dyno = Dyno::saying("ok");
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (plain, tls) = (bind(), bind());
    let (address, tls_address) = (plain.local_addr().unwrap(), tls.local_addr().unwrap());
    let listener = |listener| Listener { listener, public_port: None };
    let router = Router::start(RouterConfig {
        listeners: vec![listener(plain), listener(tls)],
        api_listener: Some(bind().into()),
        control: socket::bind(&folder.path().join("router.sock")).unwrap(),
        state_folder: folder.path().to_owned(),
        binary_digest: String::new(),
        workers: 2,
        trusted_uid: rustix::process::geteuid().as_raw(),
        timeouts: patient(),
        connection_limits: ConnectionLimits::default(),
        ssh_socket: None,
    })
    .unwrap();
    let mut control = Control::connect(&folder.path().join("router.sock"));
    control.publish_certificates(
        vec![RouteApp { https_redirect: true, ..shop(&dyno, &["a.example.com"]) }],
        &[authority.issue("c", &["a.example.com"])],
    );
    let port = tls_address.port();
    for (method, status) in [("GET", 301), ("POST", 308), ("DELETE", 308)] {
        let format = "%{http_code} %{redirect_url}";
        let arguments = ["-X", method, "-o", "/dev/null", "-w", format];
        let output = authority.curl(address, &arguments, &format!("http://a.example.com:PORT/{method}?x=1"));
        assert_eq!(text(&output), format!("{status} https://a.example.com:{port}/{method}?x=1"));
        let line = control.line(&format!("/{method}?x=1"));
        assert!(
            line.starts_with("at=info ")
                && line.contains(&format!("dyno= connect= service= status={status} ")),
            "{line}"
        );
    }
    assert_eq!(text(&authority.curl(tls_address, &[], "https://a.example.com:PORT/")), "ok");
    // The one who takes the listeners gets all three.
    let taken = ferroku_router::handback::take_listeners(&folder.path().join("router.sock")).unwrap();
    let taken = TcpListener::from(taken.router_tls.unwrap());
    assert_eq!(taken.local_addr().unwrap(), tls_address);
    router.leave();
    router.wait();
}

#[test]
fn challenges_are_answered_on_any_host_before_anything_else() {
    let dyno = Dyno::saying("the app");
    let mut node = Node::start(vec![]);
    node.control.publish_table(RouteTable {
        apps: vec![RouteApp { https_redirect: true, maintenance: true, ..app(vec![dyno.target("web.1")]) }],
        acme_challenges: [("token-1".to_owned(), "token-1.thumbprint".to_owned())].into(),
        ..RouteTable::default()
    });
    for host in ["shop.localhost", "not-yet-known.example.com"] {
        let request = format!(
            "GET /.well-known/acme-challenge/token-1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        let answer = node.send(&request);
        assert_eq!((answer.status, answer.body.as_str()), (200, "token-1.thumbprint"), "{host}");
    }
    assert_eq!(node.get("/.well-known/acme-challenge/token-2").status, 301);
    assert_eq!(node.control.line("/.well-known/acme-challenge/token-2").matches("status=301").count(), 1);
    // What the router is no longer told, it no longer answers.
    node.control
        .publish_table(RouteTable { apps: vec![app(vec![dyno.target("web.1")])], ..RouteTable::default() });
    assert_eq!(node.get("/.well-known/acme-challenge/token-1").body, "the app");
}

#[test]
fn a_connection_made_for_one_certificate_carries_no_request_for_another() {
    let dyno = Dyno::saying("ok");
    let authority = Authority::new();
    let mut node = Node::start(vec![]);
    let shared = authority.issue("shared", &["a.example.com", "b.example.com"]);
    let other = authority.issue("other", &["c.example.com"]);
    let hosts = ["a.example.com", "b.example.com", "c.example.com"];
    publish(&mut node, vec![shop(&dyno, &hosts)], vec![shared, other]);
    for (host, status) in [("A.example.com:1", "200"), ("b.example.com", "200"), ("c.example.com", "421")] {
        let header = format!("Host: {host}");
        let arguments = ["-H", &header, "-o", "/dev/null", "-w", "%{http_code}"];
        let output =
            authority.curl(node.address, &arguments, &format!("https://a.example.com:PORT/{status}{host}"));
        assert_eq!(text(&output), status, "{host}");
    }
    let line = node.control.line("/421c.example.com");
    assert!(line.starts_with("at=error code=H32 desc=\"TLS Certificate Mismatch\" "), "{line}");
}
