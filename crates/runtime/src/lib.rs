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

#![allow(unsafe_code, reason = "system calls that no safe library has; each with its own SAFETY comment")]

mod cgroup;
mod driver;
#[doc(hidden)]
pub mod dyno_init;
mod error;
mod exec;
mod handle;
mod launch;
mod sandbox;
#[allow(unsafe_code)]
pub mod spawn;
mod spec;

pub use cgroup::has_swap;
pub use driver::Driver;
pub use error::RuntimeError;
pub use exec::{Exec, ExecEvent, ExecInput, ExecOutput, ExecRequest, RELAY};
pub use handle::{DynoControl, DynoEvent, DynoHandle, LogStream};
pub use sandbox::{SandboxConfig, SandboxDriver, leaks};
pub use spec::{
    Attach, Command, DynoSpec, Environment, Limits, NetworkPolicy, TerminalSize, Volume, VolumeSource,
};

/// Largest core dump, in bytes, of whatever a node runs: less than a page, so that none is written, and exactly the limit at
/// which the kernel does not feed a `core_pattern` that is a pipe, either (Linux, fs/coredump.c: "RLIMIT_CORE is set to 1").
pub const CORE_BYTES: u64 = 1;

/// What the functions of this crate return.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;
