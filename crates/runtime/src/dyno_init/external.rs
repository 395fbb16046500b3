//! A container made by an OCI runtime that the administrator names, such as runc, in place of libcontainer.
//!
//! In: the same bundle that libcontainer gets, but for what [`super::seccomp::Reader`] names. Out: the pid of the
//! container's first process, which becomes dyno-init's child once the runtime has ended. Everything after that is the
//! same: dyno-init ends the dyno by its cgroup, and the runtime is not asked again.

use super::create::{CORE, NOFILE, Streams, descriptor};
use super::sys::{Context, Failure};
use crate::launch::LaunchPlan;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the runtime writes the first process's pid, in the dyno's run folder.
const PID_FILE: &str = "pid";
/// Where it says what went wrong: its own standard error is the dyno's.
const LOG_FILE: &str = "oci-runtime.log";
/// Descriptors from 3 on that the container keeps: the channel.
const KEPT: i32 = descriptor::CHANNEL - 2;

/// Takes the limits of the dyno's processes out of its spec and upon this process, whose children inherit them. A
/// runtime would set them from outside, for which root needs a capability over the app's user namespace that it may not
/// have.
pub fn take_limits(spec: &mut Value) -> Result<(), Failure> {
    let limits = spec["process"]["rlimits"].take();
    spec["process"]["rlimits"] = Value::Array(Vec::new());
    for limit in limits.as_array().into_iter().flatten() {
        let resource = match limit["type"].as_str() {
            Some(NOFILE) => Resource::Nofile,
            Some(CORE) => Resource::Core,
            other => return Err(Failure::new(format!("a limit that is not known: {other:?}"))),
        };
        let bounds = Rlimit { current: limit["soft"].as_u64(), maximum: limit["hard"].as_u64() };
        setrlimit(resource, bounds).context(|| format!("set {resource:?}"))?;
    }
    Ok(())
}

/// Has `program` create and start the container.
pub fn create(
    program: &Path,
    plan: &LaunchPlan,
    run_folder: &Path,
    state: &Path,
    streams: Streams,
) -> Result<i32, Failure> {
    let (pid_file, log) = (run_folder.join(PID_FILE), run_folder.join(LOG_FILE));
    let status = Command::new(program)
        .arg("--root")
        .arg(state)
        .arg("--log")
        .arg(&log)
        .args(["run", "--detach", "--preserve-fds", &KEPT.to_string(), "--pid-file"])
        .arg(&pid_file)
        .arg("--bundle")
        .arg(run_folder)
        .arg(plan.spec.dyno_id.to_string())
        .stdin(Stdio::from(streams.stdin))
        .stdout(Stdio::from(streams.stdout))
        .stderr(Stdio::from(streams.stderr))
        .status()
        .context(|| format!("run {}", program.display()))?;
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        return Err(Failure::new(format!("{} ended with {status}: {}", program.display(), said.trim())));
    }
    let pid = fs::read_to_string(&pid_file).context(|| format!("read {}", pid_file.display()))?;
    pid.trim().parse().map_err(|_| Failure::new(format!("{} holds no pid: {pid:?}", pid_file.display())))
}
