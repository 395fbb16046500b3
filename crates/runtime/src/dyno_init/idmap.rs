//! Mounts whose files appear under other owners.

use super::sys::{self, Context, Failure};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;

/// Ids of a user namespace: `count` from `inside` on are those from `outside` on.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// A user namespace with these ids. As the map of an idmapped mount, `inside` is the id on disk, `outside` the one shown.
///
/// It belongs to the user `owner`. What the kernel counts by user (inotify instances and watches, bytes in message
/// queues, pending signals), it counts for the users in the namespace and for its owner, against the owner's limits: a
/// namespace of root's would let one app use up what root and all other apps may have.
///
/// # Errors
/// The kernel refused a user namespace.
pub fn user_namespace(ids: Ids, owner: u32) -> Result<OwnedFd, Failure> {
    let (ready_read, ready_write) = sys::pipe().context(|| "pipe".into())?;
    let (hold_read, hold_write) = sys::pipe().context(|| "pipe".into())?;
    let Some(pid) = sys::fork().context(|| "fork".into())? else {
        drop((ready_read, hold_write));
        // Keeps the capabilities of root under another uid: some systems let nobody else make a user namespace.
        const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
        // SAFETY: no memory is involved; this process has one thread, and ends below.
        let unshared = unsafe {
            libc::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP) == 0
                && libc::setresuid(owner, owner, owner) == 0
                && libc::unshare(libc::CLONE_NEWUSER) == 0
        };
        if unshared {
            let _ = sys::write(ready_write.as_fd(), b"!");
            // Until the parent has the namespace and closes its end.
            let _ = sys::read(hold_read.as_fd(), &mut [0]);
        }
        // SAFETY: ends the child without running what the parent registered.
        unsafe { libc::_exit(0) }
    };
    drop((ready_write, hold_read));
    let result = (|| {
        let unshared = sys::read(ready_read.as_fd(), &mut [0]).is_ok_and(|count| count == 1);
        if !unshared {
            return Err(Failure::new("the kernel refused a user namespace (user.max_user_namespaces?)"));
        }
        let line = format!("{} {} {}\n", ids.inside, ids.outside, ids.count);
        for map in ["uid_map", "gid_map"] {
            File::options()
                .write(true)
                .open(format!("/proc/{pid}/{map}"))
                .and_then(|mut file| file.write_all(line.as_bytes()))
                .context(|| format!("write {map}"))?;
        }
        let namespace =
            File::open(format!("/proc/{pid}/ns/user")).context(|| "open user namespace".into())?;
        Ok(OwnedFd::from(namespace))
    })();
    drop(hold_write);
    // SAFETY: waits for the child forked above.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    result
}

/// Shows `source` at `target`, without set-uid or devices, under the owners that `owners` gives.
///
/// # Errors
/// A path is missing, or the file system of `source` takes no id map.
pub fn bind(source: &Path, target: &Path, read_only: bool, owners: Option<&OwnedFd>) -> Result<(), Failure> {
    let tree = sys::open_tree(source).context(|| format!("open {}", source.display()))?;
    let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | if read_only { MOUNT_ATTR_RDONLY } else { 0 };
    sys::mount_setattr(tree.as_fd(), attributes, owners.map(AsFd::as_fd)).context(|| {
        format!("restrict the mount of {} (an idmapped mount needs Linux 5.19 or later)", source.display())
    })?;
    sys::move_mount(tree.as_fd(), target).context(|| format!("mount on {}", target.display()))
}
