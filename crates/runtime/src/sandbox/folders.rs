//! A dyno's two folders, its dyno-init's start, and the end of both.

use super::node::Node;
use crate::cgroup::Hierarchies;
use crate::dyno_init::sys;
use crate::launch::{LaunchPlan, descriptor, file};
use crate::spec::{Volume, VolumeSource};
use crate::{Result, RuntimeError};
use ferroku_core::DynoId;
use ferroku_core::uids::ROUTER_UID;
use sha2::{Digest, Sha256};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// dyno-init ends within milliseconds of being told to, unless the kernel is stuck in a kill.
const END_DEADLINE: Duration = Duration::from_secs(15);
/// dyno-init's own complaints: there when it died before it could speak.
pub(super) const COMPLAINTS: &str = "dyno-init.log";

/// Where a node keeps its dynos.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    pub data: PathBuf,
}

// === impl Folders ===

impl Folders {
    pub fn states(&self) -> PathBuf {
        self.data.join("dynos")
    }

    pub fn runs(&self) -> PathBuf {
        self.data.join("run/dynos")
    }

    pub fn state(&self, dyno_id: DynoId) -> PathBuf {
        self.states().join(dyno_id.to_string())
    }

    pub fn run(&self, dyno_id: DynoId) -> PathBuf {
        self.runs().join(dyno_id.to_string())
    }

    /// Makes the folders above those of the dynos.
    pub fn make(&self) -> Result<()> {
        for folder in [self.states(), self.runs(), self.data.join("bin")] {
            make_folder(&folder)?;
        }
        Ok(())
    }

    /// Ids of all dynos of which a folder is left.
    pub fn dynos(&self) -> Vec<DynoId> {
        let mut found: Vec<DynoId> = [self.states(), self.runs()]
            .iter()
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        found.sort();
        found.dedup();
        found
    }

    /// Where a volume is on this host.
    pub fn resolve(&self, dyno_id: DynoId, volume: &Volume) -> Result<PathBuf> {
        let bad = |message: String| RuntimeError::Spec { dyno_id, message };
        let clean = |path: &Path, root: bool| {
            let mut parts = path.components();
            (!root || parts.next() == Some(Component::RootDir))
                && path.components().skip(usize::from(root)).count() > 0
                && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if !clean(Path::new(&volume.target), true) {
            return Err(bad(format!("volume target {:?} is not an absolute path without ..", volume.target)));
        }
        let source = match &volume.source {
            VolumeSource::Build(build_id) => self.data.join("builds").join(build_id.to_string()),
            VolumeSource::Cache(app_id) => self.data.join("cache").join(app_id.to_string()),
            VolumeSource::Data(path) if clean(Path::new(path), false) => self.data.join(path),
            VolumeSource::Data(path) => {
                return Err(bad(format!("volume source {path:?} is not a relative path without ..")));
            }
        };
        if source.exists() {
            Ok(source)
        } else {
            Err(bad(format!("volume {} is not there", source.display())))
        }
    }

    /// A program of this release, under its digest, so that no upgrade pulls it away from running dynos.
    pub fn keep_program(&self, programs: &Path, name: &str) -> Result<(PathBuf, String)> {
        let source = programs.join(name);
        let bytes = fs::read(&source).map_err(RuntimeError::file("read the program", &source))?;
        let digest = hex::encode(Sha256::digest(&bytes));
        let kept = self.data.join("bin").join(format!("{name}-{}", &digest[..16]));
        if !kept.exists() {
            let temporary = kept.with_extension("new");
            let failed = |error| RuntimeError::file("write the program", &temporary)(error);
            fs::write(&temporary, &bytes).map_err(failed)?;
            fs::set_permissions(&temporary, Permissions::from_mode(0o755)).map_err(failed)?;
            fs::rename(&temporary, &kept).map_err(failed)?;
        }
        Ok((kept, digest))
    }

    /// Takes the lock of a dyno's state folder, unless its dyno-init has it.
    pub fn lock(&self, dyno_id: DynoId) -> Option<File> {
        let path = self.state(dyno_id).join(file::LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        // SAFETY: no memory is involved; the descriptor is open.
        (unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0).then_some(lock)
    }

    /// Whether the dyno's dyno-init lives.
    pub fn has_owner(&self, dyno_id: DynoId) -> bool {
        self.state(dyno_id).join(file::LOCK).exists() && self.lock(dyno_id).is_none()
    }

    /// Whether a dyno-init has ever got so far that there may be lines of its dyno.
    pub fn has_run(&self, dyno_id: DynoId) -> bool {
        self.state(dyno_id).join(file::RING).exists()
    }

    /// Waits for the dyno-init's end; kills it when it does not come.
    pub fn wait_for_end(&self, dyno_id: DynoId, pid: u32) {
        let begun = Instant::now();
        let mut killed = false;
        while self.has_owner(dyno_id) {
            if begun.elapsed() > END_DEADLINE && !killed && pid > 1 {
                // The lock is held, so the process lives, and so the pid is its own.
                sys::kill(pid as i32, libc::SIGKILL);
                killed = true;
            }
            if begun.elapsed() > END_DEADLINE * 2 {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills what is left of a dyno without dyno-init, and removes its groups and folders.
    pub fn remove(&self, node: &Node, hierarchies: &Hierarchies, dyno_id: DynoId) -> Result<()> {
        let name = node.dyno_cgroup(dyno_id);
        let group = hierarchies.group(&name);
        group.kill().map_err(RuntimeError::file("kill the processes of cgroup", &name))?;
        group.remove().map_err(RuntimeError::file("remove cgroup", &name))?;
        for folder in [self.run(dyno_id), self.state(dyno_id)] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RuntimeError::file("remove", folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes a folder that others may pass through but not list.
fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(RuntimeError::file("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o711))
        .map_err(RuntimeError::file("set the mode of", path))
}

/// Makes the dyno's folders and starts its dyno-init, which holds the lock from its first moment on.
pub(super) fn launch(
    folders: &Folders,
    plan: &LaunchPlan,
    namespace: &OwnedFd,
) -> Result<tokio::process::Child> {
    let dyno_id = plan.spec.dyno_id;
    for folder in [&plan.state_folder, &plan.run_folder] {
        make_folder(folder)?;
    }
    let lock = folders.lock(dyno_id).ok_or(RuntimeError::AlreadyRunning { dyno_id })?;
    copy_template(folders, plan)?;
    let launch = plan.run_folder.join(file::LAUNCH);
    let bytes = serde_json::to_vec(plan)
        .map_err(|error| RuntimeError::Spec { dyno_id, message: error.to_string() })?;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&launch)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(RuntimeError::file("write", &launch))?;
    let socket = plan.run_folder.join(file::SOCKET);
    let listener = listen(&socket).map_err(RuntimeError::file("listen on", &socket))?;
    let wake = plan.run_folder.join(file::WAKE);
    let door = listen(&wake).map_err(RuntimeError::file("listen on", &wake))?;
    std::os::unix::fs::chown(&wake, Some(ROUTER_UID), None)
        .map_err(RuntimeError::file("give away", &wake))?;
    let log = plan.run_folder.join(COMPLAINTS);
    let complaints = File::create(&log).map_err(RuntimeError::file("make", &log))?;
    let mut descriptors: [(RawFd, RawFd); 4] = [
        (namespace.as_raw_fd(), descriptor::NETWORK),
        (lock.as_raw_fd(), descriptor::LOCK),
        (listener.as_raw_fd(), descriptor::LISTENER),
        (door.as_raw_fd(), descriptor::WAKE),
    ];
    let mut command = std::process::Command::new(&plan.program);
    command
        .args(["supervise".as_ref(), plan.run_folder.as_os_str()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(complaints);
    // SAFETY: between fork and exec only fcntl, dup2 and setsid are called; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            sys::spawn_setup(&mut descriptors)
        });
    }
    tokio::process::Command::from(command)
        .kill_on_drop(false)
        .spawn()
        .map_err(|source| RuntimeError::DynoInit { dyno_id, action: "start it", source })
}

/// The path of a socket may have 107 bytes only; a data folder may lie deep.
pub(super) fn short_path(socket: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(socket.parent().unwrap_or(Path::new("/")))?;
    let name = socket.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((folder, short))
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    let (_folder, short) = short_path(socket)?;
    let listener = UnixListener::bind(short)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The dyno's writable layer: a sparse copy of an empty file system of its size.
fn copy_template(folders: &Folders, plan: &LaunchPlan) -> Result<()> {
    let bytes = plan.spec.limits.disk_bytes;
    let template = folders.data.join("bin").join(format!("upper-{bytes}.ext4"));
    if !template.exists() {
        make_template(&template, bytes)?;
    }
    let image = plan.state_folder.join(file::IMAGE);
    sparse_copy(&template, &image).map_err(RuntimeError::file("copy the empty file system to", &image))
}

fn make_template(template: &Path, bytes: u64) -> Result<()> {
    // Two dynos may start at once: each makes its own file, the last rename wins, both are good.
    let temporary = template.with_extension(format!("new{}", uuid::Uuid::new_v4().simple()));
    let failed = |error| RuntimeError::file("make", &temporary)(error);
    private_file(&temporary).and_then(|file| file.set_len(bytes)).map_err(failed)?;
    let output = std::process::Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-O", "^has_journal,^resize_inode"])
        .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
        .arg(&temporary)
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RuntimeError::MissingFeature {
                feature: "the program mkfs.ext4",
                remedy: "install the package e2fsprogs",
            });
        }
        Err(error) => return Err(failed(error)),
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(RuntimeError::Program { program: "mkfs.ext4".into(), message });
    }
    fs::rename(&temporary, template).map_err(RuntimeError::file("make", template))
}

/// A new file that only root reads: a dyno's disk is its app's, not that of other users of this machine.
fn private_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn sparse_copy(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, private_file(to)?);
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let seek = |offset: u64, whence| -> io::Result<Option<u64>> {
        // SAFETY: no memory is involved; the descriptor is open.
        let found = unsafe { libc::lseek(source.as_raw_fd(), offset as libc::off_t, whence) };
        match found {
            0.. => Ok(Some(found as u64)),
            _ if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => Ok(None),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let mut at = 0;
    while let Some(start) = seek(at, libc::SEEK_DATA)? {
        let end = seek(start, libc::SEEK_HOLE)?.unwrap_or(length);
        let (mut from_offset, mut to_offset) = (start as libc::off_t, start as libc::off_t);
        while (from_offset as u64) < end {
            let left = (end - from_offset as u64) as usize;
            // SAFETY: both offsets live through the call; the descriptors are open.
            let copied = unsafe {
                libc::copy_file_range(
                    source.as_raw_fd(),
                    &raw mut from_offset,
                    target.as_raw_fd(),
                    &raw mut to_offset,
                    left,
                    0,
                )
            };
            if copied <= 0 {
                return Err(io::Error::last_os_error());
            }
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_sparse_copy_has_the_same_bytes_and_as_few_blocks() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let source = File::create(&from).expect("creates");
        source.set_len(64 << 20).expect("sizes");
        source.write_all_at(b"begin", 0).expect("writes");
        source.write_all_at(b"middle", 20 << 20).expect("writes");
        sparse_copy(&from, &to).expect("copies");
        assert_eq!(fs::read(&from).expect("reads"), fs::read(&to).expect("reads"));
        assert!(fs::metadata(&to).expect("is there").blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_volume_cannot_leave_the_data_folder() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let folders = Folders { data: folder.path().join("data") };
        fs::create_dir_all(folders.data.join("a/b")).expect("makes");
        let dyno_id = DynoId(uuid::Uuid::nil());
        let volume = |source: &str, target: &str| Volume {
            source: VolumeSource::Data(source.into()),
            target: target.into(),
            read_only: true,
        };
        assert!(folders.resolve(dyno_id, &volume("a/b", "/x")).is_ok());
        for (source, target) in [
            ("../data/a", "/x"),
            ("/etc", "/x"),
            ("", "/x"),
            ("a/c", "/x"),
            ("a/b", "x"),
            ("a/b", "/"),
            ("a/b", "/x/../y"),
        ] {
            assert!(folders.resolve(dyno_id, &volume(source, target)).is_err(), "{source} {target}");
        }
    }
}
