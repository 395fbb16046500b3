//! The socket `wake`, by which the router wakes a frozen dyno without control.
//!
//! In: connections that name a sleep (u64, little-endian). Out: one byte to each, once the dyno runs. Nothing else can
//! be asked here, and only the router's user and root are heard: the socket is the router's own file with mode 0600, and
//! who has connected is asked of the kernel besides.

use super::sys;
use ferroku_core::uids::ROUTER_UID;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// Connections that have not said yet which sleep they mean. The router writes at once, each of its workers at most one.
const MAX_CALLERS: usize = 64;
const SLEEP_ID_BYTES: usize = 8;

/// The listener and who has knocked.
pub struct WakeDoor {
    listener: UnixListener,
    callers: Vec<Caller>,
}

struct Caller {
    stream: UnixStream,
    read: Vec<u8>,
}

/// Somebody who wants the dyno to run.
pub struct Request {
    pub sleep_id: u64,
    stream: UnixStream,
}

impl Request {
    /// The dyno runs.
    pub fn answer(mut self) {
        // Whoever has gone meanwhile needs no answer.
        let _ = self.stream.write(&[1]);
    }
}

impl WakeDoor {
    pub fn new(listener: UnixListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, callers: Vec::new() })
    }

    /// What to wait on.
    pub fn interests(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.callers.iter().map(|caller| caller.stream.as_fd()))
    }

    /// Takes in who has come and what they have said.
    pub fn requests(&mut self) -> Vec<Request> {
        while let Ok((stream, _)) = self.listener.accept() {
            let trusted = matches!(sys::peer_uid(stream.as_fd()), Some(0 | ROUTER_UID));
            if trusted && stream.set_nonblocking(true).is_ok() {
                if self.callers.len() >= MAX_CALLERS {
                    self.callers.remove(0);
                }
                self.callers.push(Caller { stream, read: Vec::new() });
            }
        }
        let mut requests = Vec::new();
        for mut caller in std::mem::take(&mut self.callers) {
            let mut buffer = [0; SLEEP_ID_BYTES];
            let room = SLEEP_ID_BYTES - caller.read.len();
            match caller.stream.read(&mut buffer[..room]) {
                Ok(0) => {}
                Ok(count) => {
                    caller.read.extend_from_slice(&buffer[..count]);
                    match <[u8; SLEEP_ID_BYTES]>::try_from(caller.read.as_slice()) {
                        Ok(bytes) => {
                            let sleep_id = u64::from_le_bytes(bytes);
                            requests.push(Request { sleep_id, stream: caller.stream });
                        }
                        Err(_) => self.callers.push(caller),
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    self.callers.push(caller);
                }
                Err(_) => {}
            }
        }
        requests
    }
}
