//! Keeps what a process of the node holds in memory (keys, tokens, config vars) from reaching the disk or another user.

use ferroku_runtime::CORE_BYTES;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// No core dump of this process and of what it starts, dynos included; and nobody but root may look into this one.
///
/// The limit is [`CORE_BYTES`]: a `core_pattern` that is a pipe (systemd-coredump, apport) is fed even if it is 0. Nor is it
/// fed with a process that is not dumpable (core(5)), but an `exec` makes a process dumpable again, and the limit stays. To
/// be called first of all.
pub fn guard() {
    let most = CORE_BYTES.min(getrlimit(Resource::Core).maximum.unwrap_or(CORE_BYTES));
    let none = Rlimit { current: Some(most), maximum: Some(most) };
    // Lowering a limit and giving up a privilege are always allowed.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
