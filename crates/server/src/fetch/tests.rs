//! Real servers at several addresses of 127.0.0.0/8; what is allowed of it stands for the internet.

use super::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// A server that answers every request with `answer` and counts connections.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

async fn serve(ip: [u8; 4], port: u16, answer: &str) -> Server {
    let listener = TcpListener::bind(SocketAddr::from((ip, port))).await.expect("an address of ours");
    let address = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let (counter, answer) = (connections.clone(), answer.to_owned());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut request = [0u8; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Server { address, connections }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// Only 127.0.0.2 is the internet; names have the addresses that are left, one set a lookup.
fn fetcher(answers: Vec<Vec<IpAddr>>) -> Fetcher {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answers = Arc::new(Mutex::new(answers));
    let lookup = move |_: String| -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut answers = answers.lock().expect("no panic");
        let next = if answers.is_empty() { Vec::new() } else { answers.remove(0) };
        Box::pin(async move { Ok(next) })
    };
    let allowed = vec!["127.0.0.2/32".parse().expect("a network")];
    Fetcher { allowed: allowed.into(), lookup: Arc::new(lookup) }
}

async fn fetch(fetcher: &Fetcher, url: &str) -> Result<String, FetchError> {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("file");
    let fetched = fetcher.download(&parse(url)?, &place, 1000).await?;
    let text = std::fs::read_to_string(place).expect("text");
    assert_eq!((fetched.bytes, fetched.sha256), (text.len() as u64, hex::encode(Sha256::digest(&text))));
    Ok(text)
}

const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn the_internet_is_what_is_left_of_all_addresses() {
    for (address, what) in [
        ("127.0.0.1", "the node itself (a loopback address)"),
        ("127.255.255.254", "the node itself (a loopback address)"),
        ("0.0.0.0", "the node itself (a loopback address)"),
        ("::", "the node itself (a loopback address)"),
        ("::1", "the node itself (a loopback address)"),
        ("::ffff:127.0.0.1", "the node itself (a loopback address)"),
        ("169.254.169.254", "a link-local address"),
        ("::ffff:169.254.169.254", "a link-local address"),
        ("fe80::1", "a link-local address"),
        ("10.0.0.1", "a private address"),
        ("172.16.0.1", "a private address"),
        ("172.31.255.255", "a private address"),
        ("192.168.1.1", "a private address"),
        ("100.64.0.1", "a private address"),
        ("fd00::1", "a private address"),
        ("fec0::1", "no address of the internet"),
        ("192.0.0.8", "no address of the internet"),
        ("192.0.2.1", "no address of the internet"),
        ("198.18.0.1", "no address of the internet"),
        ("224.0.0.1", "no address of the internet"),
        ("255.255.255.255", "no address of the internet"),
        ("ff02::1", "no address of the internet"),
        ("::7f00:1", "no address of the internet"),
        ("64:ff9b::7f00:1", "no address of the internet"),
        ("64:ff9b:1::1", "no address of the internet"),
        ("2001::1", "no address of the internet"),
        ("2001:db8::1", "no address of the internet"),
        ("2002:7f00:1::", "no address of the internet"),
    ] {
        let parsed: IpAddr = address.parse().expect("an address");
        assert_eq!(fetcher(vec![]).refusal(parsed), Some(what), "{address}");
    }
    for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "2606:4700::1111", "127.0.0.2"] {
        assert_eq!(fetcher(vec![]).refusal(address.parse().expect("an address")), None, "{address}");
    }
    assert!(is_own(NODE) && !is_own(IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1))));
}

#[test]
fn a_url_is_http_and_is_kept_without_its_secrets() {
    for wrong in ["", "x", "ftp://h/x", "file:///etc/passwd", "https://", "gopher://h", "//h/x"] {
        assert!(matches!(parse(wrong), Err(FetchError::Malformed)), "{wrong}");
    }
    assert!(parse(&format!("http://h/{}", "a".repeat(MAX_URL_BYTES))).is_err());
    let url = parse("https://me:secret@example.com:8443/a/b.tgz?token=secret#secret").expect("a URL");
    assert_eq!(without_secrets(&url), "https://example.com:8443/a/b.tgz");
}

#[tokio::test]
async fn only_addresses_of_the_internet_are_connected_to_however_they_are_written() {
    let server = serve([127, 0, 0, 1], 0, &ok("secret")).await;
    let port = server.address.port();
    for host in
        ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0", "[::ffff:127.0.0.1]", "[::1]"]
    {
        let refused = fetch(&fetcher(vec![]), &format!("http://{host}:{port}/")).await.expect_err(host);
        assert!(matches!(refused, FetchError::Forbidden { .. }), "{host}: {refused}");
    }
    // A name that has the node's address, and one that has it beside a good one.
    for addresses in [vec![NODE], vec![GOOD, NODE]] {
        let refused = fetch(&fetcher(vec![addresses]), &format!("http://a.example:{port}/")).await;
        let refused = refused.expect_err("refused").to_string();
        assert!(
            refused.starts_with("a.example is the node itself") && !refused.contains("127."),
            "{refused}"
        );
    }
    let unknown = fetch(&fetcher(vec![]), "http://nowhere.example/").await.expect_err("no address");
    assert_eq!(unknown.to_string(), "the name nowhere.example has no address");
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_connected_to_where_it_was_checked() {
    let good = serve([127, 0, 0, 2], 0, &ok("good")).await;
    let port = good.address.port();
    let node = serve([127, 0, 0, 1], port, &ok("secret")).await;
    // Whoever looks it up once more gets the node.
    let rebound = fetcher(vec![vec![GOOD], vec![NODE], vec![NODE]]);
    assert_eq!(fetch(&rebound, &format!("http://a.example:{port}/")).await.expect("fetched"), "good");
    assert_eq!(node.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_redirect_is_asked_everything_again() {
    let node = serve([127, 0, 0, 1], 0, &ok("secret")).await;
    let secret = format!("http://{}/", node.address);
    for (place, why) in [
        (secret.as_str(), "is the node itself"),
        ("http://169.254.169.254/latest/meta-data/", "is a link-local address"),
        ("http://10.0.0.1/", "is a private address"),
        ("file:///etc/passwd", "redirects to what is no URL"),
        ("", "redirected more than 5 times"),
        ("/again", "redirected more than 5 times"),
    ] {
        let server = serve([127, 0, 0, 2], 0, &redirect(place)).await;
        let refused = fetch(&fetcher(vec![]), &format!("http://{}/", server.address)).await;
        let refused = refused.expect_err(place).to_string();
        assert!(refused.contains(why), "{place}: {refused}");
    }
    // The same name, which by then has the node's address.
    let server = serve([127, 0, 0, 2], 0, &redirect("/other")).await;
    let rebound = fetcher(vec![vec![GOOD], vec![NODE]]);
    let url = format!("http://a.example:{}/", server.address.port());
    let refused = fetch(&rebound, &url).await.expect_err("refused");
    assert!(matches!(refused, FetchError::Forbidden { .. }), "{refused}");
    assert_eq!(node.connections.load(Ordering::SeqCst), 0);

    let target = serve([127, 0, 0, 2], 0, &ok("there")).await;
    let server = serve([127, 0, 0, 2], 0, &redirect(&format!("http://{}/x", target.address))).await;
    assert_eq!(
        fetch(&fetcher(vec![]), &format!("http://{}/", server.address)).await.expect("fetched"),
        "there"
    );
}

#[tokio::test]
async fn what_is_too_large_broken_or_refused_is_told() {
    let long = ok(&"x".repeat(1001));
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(1001));
    for (answer, why) in [
        (long.as_str(), "it is larger than 0 MB"),
        (&endless, "it is larger than 0 MB"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "cannot be reached"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answered 404 Not Found"),
        ("nonsense\r\n\r\n", "cannot be reached"),
    ] {
        let server = serve([127, 0, 0, 2], 0, answer).await;
        let url = format!("http://me:secret@{}/path?secret", server.address);
        let error = fetch(&fetcher(vec![]), &url).await.expect_err(why).to_string();
        assert!(error.contains(why) && !error.contains("secret"), "{error}");
    }
}
