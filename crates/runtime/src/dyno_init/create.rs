//! The program that turns a prepared root folder into a running container, and ends.
//!
//! A program of its own, because libcontainer and what it needs are ten times as large as the rest, and dyno-init
//! stays in memory as long as its dyno; because it is none of the dyno's business, into which dyno-init goes as pid 1;
//! and because whatever goes wrong in it ends here.

use super::external;
use super::idmap::{self, Ids};
use super::seccomp::{self, Reader};
use super::sys::{self, Context, Failure};
use crate::CORE_BYTES;
use crate::cgroup::{self, Hierarchies};
use crate::launch::LaunchPlan;
use ferroku_core::uids::{APP_UIDS, DYNO_UID};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::Spec;
use serde_json::json;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Descriptor numbers that this program is started with. Standard output and error are the pipe for its result:
/// the pid of the container's first process, or what went wrong.
pub mod descriptor {
    /// Goes on into the container: the environment comes through it.
    pub const CHANNEL: i32 = 3;
    pub const STDIN: i32 = 4;
    pub const STDOUT: i32 = 5;
    pub const STDERR: i32 = 6;
    /// Its one byte says that the root folder is there.
    pub const GO: i32 = 7;
}

/// What comes through [`descriptor::GO`].
pub(super) const GO: u8 = b'!';

/// What the OCI specification calls the limits of a dyno's processes.
pub(super) const NOFILE: &str = "RLIMIT_NOFILE";
pub(super) const CORE: &str = "RLIMIT_CORE";
/// Dynos go before control and the database when the host runs out of memory.
const OOM_SCORE_ADJUSTMENT: i32 = 500;
/// As Heroku's dynos have it.
const OPEN_FILES: u64 = 10_000;
/// Semaphores and shared memory of a database client or a browser fit; it counts as the dyno's memory.
const SHARED_MEMORY_OPTION: &str = "size=256m";
/// Terminals of a dyno. The kernel has some 3,000 for all of them together (kernel.pty.max less kernel.pty.reserve).
const TERMINALS_OPTION: &str = "max=64";

/// Creates and starts the container of the dyno whose `launch.json` is in `run_folder`; its root folder, which need not be
/// there yet, is the second argument. `alter` is for programs that only tests have, see [`super::create_altered`].
pub fn run(
    run_folder: Option<OsString>,
    root: Option<OsString>,
    alter: impl FnOnce(&Path, &mut serde_json::Value),
) -> Result<u8, Failure> {
    let [run_folder, root] = [run_folder, root].map(|argument| argument.map(PathBuf::from));
    let run_folder = run_folder.ok_or_else(|| Failure::new("dyno-create needs a run folder"))?;
    let root = root.ok_or_else(|| Failure::new("dyno-create needs a root"))?;
    let plan = LaunchPlan::read(&run_folder).context(|| "read launch.json".into())?;
    Hierarchies::detect(Path::new(cgroup::ROOT))
        .and_then(|hierarchies| hierarchies.group(&plan.cgroup).enter_unified())
        .context(|| "enter the cgroup".into())?;
    // Made here rather than by libcontainer, so that it belongs to the app; see `idmap::user_namespace`.
    let ids = Ids { inside: 0, outside: plan.spec.uid_base, count: APP_UIDS };
    let user_namespace = idmap::user_namespace(ids, plan.spec.uid_base)?;
    let user_namespace_path = format!("/proc/{}/fd/{}", std::process::id(), user_namespace.as_raw_fd());
    let mut spec = spec(&plan, &root, &user_namespace_path)?;
    alter(&run_folder, &mut spec);
    if plan.oci_runtime.is_some() {
        external::take_limits(&mut spec)?;
    }
    let spec: Spec = serde_json::from_value(spec).context(|| "OCI spec".into())?;
    spec.save(run_folder.join("config.json")).context(|| "write config.json".into())?;
    let [stdin, stdout, stderr] = [descriptor::STDIN, descriptor::STDOUT, descriptor::STDERR].map(|number| {
        // SAFETY: `supervise` started us with these open, and nothing else here owns them.
        unsafe { OwnedFd::from_raw_fd(number) }
    });
    let state = run_folder.join("oci");
    fs::create_dir_all(&state).context(|| format!("make {}", state.display()))?;
    wait_for_root()?;
    let streams = Streams { stdin, stdout, stderr };
    let pid = match &plan.oci_runtime {
        None => by_library(&plan, &run_folder, state, streams)?,
        Some(program) => external::create(program, &plan, &run_folder, &state, streams)?,
    };
    writeln!(std::io::stdout(), "{pid}").context(|| "tell the pid".into())?;
    Ok(0)
}

/// Returns once `supervise` has made the root folder. The descriptor is closed then: the container must not have it.
fn wait_for_root() -> Result<(), Failure> {
    // SAFETY: `supervise` started us with this one open, and nothing else here owns it.
    let go = unsafe { OwnedFd::from_raw_fd(descriptor::GO) };
    match sys::read(go.as_fd(), &mut [0]).context(|| "wait for the root folder".into())? {
        0 => Err(Failure::new("the root folder was not made")),
        _ => Ok(()),
    }
}

/// The standard streams of a dyno's first process.
pub(super) struct Streams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

fn by_library(
    plan: &LaunchPlan,
    run_folder: &Path,
    state: PathBuf,
    streams: Streams,
) -> Result<i32, Failure> {
    let Streams { stdin, stdout, stderr } = streams;
    let mut container = ContainerBuilder::new(plan.spec.dyno_id.to_string(), SyscallType::default())
        .with_root_path(state)
        .context(|| "state folder".into())?
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .with_preserved_fds(1)
        .as_init(run_folder)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| Failure::new(chain("create the container", &error)))?;
    container.start().map_err(|error| Failure::new(chain("start the container", &error)))?;
    let pid = container.pid().ok_or_else(|| Failure::new("the container has no process"))?;
    Ok(pid.as_raw())
}

fn chain(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// The OCI spec of a dyno. It lists no network namespace: `supervise` is in the dyno's already, and a process
/// in a new user namespace could not join one that belongs to the host's.
fn spec(plan: &LaunchPlan, root: &Path, user_namespace: &str) -> Result<serde_json::Value, Failure> {
    let limits = &plan.spec.limits;
    let ids = json!([{ "containerID": 0, "hostID": plan.spec.uid_base, "size": APP_UIDS }]);
    let reader = if plan.oci_runtime.is_some() { Reader::OciRuntime } else { Reader::Libcontainer };
    let profile = seccomp::profile(reader).context(|| "seccomp profile".into())?;
    Ok(json!({
        "ociVersion": "1.0.2",
        "hostname": plan.spec.host_name,
        "root": { "path": root, "readonly": true },
        "process": {
            "terminal": false,
            "user": { "uid": DYNO_UID, "gid": DYNO_UID, "umask": 0o022 },
            "args": [super::PROGRAM_INSIDE, "inside"],
            // libcontainer insists on a PATH; the command's environment comes through the channel.
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "cwd": "/",
            "capabilities":
                { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
            "noNewPrivileges": true,
            "oomScoreAdj": OOM_SCORE_ADJUSTMENT,
            "rlimits": rlimits()
        },
        "mounts": mounts(),
        "linux": {
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": format!("/{}", plan.cgroup),
            "namespaces": [
                { "type": "user", "path": user_namespace }, { "type": "pid" }, { "type": "mount" },
                { "type": "uts" }, { "type": "ipc" }, { "type": "cgroup" }
            ],
            "resources": {
                "memory": { "limit": limits.memory_bytes, "swap": limits.memory_bytes },
                "cpu": { "shares": limits.cpu_shares },
                "pids": { "limit": limits.pids },
                "devices": devices()
            },
            "seccomp": profile,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
                "/proc/interrupts", "/proc/diskstats", "/proc/partitions", "/proc/cmdline", "/proc/config.gz",
                "/proc/kallsyms", "/sys/firmware", "/sys/fs", "/sys/devices/virtual/powercap", "/sys/kernel",
                "/sys/block", "/sys/devices/virtual/block", "/sys/class/block", "/sys/dev/block", "/sys/bus",
                "/sys/module", "/sys/power"
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
            ]
        }
    }))
}

fn mounts() -> serde_json::Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=64k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5", TERMINALS_OPTION] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", SHARED_MEMORY_OPTION] }
    ])
}

/// Only what every program may use: null, zero, full, random, urandom, tty and pseudo terminals.
fn devices() -> serde_json::Value {
    let allow = |kind: &str, major: i64, minor: Option<i64>| {
        let mut rule = json!({ "allow": true, "type": kind, "major": major, "access": "rwm" });
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    json!([
        { "allow": false, "access": "rwm" },
        allow("c", 1, Some(3)),
        allow("c", 1, Some(5)),
        allow("c", 1, Some(7)),
        allow("c", 1, Some(8)),
        allow("c", 1, Some(9)),
        allow("c", 5, Some(0)),
        allow("c", 5, Some(2)),
        allow("c", 136, None)
    ])
}

/// Lowered only: raising a hard limit needs a capability that this host may not give us.
fn rlimits() -> serde_json::Value {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let files = OPEN_FILES.min(hard);
    let core = rustix::process::getrlimit(rustix::process::Resource::Core).maximum;
    let core = CORE_BYTES.min(core.unwrap_or(CORE_BYTES));
    json!([
        { "type": NOFILE, "soft": files, "hard": files },
        { "type": CORE, "soft": core, "hard": core }
    ])
}
