//! Keeps what a process of the node holds in memory (keys, tokens, config vars) from reaching the disk or another user.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dump of this process and of what it starts, dynos included; and nobody but root may look into this one.
///
/// The limit alone would not do: a `core_pattern` that is a pipe (systemd-coredump, apport) is fed even if it is 0, but
/// not with a process that is not dumpable (core(5)). To be called first of all; an `exec` makes a process dumpable again.
pub fn guard() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit and giving up a privilege are always allowed.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
