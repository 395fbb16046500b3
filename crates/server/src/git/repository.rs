//! The bare repositories, `DIR/repos/<app-id>.git`, and how git is run on them.
//!
//! Everything git does happens as [`GIT_UID`], a user that owns the repositories and nothing else, without new
//! privileges, without the host's git configuration and under resource limits. Our own settings are in one file that
//! git reads as its global configuration; the hook is the same for all repositories.
//!
//! Invariants:
//! - The control process, which is root, never runs git itself and never opens a file of a repository for writing.
//! - A repository exists whole or not at all: it is made beside its place and renamed.

use ferroku_core::AppId;
use ferroku_core::uids::GIT_UID;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use thiserror::Error;

/// Largest pack a push may send, in bytes; Heroku's limit for a checkout is the same.
pub const MAX_PACK_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest file git may write, in bytes: a pack at its limit and a repack of several of them.
const MAX_FILE_BYTES: u64 = 8 * MAX_PACK_BYTES;
/// Address space of one git process, in bytes: it maps packs.
const MAX_ADDRESS_BYTES: u64 = 16 * MAX_PACK_BYTES;
/// Processor time of one git process, in seconds: resolving the deltas of the largest pack takes a few minutes.
const MAX_PROCESSOR_SECONDS: u32 = 900;
/// Processes of the git user on the whole node: some 20 pushes and fetches at once.
const MAX_PROCESSES: u32 = 512;
/// Open files of one git process.
const MAX_OPEN_FILES: u32 = 1024;

/// How long packing one repository may take: the largest pack takes a few minutes of a core.
const PACKING_TIME: Duration = Duration::from_secs(900);

/// When a repository is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// When git finds that there are many objects or packs.
    WhenMany,
    /// In any case, without what nothing has referred to for a day: a push may be about to refer to what is newer.
    Now,
}

/// git's settings. Objects are checked as they come in; the three exceptions are flaws that well-known old
/// repositories have and that harm nobody (GitLab's server makes the same ones).
const GIT_CONFIG: &str = "\
[core]
\thooksPath = HOOKS
\tlogAllRefUpdates = false
\tfsync = all
[safe]
\tdirectory = *
[init]
\tdefaultBranch = main
[http]
\treceivepack = true
\tuploadpack = true
\tgetanyfile = false
[receive]
\tfsckObjects = true
\tmaxInputSize = 1073741824
\tdenyDeleteCurrent = ignore
\tdenyNonFastForwards = false
\tshallowUpdate = true
\tautogc = false
\tadvertisePushOptions = false
\tkeepAlive = 5
[receive \"fsck\"]
\tbadTimezone = ignore
\tmissingSpaceBeforeDate = ignore
\tzeroPaddedFilemode = ignore
[transfer]
\tcredentialsInUrl = allow
[uploadpack]
\tallowFilter = true
[pack]
\tthreads = 2
\twindowMemory = 256m
[repack]
\tupdateServerInfo = false
[gc]
\tautoDetach = false
\tautoPackLimit = 20
";

/// Attributes above any that the pushed tree has: `git archive` must give the whole tree, as a checkout would.
const ATTRIBUTES: &str = "* -export-ignore -export-subst\n";

/// A step with the repositories failed.
#[derive(Debug, Error)]
pub enum GitError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot run {program}: is the package {package} installed?")]
    Spawn { program: &'static str, package: &'static str, source: std::io::Error },
    #[error(
        "cannot make the repository {}: git init ended with {status}: {output}; the user {GIT_UID} must be able to \
         pass through every folder above it (mode 0711 is enough)",
        path.display()
    )]
    Init { path: PathBuf, status: std::process::ExitStatus, output: String },
    #[error("cannot pack {}: {why}", path.display())]
    Pack { path: PathBuf, why: String },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> GitError {
    let path = path.to_owned();
    move |source| GitError::Io { action, path, source }
}

/// Where the repositories and what belongs to them are.
#[derive(Debug, Clone)]
pub struct Repositories {
    data: PathBuf,
}

impl Repositories {
    /// Those of the data folder `data`.
    pub fn new(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    /// Writes git's settings and puts `hook_executable` in place as both hooks. Run at every start, before any push.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub fn prepare(&self, hook_executable: &Path) -> Result<(), GitError> {
        let repositories = self.folder();
        std::fs::create_dir_all(&repositories).map_err(io_error("make", &repositories))?;
        std::os::unix::fs::chown(&repositories, Some(GIT_UID), Some(GIT_UID))
            .map_err(io_error("give to the git user", &repositories))?;
        set_mode(&repositories, 0o700)?;
        let hooks = self.hooks();
        std::fs::create_dir_all(&hooks).map_err(io_error("make", &hooks))?;
        set_mode(&self.data.join("bin"), 0o711)?;
        set_mode(&hooks, 0o755)?;
        let config = GIT_CONFIG.replace("HOOKS", &hooks.display().to_string());
        replace_file(&self.config_path(), config.as_bytes(), 0o644)?;
        for name in ["pre-receive", "post-receive"] {
            install_hook(hook_executable, &hooks.join(name))?;
        }
        self.remove_half_made()
    }

    /// The folder of all repositories: git's project root.
    pub fn folder(&self) -> PathBuf {
        self.data.join("repos")
    }

    /// The repository of an app; it exists after its first use.
    pub fn path(&self, app_id: AppId) -> PathBuf {
        self.folder().join(Self::name(app_id))
    }

    /// Its name below the project root.
    pub fn name(app_id: AppId) -> String {
        format!("{app_id}.git")
    }

    /// The socket the hook connects to.
    pub fn hook_socket(&self) -> PathBuf {
        self.data.join("run/hook.sock")
    }

    fn hooks(&self) -> PathBuf {
        self.data.join("bin/hooks")
    }

    fn config_path(&self) -> PathBuf {
        self.data.join("bin/gitconfig")
    }

    /// git as the git user: limits, an environment with nothing of ours, its own process group. Dropping the child
    /// kills it.
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("setpriv");
        let uid = GIT_UID.to_string();
        command
            .args([
                "--reuid",
                &uid,
                "--regid",
                &uid,
                "--clear-groups",
                "--no-new-privs",
                "--inh-caps=-all",
                "--",
            ])
            .args(["prlimit", "--core=0"])
            .arg(format!("--nofile={MAX_OPEN_FILES}"))
            .arg(format!("--nproc={MAX_PROCESSES}"))
            .arg(format!("--fsize={MAX_FILE_BYTES}"))
            .arg(format!("--as={MAX_ADDRESS_BYTES}"))
            .arg(format!("--cpu={MAX_PROCESSOR_SECONDS}"))
            .args(["--", "git"])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", self.folder())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.config_path())
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Makes the app's repository when it does not exist.
    ///
    /// # Errors
    /// git cannot be run as its user, or cannot write.
    pub async fn ensure(&self, app_id: AppId) -> Result<PathBuf, GitError> {
        let path = self.path(app_id);
        if path.is_dir() {
            return Ok(path);
        }
        let half_made = self.folder().join(format!("new-{}", uuid::Uuid::new_v4()));
        let place = half_made.display().to_string();
        let output = self
            .command(&["init", "--quiet", "--bare", "--template=", "--initial-branch=main", &place])
            .stderr(Stdio::piped())
            .output()
            .await
            .map_err(|source| GitError::Spawn { program: "setpriv", package: "util-linux", source })?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(GitError::Init { path, status: output.status, output: text });
        }
        // The folder was made by git a moment ago and is not yet known to anybody.
        let info = half_made.join("info");
        std::fs::create_dir_all(&info).map_err(io_error("make", &info))?;
        set_mode(&info, 0o755)?;
        std::os::unix::fs::chown(&info, Some(GIT_UID), Some(GIT_UID))
            .map_err(io_error("give to the git user", &info))?;
        replace_file(&info.join("attributes"), ATTRIBUTES.as_bytes(), 0o644)?;
        match std::fs::rename(&half_made, &path) {
            Ok(()) => Ok(path),
            // Another request was faster; its repository is as good.
            Err(_) if path.is_dir() => {
                let _ = std::fs::remove_dir_all(&half_made);
                Ok(path)
            }
            Err(source) => Err(GitError::Io { action: "put in place", path, source }),
        }
    }

    /// Bytes on disk of the app's repository; 0 when there is none.
    pub fn size_bytes(&self, app_id: AppId) -> u64 {
        walkdir::WalkDir::new(self.path(app_id))
            .into_iter()
            .filter_map(Result::ok)
            .filter_map(|entry| entry.metadata().ok())
            .filter(std::fs::Metadata::is_file)
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Packs the app's repository, as nicely as can be and for at most [`PACKING_TIME`]: what that cuts off leaves a file
    /// that git's next run removes.
    ///
    /// # Errors
    /// git cannot be run, failed, or took too long.
    pub async fn collect_garbage(&self, app_id: AppId, packing: Packing) -> Result<(), GitError> {
        let path = self.path(app_id).display().to_string();
        let arguments: &[&str] = match packing {
            Packing::WhenMany => &["-C", &path, "gc", "--auto", "--quiet"],
            Packing::Now => &["-C", &path, "gc", "--cruft", "--prune=1.day.ago", "--quiet"],
        };
        let mut command = self.command(arguments);
        let spawned = command.spawn();
        let mut child = spawned.map_err(|source| GitError::Spawn {
            program: "setpriv",
            package: "util-linux",
            source,
        })?;
        if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            // Its own group's: git's children, too. A gc that is not nice is still a gc.
            let _ = rustix::process::setpriority_pgrp(Some(pid), 19);
        }
        let ended = tokio::time::timeout(PACKING_TIME, child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                Err(GitError::Pack { path: self.path(app_id), why: format!("git gc ended with {status}") })
            }
            Ok(Err(source)) => Err(GitError::Io { action: "pack", path: self.path(app_id), source }),
            Err(_) => {
                if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
                {
                    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
                }
                let _ = child.wait().await;
                Err(GitError::Pack {
                    path: self.path(app_id),
                    why: format!("git gc took longer than {PACKING_TIME:?}"),
                })
            }
        }
    }

    /// Whether packing the app's repository would free something: it has loose objects, several packs, or a pack of what
    /// nothing refers to that is older than `age`; and nothing was added to it for as long as `quiet`.
    pub fn wants_packing(&self, app_id: AppId, quiet: Duration, age: Duration) -> bool {
        let objects = self.path(app_id).join("objects");
        let old = |path: &Path, by: Duration| {
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
            modified.is_ok_and(|at| at.elapsed().is_ok_and(|since| since >= by))
        };
        let Ok(folders) = std::fs::read_dir(&objects) else { return false };
        let pack = objects.join("pack");
        if !old(&objects, quiet) || !old(&pack, quiet) {
            return false;
        }
        let loose = folders.filter_map(Result::ok).any(|entry| entry.file_name().len() == 2);
        let files: Vec<PathBuf> = std::fs::read_dir(&pack)
            .map(|files| files.filter_map(Result::ok).map(|entry| entry.path()).collect())
            .unwrap_or_default();
        let packs = files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "pack"));
        let mut cruft = files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "mtimes"));
        let cruft_count = cruft.clone().count();
        loose || packs.count() > 1 + cruft_count || cruft.any(|path| old(path, age))
    }

    /// The apps that have a repository.
    pub fn apps(&self) -> Vec<AppId> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten().filter_map(Result::ok);
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".git")?.parse().ok()).collect()
    }

    /// Repositories that an earlier process had begun to make.
    fn remove_half_made(&self) -> Result<(), GitError> {
        let folder = self.folder();
        for entry in std::fs::read_dir(&folder).map_err(io_error("list", &folder))?.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with("new-") {
                let path = entry.path();
                std::fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), GitError> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(io_error("set the mode of", path))
}

/// Writes a small file beside its place and renames it. One that is as it should be is left alone: a node must start on
/// a full disk.
fn replace_file(path: &Path, content: &[u8], mode: u32) -> Result<(), GitError> {
    let has_mode = std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o7777 == mode);
    if has_mode && std::fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let next = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&next)?;
        file.write_all(content)?;
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        file.sync_data()?;
        std::fs::rename(&next, path)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&next))).map_err(io_error("write", path))
}

/// Puts the executable at `hook` as a hard link, or as a copy where that cannot be: the git user need not be able to
/// reach the folder that the executable was installed in. A copy has the executable's time, and is made once.
fn install_hook(executable: &Path, hook: &Path) -> Result<(), GitError> {
    let source = std::fs::metadata(executable).map_err(io_error("read", executable))?;
    if let Ok(existing) = std::fs::metadata(hook)
        && ((existing.dev(), existing.ino()) == (source.dev(), source.ino())
            || (existing.len(), existing.modified().ok()) == (source.len(), source.modified().ok()))
    {
        return Ok(());
    }
    let next = hook.with_extension(format!("new-{}", std::process::id()));
    let _ = std::fs::remove_file(&next);
    let linked = source.mode() & 0o005 == 0o005 && std::fs::hard_link(executable, &next).is_ok();
    if !linked {
        let copied = std::fs::copy(executable, &next).and_then(|_| {
            let file = std::fs::File::options().write(true).open(&next)?;
            file.set_permissions(PermissionsExt::from_mode(0o755))?;
            file.set_modified(source.modified()?)
        });
        copied
            .inspect_err(|_| drop(std::fs::remove_file(&next)))
            .map_err(io_error("copy the hook to", &next))?;
    }
    std::fs::rename(&next, hook).map_err(io_error("put in place", hook))
}
