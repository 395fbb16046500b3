//! What the driver writes for a dyno-init to read: `launch.json` in the dyno's run folder. No secrets.

use crate::DynoSpec;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// A dyno's spec with everything resolved to paths and addresses of this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchPlan {
    pub spec: DynoSpec,
    pub nonce: String,
    /// SHA-256 of the dyno-init program, in hex.
    pub digest: String,
    /// The dyno-init program; pid 1 of the dyno is the same one.
    pub program: PathBuf,
    /// The program that makes the container.
    pub create_program: PathBuf,
    /// The OCI runtime that it has make the container; `None`: libcontainer, which is linked in.
    #[serde(default)]
    pub oci_runtime: Option<PathBuf>,
    /// On disk: lock, log ring, loop image, exit record.
    pub state_folder: PathBuf,
    /// In memory: this file, the socket, the bundle.
    pub run_folder: PathBuf,
    pub slug: Option<PathBuf>,
    pub volumes: Vec<ResolvedVolume>,
    /// Below the root of each hierarchy, without a slash in front.
    pub cgroup: String,
    pub network: Option<NetworkPlan>,
}

/// A volume at its place on this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ResolvedVolume {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

/// A dyno's place in the node's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkPlan {
    pub address: Ipv4Addr,
    /// The bridge: gateway and name server.
    pub gateway: Ipv4Addr,
}

/// What is known of a dyno's end: `exit.json` in its state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub status: i32,
    pub at_us: i64,
    pub oom_killed: bool,
}

/// File names in a dyno's two folders.
pub(crate) mod file {
    pub const LOCK: &str = "lock";
    pub const RING: &str = "ring";
    pub const IMAGE: &str = "upper.img";
    pub const EXIT: &str = "exit.json";
    pub const LAUNCH: &str = "launch.json";
    pub const SOCKET: &str = "sock";
    pub const WAKE: &str = "wake";
}

/// Descriptor numbers that a dyno-init is started with.
pub(crate) mod descriptor {
    /// The network namespace to enter.
    pub const NETWORK: i32 = 3;
    /// The state folder's lock, held; it is let go with the process.
    pub const LOCK: i32 = 4;
    /// The listening socket.
    pub const LISTENER: i32 = 5;
    /// The listening socket that the router wakes it by.
    pub const WAKE: i32 = 6;
}

impl LaunchPlan {
    /// Reads `launch.json`.
    pub fn read(run_folder: &Path) -> std::io::Result<Self> {
        let bytes = std::fs::read(run_folder.join(file::LAUNCH))?;
        serde_json::from_slice(&bytes).map_err(std::io::Error::other)
    }
}

impl ExitRecord {
    /// Reads `exit.json`; `None` when there is none.
    pub fn read(state_folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state_folder.join(file::EXIT)).ok()?).ok()
    }
}
