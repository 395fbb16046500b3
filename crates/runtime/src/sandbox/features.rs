//! Does this machine have what the sandbox needs? Each answer names what is missing and what to do.

use crate::cgroup::Hierarchies;
use crate::{Result, RuntimeError};
use std::fs;
use std::path::Path;

/// Looks at everything that can be seen without trying it.
///
/// # Errors
/// [`RuntimeError::MissingFeature`] for the first thing that is missing.
pub(super) fn check(hierarchies: &Hierarchies) -> Result<()> {
    let missing = |feature, remedy| Err(RuntimeError::MissingFeature { feature, remedy });
    if !rustix::process::geteuid().is_root() {
        return missing("the rights of root", "start ferrokud as root");
    }
    let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = |name: &str| file_systems.lines().any(|line| line.split_whitespace().last() == Some(name));
    if !has("overlay") && !modprobe("overlay") {
        return missing(
            "overlay file systems",
            "run a kernel with CONFIG_OVERLAY_FS, or load its module: modprobe overlay",
        );
    }
    if !has("ext4") && !modprobe("ext4") {
        return missing("the ext4 file system", "run a kernel with CONFIG_EXT4_FS");
    }
    if !Path::new("/proc/self/ns/user").exists() {
        return missing("user namespaces", "run a kernel with CONFIG_USER_NS");
    }
    let user_namespaces = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if user_namespaces.trim() == "0" {
        return missing("user namespaces", "allow them: sysctl user.max_user_namespaces=65536");
    }
    if !Path::new("/dev/loop-control").exists() && !modprobe("loop") {
        return missing(
            "loop devices",
            "run a kernel with CONFIG_BLK_DEV_LOOP, or load its module: modprobe loop",
        );
    }
    if kernel_version() < Some((5, 19)) {
        return missing("idmapped mounts below overlay", "run Linux 5.19 or later");
    }
    match hierarchies.missing_controller() {
        Some("memory") => missing("the memory cgroup controller", "boot with cgroup_enable=memory"),
        Some("pids") => {
            missing("the pids cgroup controller", "run a kernel with CONFIG_CGROUP_PIDS, and delegate it")
        }
        Some(_) => {
            missing("the cpu cgroup controller", "run a kernel with CONFIG_CGROUP_SCHED, and delegate it")
        }
        None => Ok(()),
    }
}

/// A module that is not in the kernel may be loaded.
fn modprobe(module: &str) -> bool {
    std::process::Command::new("modprobe").arg("-q").arg(module).status().is_ok_and(|status| status.success())
}

fn kernel_version() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(['.', '-']).map(|part| part.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
