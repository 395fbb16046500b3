//! What a dyno is to be: everything a driver needs to know to start one, and nothing of the host.

pub use ferroku_core::protocol::dyno::{Command, TerminalSize};
use ferroku_core::{AppId, BuildId, DynoId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A dyno to start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DynoSpec {
    pub dyno_id: DynoId,
    pub app_id: AppId,
    /// The label, such as `web.1`. Not an identity.
    pub name: String,
    /// First uid on the host of the app's range of 65,536.
    pub uid_base: u32,
    /// The tree `/app` starts out as; `None`: empty.
    pub slug_digest: Option<String>,
    pub command: Command,
    /// Where a web process is to listen. The caller also sets `PORT` in the environment.
    pub port: Option<u16>,
    pub limits: Limits,
    /// Set: stdin, stdout and stderr belong to a client instead of to the log.
    pub attach: Option<Attach>,
    /// Set: watch for a listener on `port` and tell when there is none in time.
    pub boot_timeout_ms: Option<u64>,
    pub network: NetworkPolicy,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// What `hostname` says inside.
    pub host_name: String,
}

/// What a dyno may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub memory_bytes: u64,
    /// Relative weight, as cgroup v1's `cpu.shares`.
    pub cpu_shares: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Size of the writable layer: `/app` and `/tmp` together.
    pub disk_bytes: u64,
}

/// Standard streams go to and from the caller, raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Set: on a terminal of this size. Else on pipes, stdout and stderr together.
    pub terminal: Option<TerminalSize>,
}

/// What a dyno may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// The internet, but no other dyno, not the node, no private address beyond the admin's list.
    Internet,
    /// Itself.
    None,
}

/// A folder or file of the node, seen inside the dyno. On disk it belongs to
/// [`ferroku_core::uids::SLUG_UID`]; inside to [`ferroku_core::uids::DYNO_UID`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub source: VolumeSource,
    /// Absolute path inside the dyno. Missing folders on the way to it are made.
    pub target: String,
    pub read_only: bool,
}

/// Where a volume is. The driver resolves it under its data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeSource {
    /// `builds/<id>`
    Build(BuildId),
    /// `cache/<app id>`
    Cache(AppId),
    /// A path relative to the data folder, without `..`; a folder or a file.
    Data(String),
}

/// The environment of a dyno. `Debug` shows names only, and it is not serialisable on purpose.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Environment(BTreeMap<String, String>);

// === impl Environment ===

impl Environment {
    /// Sets a variable, replacing what it was.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// The variables, by name.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl From<BTreeMap<String, String>> for Environment {
    fn from(variables: BTreeMap<String, String>) -> Self {
        Self(variables)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // Config vars are secrets; do not leave them in freed memory.
        for value in self.0.values_mut() {
            let mut bytes = std::mem::take(value).into_bytes();
            bytes.fill(0);
            std::hint::black_box(&bytes);
        }
    }
}
