//! The generated `/etc` of a dyno: little, and nothing of the host's people, names or secrets.

use super::idmap;
use super::sys::{Context, Failure};
use crate::launch::LaunchPlan;
use crate::spec::VolumeSource;
use ferroku_core::uids::DYNO_UID;
use std::fs;
use std::path::Path;

/// What the programs in `/usr` expect in `/etc`, shown read-only where the host has it.
const FROM_HOST: &[&str] = &[
    "alternatives", // what half of Debian's /usr/bin links to
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "gai.conf",
    "ImageMagick-6",
    "java-17-openjdk",
    "ld.so.cache", // without it the linker walks every folder
    "ld.so.conf",
    "ld.so.conf.d",
    "mime.types",
    "perl",
    "protocols",
    "python3",
    "python3.11",
    "python3.12",
    "python3.13",
    "services",
    "ssl/certs", // the node's CA bundle; never ssl/private
    "ssl/openssl.cnf",
    "terminfo",
];

/// Settings of package managers, which a build needs behind a company's network; running apps do not see them.
const FOR_BUILDS: &[&str] = &["npmrc", "pip.conf"];

/// Writes and mounts everything below `etc`, an empty writable folder.
///
/// # Errors
/// A file could not be written.
pub fn make(plan: &LaunchPlan, etc: &Path) -> Result<(), Failure> {
    for (name, content) in files(plan) {
        fs::write(etc.join(name), content).context(|| format!("write /etc/{name}"))?;
    }
    let is_build = plan.spec.volumes.iter().any(is_build_volume);
    let shown = FROM_HOST.iter().chain(FOR_BUILDS.iter().filter(|_| is_build));
    for name in shown {
        let (source, target) = (Path::new("/etc").join(name), etc.join(name));
        let Ok(metadata) = fs::metadata(&source) else { continue };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).context(|| format!("make {}", parent.display()))?;
        }
        if metadata.is_dir() { fs::create_dir_all(&target) } else { fs::write(&target, "") }
            .context(|| format!("make {}", target.display()))?;
        idmap::bind(&source, &target, true, None)?;
    }
    std::os::unix::fs::symlink("/proc/mounts", etc.join("mtab")).context(|| "link /etc/mtab".into())?;
    std::os::unix::fs::symlink("/usr/lib/os-release", etc.join("os-release"))
        .context(|| "link /etc/os-release".into())?;
    std::os::unix::fs::symlink("/usr/share/zoneinfo/Etc/UTC", etc.join("localtime"))
        .context(|| "link /etc/localtime".into())
}

fn is_build_volume(volume: &crate::Volume) -> bool {
    match &volume.source {
        VolumeSource::Build(_) => true,
        VolumeSource::Data(path) => path.starts_with("builds/"),
        VolumeSource::Cache(_) => false,
    }
}

fn files(plan: &LaunchPlan) -> [(&'static str, String); 8] {
    let name = &plan.spec.host_name;
    let (hosts, resolver) = match plan.network {
        Some(network) => (
            format!("{} {name}\n", network.address),
            format!("nameserver {}\noptions edns0\n", network.gateway),
        ),
        None => (String::new(), String::new()),
    };
    [
        (
            "passwd",
            format!(
                "root:x:0:0:root:/root:/usr/sbin/nologin\n\
                 dyno:x:{DYNO_UID}:{DYNO_UID}:dyno:/app:/bin/bash\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("group", format!("root:x:0:\ntty:x:5:\ndyno:x:{DYNO_UID}:\nnogroup:x:65534:\n")),
        ("hosts", format!("127.0.0.1 localhost\n::1 localhost\n{hosts}")),
        ("hostname", format!("{name}\n")),
        ("resolv.conf", resolver),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n".into()),
        ("timezone", "Etc/UTC\n".into()),
        (
            "bash.bashrc",
            "PS1='\\[\\033[01;34m\\]\\w\\[\\033[00m\\] \\[\\033[01;32m\\]$ \\[\\033[00m\\]'\n".into(),
        ),
    ]
}
