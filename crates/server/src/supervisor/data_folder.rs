//! The data folder: checked, locked, and given its tmpfs.

use super::error::SupervisorError;
use ferroku_core::uids::ROUTER_UID;
use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Size limit of DIR/run: sockets, bundles and the environments of running builds; a few kB a dyno.
const RUN_TMPFS_OPTIONS: &std::ffi::CStr = c"size=64m,mode=0711";

/// A data folder that this process holds.
#[derive(Debug)]
pub struct DataFolder {
    pub path: PathBuf,
    /// Locked for as long as it is open; passes over a re-execution.
    pub lock: File,
}

impl DataFolder {
    /// Makes the folder if need be, locks it and mounts its tmpfs.
    ///
    /// # Errors
    /// It cannot be written, another server holds it, or the mount is refused.
    pub fn open(path: &Path) -> Result<Self, SupervisorError> {
        let unusable = |source| SupervisorError::DataFolder { path: path.to_path_buf(), source };
        let path = prepare(path).map_err(unusable)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(unusable)?;
        Self::with_lock(path, lock)
    }

    /// The same with a lock that this process inherited from itself.
    ///
    /// # Errors
    /// As [`DataFolder::open`].
    pub fn with_lock(path: PathBuf, mut lock: File) -> Result<Self, SupervisorError> {
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { "unknown".into() } else { holder.trim().into() };
            return Err(SupervisorError::DataFolderInUse { path, holder });
        }
        write_pid(&mut lock).map_err(|source| SupervisorError::DataFolder { path: path.clone(), source })?;
        let folder = Self { path, lock };
        folder.mount_run()?;
        Ok(folder)
    }

    /// DIR/run.
    pub fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Takes the tmpfs away, unless a dyno that outlived its node has its socket there: the next start adopts it.
    pub fn unmount_run(&self) {
        let is_used =
            fs::read_dir(self.run().join("dynos")).is_ok_and(|mut entries| entries.next().is_some());
        if !is_used {
            // Still mounted, it is found and used by the next start.
            let _ = unmount(self.run(), UnmountFlags::DETACH);
        }
    }

    fn mount_run(&self) -> Result<(), SupervisorError> {
        let run = self.run();
        let is_mounted =
            || Ok::<bool, io::Error>(fs::metadata(&run)?.dev() != fs::metadata(&self.path)?.dev());
        let mounted =
            is_mounted().map_err(|source| SupervisorError::DataFolder { path: run.clone(), source })?;
        if mounted {
            return Ok(());
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("ferroku", &run, "tmpfs", flags, RUN_TMPFS_OPTIONS)
            .map_err(|source| SupervisorError::Mount { path: run, source })
    }
}

fn prepare(path: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    // Others may pass through to what is theirs (a dyno-init, the router's folder), and see no more.
    fs::set_permissions(&path, Permissions::from_mode(0o711))?;
    fs::create_dir_all(path.join("run"))?;
    let router = path.join("router");
    fs::create_dir_all(&router)?;
    fs::set_permissions(&router, Permissions::from_mode(0o700))?;
    chown(&router, Some(ROUTER_UID), Some(ROUTER_UID))?;
    Ok(path)
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}
