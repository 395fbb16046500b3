//! What makes this node's names on the host its own: `node.json` in the data folder.

use crate::{Result, RuntimeError};
use ferroku_core::DynoId;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use uuid::Uuid;

/// Names and network of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub id: Uuid,
    /// First address of the /22; the bridge has the one after it.
    pub subnet: Ipv4Addr,
}

/// Addresses for 1,021 dynos: a bridge takes 1,023 ports.
pub(crate) const PREFIX_LENGTH: u8 = 22;
const SUBNET_ADDRESSES: u32 = 1 << (32 - PREFIX_LENGTH);
/// Where to look for a free /22: 640 of them, in a part of 10/8 that is seldom used.
const FIRST_SUBNET: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 0);
const LAST_SUBNET: Ipv4Addr = Ipv4Addr::new(10, 219, 252, 0);
/// Held while a node picks its subnet and makes its bridge, so that two nodes do not pick the same.
const SUBNET_LOCK: &str = "/run/ferroku-subnet.lock";

impl Node {
    /// Reads the node's identity, or makes one; keys that others keep in the file stay.
    ///
    /// `claim` is called with the node while no other node of this machine can pick a subnet; it makes the bridge.
    ///
    /// # Errors
    /// The file cannot be read or written, or all subnets are in use.
    pub fn open(data: &Path, claim: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        let path = data.join("node.json");
        let _lock = lock_subnets()?;
        let mut fields: Map<String, Value> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(std::io::Error::other),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
            Err(error) => Err(error),
        }
        .map_err(RuntimeError::file("read", &path))?;
        let text = |fields: &Map<String, Value>, key: &str| {
            fields.get(key).and_then(Value::as_str).map(str::to_owned)
        };
        let id = text(&fields, "node_id").and_then(|id| id.parse().ok()).unwrap_or_else(Uuid::new_v4);
        let kept = text(&fields, "subnet")
            .and_then(|subnet| subnet.split('/').next().and_then(|address| address.parse().ok()));
        let subnet = pick_subnet(kept, &bridge_name(id))?;
        let node = Self { id, subnet };
        let mut changed = false;
        for (key, value) in [
            ("node_id", id.to_string()),
            ("subnet", format!("{subnet}/{PREFIX_LENGTH}")),
            ("bridge", node.bridge()),
        ] {
            changed |= fields.insert(key.to_owned(), value.clone().into()) != Some(value.into());
        }
        if changed {
            write_whole(&path, &Value::Object(fields)).map_err(RuntimeError::file("write", &path))?;
        }
        claim(&node)?;
        Ok(node)
    }

    /// Reads the identity of a node that has one.
    pub fn read(data: &Path) -> Option<Self> {
        let fields: Map<String, Value> =
            serde_json::from_slice(&fs::read(data.join("node.json")).ok()?).ok()?;
        let id = fields.get("node_id")?.as_str()?.parse().ok()?;
        let subnet = fields.get("subnet")?.as_str()?.split('/').next()?.parse().ok()?;
        Some(Self { id, subnet })
    }

    fn short_id(&self) -> String {
        self.id.simple().to_string()[..6].to_owned()
    }

    pub fn bridge(&self) -> String {
        bridge_name(self.id)
    }

    /// The bridge's own address: gateway and name server of every dyno.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet) + 1)
    }

    /// Address and name of the host's end of the veth pair of the dyno in slot `index`, from 2 on.
    pub fn slot(&self, index: u32) -> (Ipv4Addr, String) {
        (Ipv4Addr::from(u32::from(self.subnet) + index), format!("{}{index}", self.veth_prefix()))
    }

    pub fn veth_prefix(&self) -> String {
        format!("fv{}-", self.short_id())
    }

    /// Every slot of the subnet.
    pub fn slots() -> std::ops::Range<u32> {
        2..SUBNET_ADDRESSES - 1
    }

    /// The packet filter's table.
    pub fn table(&self) -> String {
        format!("ferroku_{}", self.short_id())
    }

    /// The cgroup above those of all dynos.
    pub fn cgroup(&self) -> String {
        format!("ferroku-{}", self.short_id())
    }

    /// That of one dyno.
    pub fn dyno_cgroup(&self, dyno_id: DynoId) -> String {
        format!("{}/{dyno_id}", self.cgroup())
    }
}

fn bridge_name(id: Uuid) -> String {
    format!("fk{}", &id.simple().to_string()[..6])
}

fn lock_subnets() -> Result<File> {
    let failed = |error| RuntimeError::file("lock", SUBNET_LOCK)(error);
    let file = File::options().create(true).truncate(false).write(true).open(SUBNET_LOCK).map_err(failed)?;
    // SAFETY: no memory is involved; the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } < 0 {
        return Err(RuntimeError::file("lock", SUBNET_LOCK)(std::io::Error::last_os_error()));
    }
    Ok(file)
}

fn pick_subnet(kept: Option<Ipv4Addr>, bridge: &str) -> Result<Ipv4Addr> {
    let table =
        fs::read_to_string("/proc/net/route").map_err(RuntimeError::file("read", "/proc/net/route"))?;
    let used = routes(&table, bridge);
    let subnets = (u32::from(FIRST_SUBNET)..=u32::from(LAST_SUBNET)).step_by(SUBNET_ADDRESSES as usize);
    kept.into_iter()
        .map(u32::from)
        .chain(subnets)
        .find(|subnet| !used.iter().any(|route| overlaps(*subnet, *route)))
        .map(Ipv4Addr::from)
        .ok_or_else(|| RuntimeError::Network {
            action: "pick a subnet",
            message: format!("every /22 from {FIRST_SUBNET} to {LAST_SUBNET} is routed already"),
        })
}

/// Destination and mask of every route but the default one and those over our own bridge.
fn routes(table: &str, bridge: &str) -> Vec<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be);
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let mask = number(fields.get(7)?)?;
            (fields[0] != bridge && mask != 0).then(|| Some((number(fields[1])?, mask)))?
        })
        .collect()
}

fn overlaps(subnet: u32, (destination, mask): (u32, u32)) -> bool {
    let common = mask & !(SUBNET_ADDRESSES - 1);
    subnet & common == destination & common
}

fn write_whole(path: &Path, value: &Value) -> std::io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(serde_json::to_string_pretty(value)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routed_subnet_is_not_picked() {
        // 10.210.0.0/22 on another node's bridge, 192.0.2.0/24, and the default route.
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
            fkaaaaaa\t0000D20A\t00000000\t0001\t0\t0\t0\t00FCFFFF\n\
            eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        let others = routes(table, "fkbbbbbb");
        assert_eq!(others.len(), 2);
        let first = u32::from(FIRST_SUBNET);
        assert!(others.iter().any(|route| overlaps(first, *route)));
        assert!(!others.iter().any(|route| overlaps(first + SUBNET_ADDRESSES, *route)));
        assert!(!routes(table, "fkaaaaaa").iter().any(|route| overlaps(first, *route)), "our own bridge");
        assert!(overlaps(first, (u32::from(Ipv4Addr::new(10, 0, 0, 0)), 0xff00_0000)), "10/8 covers it");
        assert!(overlaps(first, (first + 7, u32::MAX)), "one host of it");
    }
}
