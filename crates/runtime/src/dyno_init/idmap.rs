//! Mounts whose files appear under other owners.

use super::sys::{self, Context, Failure};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;

/// A user namespace in which id `on_disk` stands for `shown`: the map of an idmapped mount.
///
/// # Errors
/// The kernel refused a user namespace.
pub fn user_namespace(on_disk: u32, shown: u32) -> Result<OwnedFd, Failure> {
    let (ready_read, ready_write) = sys::pipe().context(|| "pipe".into())?;
    let (hold_read, hold_write) = sys::pipe().context(|| "pipe".into())?;
    let Some(pid) = sys::fork().context(|| "fork".into())? else {
        drop((ready_read, hold_write));
        // SAFETY: no memory is involved.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0 {
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
        for map in ["uid_map", "gid_map"] {
            File::options()
                .write(true)
                .open(format!("/proc/{pid}/{map}"))
                .and_then(|mut file| file.write_all(format!("{on_disk} {shown} 1\n").as_bytes()))
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
