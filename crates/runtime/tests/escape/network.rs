//! The network around the node: a far side that stands for the internet and for what is near a server, and how the node's
//! packet filter and bridge lose one protection for a while.

use crate::protections::NodeRemoval;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const UPLINK: &str = "198.51.100.2";
const INTERNET: &str = "203.0.113.1";
const FORGED: &str = "203.0.113.99";
const FAR_PORT: u16 = 80;
/// One of each block that is not the internet. The route to dynos is what a machine in the same network could have.
const FAR_SIDE: &str = r#"
set -e
ip link set lo up
echo up
read -r _
ip link set far up
ip address add 198.51.100.1/24 dev far
for address in 203.0.113.1 169.254.169.254 10.77.0.1 172.20.77.1 192.168.77.1 100.64.77.1; do
    ip address add $address/32 dev lo
done
ip route add 10.208.0.0/12 via 198.51.100.2
exec python3 "$0" be_the_far_side 80
"#;

/// The far side's process, in its own network namespace.
pub struct FarSide(Child);

/// A node's own names in the network.
pub struct Names {
    table: String,
    bridge: String,
    /// The host's end of the link of the dyno that is to be reached over the bridge.
    link: String,
    rules: String,
}

// === impl FarSide ===

impl FarSide {
    /// Makes the uplink of the test's host; `attempts` is the script that has the far side's role.
    pub fn make(attempts: &Path, path: &str) -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "--", "bash", "-c", FAR_SIDE])
            .arg(attempts)
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let pid = child.id().to_string();
        run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "far", "netns", &pid]);
        run("ip", &["address", "add", &format!("{UPLINK}/24"), "dev", "uplink"]);
        run("ip", &["link", "set", "uplink", "up"]);
        run("ip", &["route", "add", "default", "via", "198.51.100.1"]);
        // Kernels with br_netfilter show the packet filter also what stays on the bridge, others do not: so here it
        // does not, and what keeps dynos apart on the bridge is seen alone.
        for family in ["iptables", "ip6tables"] {
            let _ = fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), "0");
        }
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        line.clear();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for FarSide {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// === impl Names ===

impl Names {
    /// Of the node in `data`, before its first dyno.
    pub fn read(data: &Path) -> Self {
        let identity: Value = serde_json::from_slice(&fs::read(data.join("node.json")).unwrap()).unwrap();
        let bridge = identity["bridge"].as_str().unwrap().to_owned();
        let table = format!("ferroku_{}", bridge.trim_start_matches("fk"));
        let rules = run("nft", &["list", "table", "inet", &table]);
        Self { table, bridge, link: String::new(), rules }
    }

    /// The dyno at this address is the one to be reached over the bridge.
    pub fn set_target(&mut self, address: IpAddr) {
        let IpAddr::V4(address) = address else { panic!("dynos have IPv4") };
        const ADDRESSES: u32 = 1024;
        let slot = u32::from(address) % ADDRESSES;
        self.link = format!("fv{}-{slot}", self.bridge.trim_start_matches("fk"));
    }

    pub fn know(&self, node_port: u16) -> Map<String, Value> {
        let bridge = run("ip", &["-4", "-o", "address", "show", "dev", &self.bridge]);
        let own = bridge.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
        let known = json!({
            "internet": INTERNET,
            "far_port": FAR_PORT,
            "uplink": UPLINK,
            "bridge": own,
            "node_port": node_port,
            "private": ["10.77.0.1", "172.20.77.1", "192.168.77.1", "100.64.77.1"],
            "forged": FORGED,
        });
        let Value::Object(known) = known else { unreachable!("it is written as one") };
        known
    }

    /// What the bridge has as its link-local address, or would have with IPv6. It changes with the ports.
    pub fn link_local(&self) -> String {
        let text = fs::read_to_string(format!("/sys/class/net/{}/address", self.bridge)).unwrap();
        let mac: Vec<u8> = text.trim().split(':').map(|part| u8::from_str_radix(part, 16).unwrap()).collect();
        let own = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
        let mut address = [0; 16];
        address[..2].copy_from_slice(&[0xfe, 0x80]);
        address[8..].copy_from_slice(&own);
        Ipv6Addr::from(address).to_string()
    }

    /// Takes a protection of the node away, until [`Names::restore`].
    pub fn weaken(&self, removal: NodeRemoval) {
        match removal {
            NodeRemoval::Rules(comment) => self.delete_rules(comment),
            NodeRemoval::IsolatedPorts => self.isolate(false),
            NodeRemoval::NoIpv6 => self.set_ipv6(true),
        }
    }

    /// Everything as it was.
    pub fn restore(&self) {
        self.isolate(true);
        self.set_ipv6(false);
        let text = format!("delete table inet {}\n{}", self.table, self.rules);
        let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{text}");
    }

    fn delete_rules(&self, comment: &str) {
        let listed = run("nft", &["-a", "list", "table", "inet", &self.table]);
        let mut chain = "";
        let mut deleted = 0;
        for line in listed.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("chain ") {
                chain = rest.split_whitespace().next().unwrap();
            }
            if line.contains(&format!("comment \"{comment}\"")) {
                let handle = line.rsplit("# handle ").next().unwrap();
                run("nft", &["delete", "rule", "inet", &self.table, chain, "handle", handle]);
                deleted += 1;
            }
        }
        assert!(deleted > 0, "no rule has the comment {comment:?}:\n{listed}");
    }

    fn isolate(&self, isolated: bool) {
        let word = if isolated { "on" } else { "off" };
        run("bridge", &["link", "set", "dev", &self.link, "isolated", word]);
    }

    fn set_ipv6(&self, enabled: bool) {
        let setting = |name: &str, value: &str| {
            fs::write(format!("/proc/sys/net/ipv6/conf/{}/{name}", self.bridge), value).unwrap();
        };
        // Usable at once, without asking whether somebody has the address.
        setting("accept_dad", "0");
        setting("disable_ipv6", if enabled { "0" } else { "1" });
    }

    /// The comments of all rules that drop.
    pub fn comments(&self) -> Vec<String> {
        let drops = self.rules.lines().filter(|line| line.contains(" drop"));
        let comment = |line: &str| Some(line.split_once("comment \"")?.1.split('"').next()?.to_owned());
        drops
            .map(|line| comment(line).unwrap_or_else(|| panic!("a rule without a comment: {line}")))
            .collect()
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}
