//! Handing file descriptors to a child under fixed numbers, and taking them there.
//!
//! The listening sockets are bound once, by the supervisor, and outlive every
//! process that serves on them: they pass to control, to the router and to a
//! re-executed supervisor as descriptors 3, 4, ... In: a [`Command`] and
//! descriptors. Out: the same command, which hands them over whether it is
//! spawned or exec'd.
//!
//! Invariant: only the listed descriptors are inherited; everything else this
//! program opens is close-on-exec.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// Number of the first inherited descriptor: those after stdin, stdout and stderr.
pub const FIRST_INHERITED_FD: RawFd = 3;

/// Lowest number for the parent's copies: above every number they are moved to, so that no move destroys a later one.
const PARKING_FD: RawFd = 64;

/// Makes `command` hand `descriptors` over as numbers 3, 4, ... in their order.
///
/// # Errors
/// A descriptor cannot be duplicated (too many open files).
pub fn inherit(command: &mut Command, descriptors: &[&dyn AsFd]) -> io::Result<()> {
    let mut parked = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        parked.push(fcntl_dupfd_cloexec(descriptor.as_fd(), PARKING_FD)?);
    }
    let place = move || {
        for (number, descriptor) in (FIRST_INHERITED_FD..).zip(&parked) {
            // SAFETY: dup2 has no memory effects, and it clears close-on-exec on the copy it makes. The closure runs
            // after fork in a process about to exec, where nobody owns the descriptors 3, 4, ... any more.
            if unsafe { libc::dup2(descriptor.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure calls dup2 only, which is async-signal-safe; it does not allocate.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// Takes over inherited descriptor number 3 + `index`, and makes it close-on-exec.
///
/// Call it once per index, at the start of `main`, before anything else is opened.
///
/// # Errors
/// No such descriptor was inherited.
pub fn take_inherited(index: usize) -> io::Result<OwnedFd> {
    let missing =
        || io::Error::new(io::ErrorKind::NotFound, format!("descriptor 3 + {index} was not inherited"));
    let number = RawFd::try_from(index).map_err(|_| missing())? + FIRST_INHERITED_FD;
    // SAFETY: fcntl on a number that is not open fails with EBADF and does nothing else.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(missing());
    }
    // SAFETY: the number is open (checked above), was inherited rather than opened by this process, and by this
    // function's contract nobody else takes it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let flags = fcntl_getfd(&descriptor)?;
    fcntl_setfd(&descriptor, flags | FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::process::Stdio;

    #[test]
    fn a_child_gets_the_descriptors_in_order_and_no_other() {
        let first = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let second = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let mut command = Command::new("sh");
        command.args(["-c", "readlink /proc/$$/fd/3 /proc/$$/fd/4; readlink /proc/$$/fd/* | grep -c socket"]);
        inherit(&mut command, &[&second, &first]).expect("descriptors are free");
        let output = command.stdin(Stdio::null()).output().expect("sh runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = |listener: &TcpListener| {
            std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd()))
                .expect("open")
                .display()
                .to_string()
        };
        assert_eq!(text, format!("{}\n{}\n2\n", name(&second), name(&first)));
    }

    #[test]
    fn a_descriptor_that_was_not_inherited_is_an_error() {
        let error = take_inherited(9_000).expect_err("nobody opened it");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
