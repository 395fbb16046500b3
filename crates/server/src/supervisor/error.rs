//! What can go wrong in the supervisor, each with what to do next.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// Why a node did not start, or had to stop.
#[derive(Debug, Error)]
pub enum SupervisorError {
    #[error("a node makes mounts, namespaces and network links, so it must run as root; start it with sudo")]
    NotRoot,
    #[error("the certificate that was given cannot be used: {0}")]
    Certificate(#[from] crate::tls::TlsError),
    #[error(
        "cannot use {path} as the data folder: {source}. Choose a folder that root can write to with --data DIR"
    )]
    DataFolder { path: PathBuf, source: io::Error },
    #[error(
        "the data folder {path} is in use by another server (process {holder}). Stop that one first, or give \
         this one a folder of its own with --data DIR"
    )]
    DataFolderInUse { path: PathBuf, holder: String },
    #[error(
        "cannot mount a tmpfs on {path}: {source}. Ferroku needs the right to mount; is this a container?"
    )]
    Mount { path: PathBuf, source: rustix::io::Errno },
    #[error(
        "cannot listen on {address} for {purpose}: another program uses that port. Stop it, or choose another \
         with {option} ADDR:PORT"
    )]
    PortInUse { address: SocketAddr, purpose: &'static str, option: &'static str },
    #[error(
        "cannot listen on {address} for {purpose}: {source}. Choose another address with {option} ADDR:PORT"
    )]
    Listen { address: SocketAddr, purpose: &'static str, option: &'static str, source: io::Error },
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: io::Error },
    #[error("cannot start the {name} process: {source}")]
    Spawn { name: &'static str, source: io::Error },
    #[error("the {name} process could not start; its own message above says why")]
    ChildFailed { name: &'static str },
    #[error(
        "no server answers at {path}. Start one with `ferrokud server`, or name the data folder of the running \
         one with --data DIR"
    )]
    NoServer { path: PathBuf },
    #[error("the server did not come back within {seconds} s; its own output says why")]
    RestartTimeout { seconds: u64 },
}

/// For `map_err`: names what was being done.
pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> SupervisorError {
    move |source| SupervisorError::System { action, source: source.into() }
}
