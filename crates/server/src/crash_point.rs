//! Named points at which a test may kill this process.
//!
//! A kill test starts the node with `FERROKU_CRASH_AT=NAME`; the process that reaches that point
//! then dies as by `kill -9`: nothing is flushed, no destructor runs. With `FERROKU_CRASH_ONCE=PATH`
//! it does so only if it can make that file, so that the process that replaces it lives.
//!
//! Invariant: every name that is hit is in [`NAMES`] or [`CERTIFICATE_ORDER`]; a name that is not is a bug and panics in
//! tests.

use std::sync::OnceLock;

/// The crash points that only a node with a certificate authority comes by, in the order of an order.
pub const CERTIFICATE_ORDER: &[&str] = &[
    "acm.before_ordered",
    "acm.ordered",
    "acm.challenge_set",
    "acm.validated",
    "acm.finalized",
    "acm.before_issued",
    "acm.issued",
];

/// The crash points of everyday work, named `noun.step`. Before and after each commit, rename and spawn.
pub const NAMES: &[&str] = &[
    // api
    "acm.enabled",
    "acm.disabled",
    "app.created",
    "app.updated",
    "app.before_destroy",
    "app.destroyed",
    "app_destruction.started",
    "app_destruction.dynos_gone",
    "app_destruction.builds_gone",
    "app_destruction.before_finish",
    "config_vars.before_commit",
    "config_vars.committed",
    "domain.before_create",
    "domain.created",
    "domain.updated",
    "domain.destroyed",
    "rollback.before_commit",
    "rollback.committed",
    "sni_endpoint.before_create",
    "sni_endpoint.created",
    "sni_endpoint.updated",
    "sni_endpoint.destroyed",
    // control
    "control.before_ready",
    "control.ready",
    // builds
    "build.before_create",
    "build.created",
    "build.before_spawn",
    "build.spawned",
    "slug.before_rename",
    "slug.renamed",
    "slug.archived",
    "slug_upload.before_commit",
    "slug_upload.committed",
    "garbage.expired",
    "garbage.moved",
    "garbage.removed",
    "release.before_commit",
    "release.committed",
    "buildpack_installations.before_commit",
    "buildpack_installations.committed",
    // dynos
    "dyno.adopted",
    "dyno.before_create",
    "dyno.before_end",
    "dyno.before_spawn",
    "dyno.created",
    "dyno.ended",
    "dyno.retired",
    "dyno.spawned",
    "dyno.started",
    "dyno.stopping",
    "dyno.up",
    "dynos.asked",
    "dynos.before_ask",
    "formation.before_update",
    "formation.updated",
    "one_off.before_create",
    "one_off.created",
];

struct Target {
    name: String,
    once: Option<std::path::PathBuf>,
}

/// Dies here if the environment says so.
pub fn hit(name: &str) {
    debug_assert!(
        NAMES.contains(&name) || CERTIFICATE_ORDER.contains(&name),
        "the crash point {name} is not in the lists"
    );
    static TARGET: OnceLock<Option<Target>> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FERROKU_CRASH_AT").ok().filter(|name| !name.is_empty())?;
        Some(Target { name, once: std::env::var_os("FERROKU_CRASH_ONCE").map(Into::into) })
    });
    let Some(target) = target else { return };
    if target.name != name {
        return;
    }
    if let Some(path) = &target.once
        && std::fs::OpenOptions::new().write(true).create_new(true).open(path).is_err()
    {
        return;
    }
    // A failed kill of ourselves leaves nothing better to do than to go on.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}
