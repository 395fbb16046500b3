//! Dynos: starting, watching, stopping and adopting them.
//!
//! In: a [`DynoSpec`] (serialisable; no host path, no pid) and an [`Environment`].
//! Out: a [`DynoHandle`]: an address, a stream of [`DynoEvent`] and ways to act on the dyno.
//!
//! [`Driver`] is the contract; [`SandboxDriver`] fulfils it with Linux namespaces and cgroups, one
//! `dyno-init` process per dyno, which outlives this process. `tests/contract.rs` defines the
//! contract in code.
//!
//! Invariants:
//! - A dyno either has the whole sandbox or does not start.
//! - A dyno lives on when the control process dies, and dies as a whole when its `dyno-init` does.
//! - Log lines are numbered by `dyno-init`, sent until acknowledged, and a gap is counted and told.
//! - The environment never touches a disk.

mod driver;
mod error;
mod handle;
mod sandbox;
#[allow(unsafe_code)]
pub mod spawn;
mod spec;

pub use driver::Driver;
pub use error::RuntimeError;
pub use handle::{DynoControl, DynoEvent, DynoHandle, LogStream};
pub use sandbox::{SandboxConfig, SandboxDriver};
pub use spec::{
    Attach, Command, DynoSpec, Environment, Limits, NetworkPolicy, TerminalSize, Volume, VolumeSource,
};

/// What the functions of this crate return.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;
