//! Unix sockets at paths of any length.
//!
//! `sockaddr_un` holds 107 bytes (unix(7)); a data folder may lie deeper. Then the folder is opened and the
//! socket named through `/proc/self/fd/N/`, which the kernel resolves like any other path.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags, open};

/// Longest path that `sockaddr_un.sun_path` takes beside its closing zero, in bytes (unix(7)).
const SOCKET_PATH_LIMIT_BYTES: usize = 107;

/// Listens at `path` with mode 0600. The socket appears there by rename, so a socket of an earlier process is
/// replaced without a moment at which nobody listens.
///
/// # Errors
/// The folder is missing or not writable; the message names the path.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().ok_or_else(|| no_file_name(path))?.to_os_string();
    name.push(format!(".{}.{number}", std::process::id()));
    let temporary = path.with_file_name(name);
    let _ = fs::remove_file(&temporary);
    let listener = with_short_path(&temporary, |short| UnixListener::bind(short))
        .map_err(|error| named("cannot listen at the unix socket", path, &error))?;
    let renamed = fs::set_permissions(&temporary, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = renamed {
        let _ = fs::remove_file(&temporary);
        return Err(named("cannot put into place the unix socket", path, &error));
    }
    Ok(listener)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// Nobody listens there; the message names the path.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    with_short_path(path, |short| UnixStream::connect(short))
        .map_err(|error| named("cannot connect to the unix socket", path, &error))
}

/// Connects to the socket at `path` without ever blocking the thread.
///
/// # Errors
/// Nobody listens there, or too many wait to be let in; the message names the path.
pub async fn connect_async(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let connected = match short_path(path) {
        Ok((short, _folder)) => tokio::net::UnixStream::connect(short).await,
        Err(error) => Err(error),
    };
    connected.map_err(|error| named("cannot connect to the unix socket", path, &error))
}

fn with_short_path<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (short, _folder) = short_path(path)?;
    act(&short)
}

/// A path that is short enough, for as long as the folder that comes with it is open.
fn short_path(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if path.as_os_str().len() <= SOCKET_PATH_LIMIT_BYTES {
        return Ok((path.to_path_buf(), None));
    }
    let name = path.file_name().ok_or_else(|| no_file_name(path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    short.push(name);
    Ok((short, Some(folder)))
}

fn no_file_name(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} has no file name", path.display()))
}

fn named(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_socket_below_a_very_long_path_works_and_is_replaced_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(120)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("router.sock");
        let first = bind(&path).unwrap();
        let second = bind(&path).unwrap();
        let mut client = connect(&path).unwrap();
        client.write_all(b"x").unwrap();
        first.set_nonblocking(true).unwrap();
        assert_eq!(first.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut byte = [0];
        second.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1, "no temporary name is left");
    }

    #[test]
    fn an_error_names_the_path() {
        let error = connect(Path::new("/nonexistent/router.sock")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/router.sock"), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
