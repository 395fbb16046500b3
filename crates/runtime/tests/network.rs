//! What a dyno reaches and who reaches it. Needs root.
#![allow(clippy::unwrap_used)]

mod support;

use ferroku_core::uids::ROUTER_UID;
use ferroku_runtime::{Driver, DynoEvent, DynoHandle, DynoSpec, NetworkPolicy};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use support::*;

/// Tries a connection from a dyno: `open`, `refused` or `timeout`-like words.
fn probe(address: &str, port: u16) -> String {
    format!(
        "python3 -c 'import socket; s=socket.create_connection((\"{address}\",{port}),3); print(\"open\")' 2>&1 | tail -1"
    )
}

/// Fetches a dyno's page from the host as some user; who is expected to get it gets more time.
fn fetch_as(uid: u32, address: SocketAddr) -> bool {
    let script = format!(
        "exec 3<>/dev/tcp/{}/{}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; read -r -n 4 answer <&3; [ \"$answer\" = HTTP ]",
        address.ip(),
        address.port()
    );
    let user = uid.to_string();
    let limit_s = if uid == ROUTER_UID { "60" } else { "3" };
    Command::new("setpriv")
        .args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "timeout",
            limit_s,
            "bash",
            "-c",
            &script,
        ])
        .status()
        .unwrap()
        .success()
}

async fn serving(node: &TestNode) -> DynoHandle {
    let mut handle = node.start(web("exec python3 -m http.server 5006", 60_000)).await;
    until(&mut handle, |event| *event == DynoEvent::Bound).await;
    handle
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_router_reaches_a_dyno_and_a_dyno_reaches_no_neighbour_and_not_the_node() {
    let node = TestNode::open().await;
    let server = serving(&node).await;
    let address = server.address.unwrap();
    assert!(fetch_as(ROUTER_UID, address), "the router");
    assert!(!fetch_as(0, address), "root");
    assert!(!fetch_as(65_534, address), "somebody else");

    let (text, _) = node.run(&probe(&address.ip().to_string(), address.port())).await;
    assert!(!text.contains("open"), "another dyno: {text}");

    // A service on every address of the host, as the API is.
    let service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = service.local_addr().unwrap().port();
    let gateway = {
        let std::net::IpAddr::V4(own) = address.ip() else { panic!("IPv4") };
        Ipv4Addr::from(u32::from(own) & !1023 | 1)
    };
    let own = UdpSocket::bind("0.0.0.0:0").unwrap();
    own.connect("192.0.2.200:9").unwrap();
    for host in [gateway.to_string(), own.local_addr().unwrap().ip().to_string()] {
        let (text, _) = node.run(&probe(&host, port)).await;
        assert!(!text.contains("open"), "the node at {host}: {text}");
    }
    for private in ["169.254.169.254", "10.1.2.3", "192.168.1.1"] {
        let (text, _) = node.run(&probe(private, 53)).await;
        assert!(!text.contains("open"), "{private}: {text}");
    }
    node.driver().remove(server.dyno_id).await.unwrap();
    node.close().await;
}

/// A name server and a web server beyond the node would make this test depend on the machine's internet; so it takes
/// what the host itself can reach, and skips what it cannot.
#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_reaches_what_the_host_reaches_by_name() {
    let node = TestNode::open().await;
    let host = "pypi.org";
    let look_up =
        format!("python3 -c 'import socket; print(socket.gethostbyname(\"{host}\"))' 2>&1 | tail -1");
    let on_host = Command::new("sh").args(["-c", &look_up]).output().unwrap();
    let expected = String::from_utf8(on_host.stdout).unwrap();
    if expected.parse::<Ipv4Addr>().is_ok() || expected.trim().parse::<Ipv4Addr>().is_ok() {
        let (text, _) = node.run(&look_up).await;
        assert!(text.trim().parse::<Ipv4Addr>().is_ok(), "one of its addresses: {text}");
        let fetch = format!("curl -sS -o /dev/null -w '%{{http_code}}' https://{host}/simple/pip/");
        // The other side may fail now and then.
        let mut answers = Vec::new();
        for _ in 0..3 {
            let on_host = Command::new("sh").args(["-c", &fetch]).output().unwrap();
            let (text, _) = node.run(&fetch).await;
            answers.push((text.trim().to_owned(), String::from_utf8(on_host.stdout).unwrap()));
            if answers.last().is_some_and(|(inside, outside)| inside == outside) {
                break;
            }
        }
        assert!(answers.last().is_some_and(|(inside, outside)| inside == outside), "{answers:?}");
    }
    let (text, _) = node.run("cat /etc/resolv.conf").await;
    assert!(text.starts_with("nameserver 10.21"), "{text}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_without_network_has_loopback_only() {
    let node = TestNode::open().await;
    let line = "ls /sys/class/net; python3 -c 'import socket; s=socket.create_server((\"127.0.0.1\",0)); \
                socket.create_connection(s.getsockname()); print(\"loopback works\")'";
    let mut handle = node.start(DynoSpec { network: NetworkPolicy::None, ..spec(line) }).await;
    assert_eq!(handle.address, None);
    let (text, _) = finish(&mut handle).await;
    assert_eq!(text, "lo\nloopback works\n");
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_a_machine() {
    let (one, two) = tokio::join!(TestNode::open(), TestNode::open());
    let (server_one, server_two) = tokio::join!(serving(&one), serving(&two));
    let (address_one, address_two) = (server_one.address.unwrap(), server_two.address.unwrap());
    assert_ne!(address_one, address_two);
    assert!(fetch_as(ROUTER_UID, address_one) && fetch_as(ROUTER_UID, address_two));
    let (text, _) = one.run(&probe(&address_two.ip().to_string(), address_two.port())).await;
    assert!(!text.contains("open"), "a dyno of the other node: {text}");
    one.driver().remove(server_one.dyno_id).await.unwrap();
    one.close().await;
    assert!(fetch_as(ROUTER_UID, address_two), "the other node's end changed nothing here");
    two.driver().remove(server_two.dyno_id).await.unwrap();
    two.close().await;
}
