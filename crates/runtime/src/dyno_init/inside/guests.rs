//! Further commands in a dyno that runs: `supervise` asks, the dyno's first process forks them.
//!
//! They are children of the first process as the dyno's own command is, so they have the same namespaces, control
//! groups, ids, seccomp filter and limits without joining any of them: no process with privileges ever enters a dyno.
//!
//! In: on the requests' socket, a message with these descriptors: a file with the [`Order`] as JSON, a socket of the
//! command's own (its line), and on pipes its three standard streams. On the line: a byte is a signal for the
//! command's session; its end means that nobody wants the command any more. Out, on the line: see [`Said`].
//!
//! Invariant: what lies between fork and exec can be looked into by nobody in the dyno, as the first process
//! itself: not being dumpable is inherited, and every descriptor but the standard streams closes at exec before that ends.

use super::super::sys::{self, Context, Failure};
use super::{CANNOT_RUN, open_terminal, run_command};
use ferroku_core::protocol::dyno::Order;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What goes out on a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The master of the command's terminal comes along.
    Terminal,
    /// The command has ended with this status.
    Ended(i32),
    /// It could not be run. The end follows, if there is a process at all.
    Failed(String),
}

struct Guest {
    pid: i32,
    line: OwnedFd,
    /// Reaped: its number may be another's.
    ended: bool,
}

/// Reaps whatever ends and runs what is asked for. The end of `child`, the dyno's own command, is ours; its status.
pub fn serve(child: i32, signals: &OwnedFd, requests: OwnedFd) -> u8 {
    let mut guests: Vec<Guest> = Vec::new();
    // Our end alone: asking must not block when nothing has come.
    if sys::set_nonblocking(requests.as_fd()).is_err() {
        return u8::MAX;
    }
    let mut requests = Some(requests);
    loop {
        while let Some((pid, status)) = sys::reap() {
            if pid == child {
                return u8::try_from(status).unwrap_or(u8::MAX);
            }
            if let Some(guest) = guests.iter_mut().find(|guest| guest.pid == pid && !guest.ended) {
                guest.ended = true;
                say(guest.line.as_fd(), &Said::Ended(status));
            }
        }
        let mut waits = vec![(signals.as_fd(), libc::POLLIN)];
        waits.extend(requests.iter().map(|requests| (requests.as_fd(), libc::POLLIN)));
        waits.extend(guests.iter().map(|guest| (guest.line.as_fd(), libc::POLLIN)));
        if sys::poll(&waits, -1).is_err() {
            return u8::MAX;
        }
        sys::drain_signals(signals.as_fd());
        if let Some(socket) = &requests {
            match sys::receive_with_descriptors(socket.as_fd(), &mut [0]) {
                // `supervise` is gone, and so will be the dyno.
                Ok((0, _)) => requests = None,
                Ok((_, descriptors)) => guests.extend(start(descriptors)),
                Err(_) => {}
            }
        }
        let before = guests.len();
        guests.retain(Guest::hear);
        if before > 0 && guests.is_empty() {
            sys::give_memory_back();
        }
    }
}

impl Guest {
    /// Does what the line says. `false`: nobody wants to know more of it.
    fn hear(&self) -> bool {
        let mut signal = [0];
        match sys::receive_now(self.line.as_fd(), &mut signal) {
            Ok(0) => {
                // `supervise` does not want it any more, and a signal that it sent may have found no room.
                if !self.ended {
                    sys::kill(self.pid, libc::SIGKILL);
                    self.signal_session(libc::SIGKILL);
                }
                false
            }
            Ok(_) => {
                if !self.ended {
                    sys::kill(self.pid, i32::from(signal[0]));
                }
                self.signal_session(i32::from(signal[0]));
                true
            }
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }

    /// To all of its session but itself: a shell's jobs are process groups of their own.
    fn signal_session(&self, signal: i32) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            if pid != self.pid && session(&stat) == Some(self.pid) {
                sys::kill(pid, signal);
            }
        }
    }
}

/// The session in a line of `/proc/PID/stat`; the program's name in it may hold anything.
fn session(stat: &str) -> Option<i32> {
    // State, parent, group, session.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

fn start(descriptors: Vec<OwnedFd>) -> Option<Guest> {
    let mut descriptors = descriptors.into_iter();
    let (order, line) = (descriptors.next()?, descriptors.next()?);
    let streams: Vec<OwnedFd> = descriptors.collect();
    match sys::fork() {
        Ok(Some(pid)) => Some(Guest { pid, line, ended: false }),
        Ok(None) => {
            let Err(failure) = become_guest(order, line.as_fd(), &streams);
            say(line.as_fd(), &Said::Failed(failure.to_string()));
            // SAFETY: ends the child without running what the parent registered.
            unsafe { libc::_exit(CANNOT_RUN) }
        }
        Err(error) => {
            // Most often the dyno has as many processes as it may have.
            say(line.as_fd(), &Said::Failed(format!("the dyno can start no more processes: {error}")));
            None
        }
    }
}

/// In the child.
fn become_guest(
    order: OwnedFd,
    line: BorrowedFd<'_>,
    streams: &[OwnedFd],
) -> Result<std::convert::Infallible, Failure> {
    let mut bytes = Vec::new();
    File::from(order).read_to_end(&mut bytes).context(|| "read the order".into())?;
    let order: Order = serde_json::from_slice(&bytes).context(|| "the order is broken".into())?;
    bytes.fill(0);
    let terminal = match order.terminal {
        Some(size) => Some(open_terminal(line, size)?),
        None => None,
    };
    // The first process holds 0, 1 and 2, so that none of these has such a number itself.
    for (stream, number) in streams.iter().zip(0..) {
        // SAFETY: only descriptor numbers are involved.
        sys::check(unsafe { libc::dup2(stream.as_raw_fd(), number) }).context(|| "set the streams".into())?;
    }
    Err(run_command(&order, terminal))
}

fn say(line: BorrowedFd<'_>, said: &Said) {
    // When `supervise` is gone, so is everything.
    let _ = sys::write(line, &said.encode());
}

impl Said {
    fn encode(&self) -> Vec<u8> {
        match self {
            // Never sent so: a descriptor comes along; see `open_terminal`.
            Self::Terminal => vec![1],
            Self::Ended(status) => [&[2], &status.to_le_bytes()[..]].concat(),
            Self::Failed(text) => [&[3], text.as_bytes()].concat(),
        }
    }

    /// `None` for what no first process says.
    pub fn decode(message: &[u8]) -> Option<Self> {
        match message.split_first()? {
            (1, []) => Some(Self::Terminal),
            (2, status) => Some(Self::Ended(i32::from_le_bytes(status.try_into().ok()?))),
            (3, text) => Some(Self::Failed(String::from_utf8_lossy(text).into_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_on_a_line_is_understood() {
        for said in [Said::Terminal, Said::Ended(137), Said::Failed("no".into())] {
            assert_eq!(Said::decode(&said.encode()), Some(said));
        }
        assert_eq!(Said::decode(&[2, 0]), None);
        assert_eq!(Said::decode(&[]), None);
    }

    #[test]
    fn a_programs_name_cannot_fake_its_session() {
        assert_eq!(session("7 (a) S 1 2 3) S 1 7 5 34816 7 4194304"), Some(5));
        assert_eq!(session("7 (sh) S 1"), None);
    }
}
