//! The router process: what `ferrokud router --data DIR` runs.
//!
//! In: descriptor 3 (router listener), 4 (API listener, kept to be given back) and with `--router-tls` 5 (the
//! router's second listener), and the data folder. As root it makes what only root can (the socket in `DIR/run`, the state folder `DIR/router`), then becomes
//! [`ROUTER_UID`] for good. SIGTERM: accept no more, let requests end for up to 30 s, exit 0. SIGINT is the
//! supervisor's business and ignored here.
//!
//! Invariant: [`run`] is called while the process has one thread; the change of user is per thread on Linux.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ferroku_core::uids::ROUTER_UID;
use ferroku_router::limits::Timeouts;
use ferroku_router::{Listener, Router, RouterConfig, RouterError, socket};
use ferroku_runtime::spawn::take_inherited;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Gid, Resource, Rlimit, Uid, chdir, geteuid, getrlimit, setrlimit};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::start_logging;
use crate::node::NodeConfig;
use crate::ssh::SSH_SOCKET;
use crate::supervisor::pid_file::PidFile;

/// Open files that the router may have: two for each of its 20,000 client connections, and some.
const OPEN_FILES_LIMIT: u64 = 65_536;

/// Why the router process ends.
#[derive(Debug, Error)]
pub enum RouterMainError {
    #[error("descriptor {number} is missing: the router is started by `ferrokud server`, not by hand")]
    Descriptor { number: u8, source: io::Error },
    #[error("cannot claim run/router.pid: another router holds this data folder")]
    PidFile(#[source] io::Error),
    #[error("cannot make the router's socket")]
    Socket(#[source] io::Error),
    #[error("cannot prepare the router's state folder {path}")]
    StateFolder { path: PathBuf, source: io::Error },
    #[error("cannot become the router's user {ROUTER_UID}")]
    User(#[source] io::Error),
    #[error("cannot start the router")]
    Start(#[source] RouterError),
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
}

/// Runs the router until SIGTERM and for as long as its last requests take.
///
/// # Errors
/// The router could not be set up.
pub fn run(config: NodeConfig) -> anyhow::Result<ExitCode> {
    start_logging();
    let data = config.data.as_path();
    let inherited = |index: usize, number| {
        take_inherited(index).map_err(|source| RouterMainError::Descriptor { number, source })
    };
    let listener = |fd: OwnedFd, port| Listener { listener: TcpListener::from(fd), public_port: Some(port) };
    let mut listeners = vec![listener(inherited(0, 3)?, config.router.port())];
    let api_listener: OwnedFd = inherited(1, 4)?;
    if let Some(address) = config.router_tls {
        listeners.push(listener(inherited(2, 5)?, address.port()));
    }
    let pid_file = PidFile::hold(&data.join("run/router.pid")).map_err(RouterMainError::PidFile)?;
    let control = socket::bind(&data.join("run/router.sock")).map_err(RouterMainError::Socket)?;
    let ssh_socket = reachable(&data.join("run"))?.join(SSH_SOCKET);
    raise_open_files();
    let binary_digest = own_digest().unwrap_or_default();
    prepare_state_folder(data)?;
    if geteuid().is_root() {
        become_router().map_err(RouterMainError::User)?;
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let router = RouterConfig {
        listeners,
        api_listener: Some(api_listener),
        control,
        // The working folder: the way to it may be closed to the router's user.
        state_folder: PathBuf::from("."),
        binary_digest,
        workers,
        trusted_uid: 0,
        timeouts: Timeouts::default(),
        connection_limits: ferroku_router::limits::ConnectionLimits::default(),
        ssh_socket: Some(ssh_socket),
    };
    serve(router, pid_file)?;
    Ok(ExitCode::SUCCESS)
}

/// A folder by a path that the router's user can go, too: the way to it may be closed to that user.
fn reachable(folder: &Path) -> Result<PathBuf, RouterMainError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty()).map_err(|error| RouterMainError::Socket(error.into()))?;
    // Kept open as long as the process lives.
    Ok(PathBuf::from(format!("/proc/self/fd/{}", folder.into_raw_fd())))
}

fn serve(config: RouterConfig, mut pid_file: PidFile) -> Result<(), RouterMainError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(RouterMainError::Signals)?;
    let (mut terminate, interrupt) = runtime
        .block_on(async { Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)) })
        .map_err(RouterMainError::Signals)?;
    let router = Router::start(config).map_err(RouterMainError::Start)?;
    pid_file.ready().map_err(RouterMainError::PidFile)?;
    runtime.block_on(terminate.recv());
    router.leave();
    // From here on the next router may start: both accept from the same backlog.
    drop(pid_file);
    router.wait();
    drop(interrupt);
    Ok(())
}

fn prepare_state_folder(data: &Path) -> Result<(), RouterMainError> {
    let path = data.join("router");
    let prepare = || {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        if geteuid().is_root() {
            chown(&path, Some(ROUTER_UID), Some(ROUTER_UID))?;
        }
        chdir(&path)?;
        Ok(())
    };
    prepare().map_err(|source| RouterMainError::StateFolder { path: path.clone(), source })
}

/// Gives up root for good: other groups first, the user last.
fn become_router() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(ROUTER_UID), Gid::from_raw(ROUTER_UID));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    set_no_new_privs(true)?;
    Ok(())
}

/// Best effort: with fewer files the router serves fewer connections, and says so when it matters.
fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(OPEN_FILES_LIMIT),
        maximum: now.maximum.map(|maximum| maximum.max(OPEN_FILES_LIMIT)),
    };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    }
}

fn own_digest() -> io::Result<String> {
    let mut file = File::open("/proc/self/exe")?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&buffer[..count]);
    }
}
