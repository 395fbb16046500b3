//! The file system of a dyno, built in dyno-init's own mount namespace, so that it vanishes with the
//! last process and the host's mount table never shows it.
//!
//! | inside | is |
//! |---|---|
//! | `/usr`, `/bin`, `/lib*`, `/sbin` | the host's, read-only |
//! | `/etc` | generated, see `etc` |
//! | `/app` | overlay: the slug (idmapped, read-only) under the dyno's loop image |
//! | `/tmp`, `/var/tmp` | the dyno's loop image |
//! | `/sys` | of the dyno's network namespace, read-only |
//! | `/.ferroku/init` | this program |
//! | `/proc`, `/dev` | mounted by libcontainer |
//!
//! Everything is assembled on a tmpfs over a folder at the host's root: the dyno's root user has to reach
//! it, and cannot enter a data folder that lies in somebody's home.

use super::idmap::Ids;
use super::sys::{self, Context, Failure};
use super::{etc, idmap, loop_device};
use crate::launch::{LaunchPlan, file};
use ferroku_core::uids::{DYNO_UID, SLUG_UID};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Folders that every Linux system has at its root and no program needs while a dyno starts.
const BASES: &[&str] = &["/mnt", "/media", "/srv", "/opt"];
/// The host's folders that make up the stack.
const STACK: &[&str] = &["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Empty folders that are mounted on, or expected by programs.
const SKELETON: &[&str] = &[
    "app", "dev", "etc", "home", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var/lib", "var/log",
    ".ferroku",
];

/// Leaves the host's mount namespace, and returns the folder to assemble the file system on.
///
/// # Errors
/// The kernel refused, or the host has no such folder.
pub fn leave_host(plan: &LaunchPlan) -> Result<PathBuf, Failure> {
    // SAFETY: no memory is involved.
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWNS) }).context(|| "unshare mounts".into())?;
    // Unmounts on the host arrive here; nothing from here arrives there.
    sys::mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_SLAVE, "")
        .context(|| "make mounts private".into())?;
    base(plan)
}

/// Where [`make`] puts the root of the file system.
pub fn root(base: &Path) -> PathBuf {
    base.join("root")
}

/// Builds the file system on `base`.
///
/// # Errors
/// Names the mount that failed.
pub fn make(plan: &LaunchPlan, base: &Path) -> Result<(), Failure> {
    let quiet = libc::MS_NOSUID | libc::MS_NOEXEC;
    sys::mount("ferroku", base, "tmpfs", quiet, "mode=0711,size=1m")
        .context(|| format!("mount tmpfs on {}", base.display()))?;
    let (root, lower, upper) = (root(base), base.join("lower"), base.join("upper"));
    for folder in [&root, &lower, &upper] {
        fs::create_dir(folder).context(|| format!("make {}", folder.display()))?;
    }
    sys::mount("ferroku", &root, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755,size=4m")
        .context(|| "mount tmpfs".into())?;
    for name in SKELETON {
        fs::create_dir_all(root.join(name)).context(|| format!("make /{name}"))?;
    }
    std::os::unix::fs::symlink("/tmp", root.join("var/tmp")).context(|| "link /var/tmp".into())?;
    stack(&root)?;
    etc::make(plan, &root.join("etc"))?;
    // The mounter's network namespace decides what is seen: it is the dyno's by now.
    let harmless = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount("sysfs", &root.join("sys"), "sysfs", harmless, "").context(|| "mount /sys".into())?;
    writable(plan, base, &root, &lower, &upper)?;
    let program = root.join(".ferroku/init");
    fs::write(&program, "").context(|| "make /.ferroku/init".into())?;
    idmap::bind(&plan.program, &program, true, None)
}

fn base(plan: &LaunchPlan) -> Result<PathBuf, Failure> {
    let used = [&plan.state_folder, &plan.run_folder, &plan.program];
    BASES
        .iter()
        .map(PathBuf::from)
        .find(|base| base.is_dir() && !used.iter().any(|path| path.starts_with(base)))
        .ok_or_else(|| Failure::new("the host has none of /mnt, /media, /srv, /opt to assemble a dyno on"))
}

fn stack(root: &Path) -> Result<(), Failure> {
    for name in STACK {
        let (source, target) = (Path::new("/").join(name), root.join(name));
        let Ok(metadata) = fs::symlink_metadata(&source) else { continue };
        if metadata.is_symlink() {
            let destination = fs::read_link(&source).context(|| format!("read link {}", source.display()))?;
            std::os::unix::fs::symlink(destination, &target).context(|| format!("link /{name}"))?;
        } else {
            fs::create_dir_all(&target).context(|| format!("make /{name}"))?;
            idmap::bind(&source, &target, true, None)?;
        }
    }
    Ok(())
}

/// `/app`, `/tmp` and the volumes.
fn writable(plan: &LaunchPlan, base: &Path, root: &Path, lower: &Path, upper: &Path) -> Result<(), Failure> {
    let image = plan.state_folder.join(file::IMAGE);
    let (device, attached) = loop_device::attach(&image, base)?;
    let quiet = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOATIME;
    // noinit_itable: else the kernel fills the sparse image with zeroes in the background.
    sys::mount(&device.to_string_lossy(), upper, "ext4", quiet, "noinit_itable")
        .context(|| format!("mount {}", image.display()))?;
    drop(attached);
    let owner = plan.spec.uid_base + DYNO_UID;
    for (name, mode) in [("app", 0o755), ("work", 0o755), ("tmp", 0o1777)] {
        let path = upper.join(name);
        fs::create_dir(&path).context(|| format!("make {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(mode)).context(|| "set mode".into())?;
        sys::change_owner(&path, owner, owner).context(|| "set owner".into())?;
    }
    let ids = Ids { inside: SLUG_UID, outside: owner, count: 1 };
    let owners = idmap::user_namespace(ids, plan.spec.uid_base)?;
    if let Some(slug) = &plan.slug {
        idmap::bind(slug, lower, true, Some(&owners))?;
    }
    let layers = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.display(),
        upper.join("app").display(),
        upper.join("work").display()
    );
    let app = root.join("app");
    sys::mount("overlay", &app, "overlay", libc::MS_NOSUID | libc::MS_NODEV, &layers)
        .context(|| "mount /app".into())?;
    if plan.slug.is_some() {
        sys::unmount_detached(lower).context(|| "unmount the slug".into())?;
    }
    idmap::bind(&upper.join("tmp"), &root.join("tmp"), false, None)?;
    for volume in &plan.volumes {
        let relative = volume.target.strip_prefix("/").unwrap_or(&volume.target);
        let target = root.join(relative);
        mount_point(&volume.source, &target, owner)?;
        idmap::bind(&volume.source, &target, volume.read_only, Some(&owners))?;
    }
    // The dyno has what it needs; the whole image, with overlay's work folder, is not for it to see.
    sys::unmount_detached(upper).context(|| "unmount the loop image".into())
}

fn mount_point(source: &Path, target: &Path, owner: u32) -> Result<(), Failure> {
    let metadata = fs::metadata(source).context(|| format!("volume {}", source.display()))?;
    let folder = if metadata.is_dir() { target } else { target.parent().unwrap_or(target) };
    let mut missing = Vec::new();
    let mut at = folder;
    while !at.exists() {
        missing.push(at.to_path_buf());
        let Some(parent) = at.parent() else { break };
        at = parent;
    }
    for path in missing.iter().rev() {
        fs::create_dir(path).context(|| format!("make {}", path.display()))?;
        sys::change_owner(path, owner, owner).context(|| "set owner".into())?;
    }
    if !metadata.is_dir() && !target.exists() {
        fs::write(target, "").context(|| format!("make {}", target.display()))?;
    }
    Ok(())
}
