//! Signals as readable descriptors, so that one `poll` waits for everything.

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// What the supervisor was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM or SIGINT: stop everything.
    Stop,
    /// SIGHUP: replace everything but the dynos.
    Restart,
    /// SIGCHLD: a child or an orphan ended.
    ChildEnded,
}

/// One pipe a signal.
#[derive(Debug)]
pub struct Signals {
    pipes: Vec<(Told, UnixStream)>,
}

impl Signals {
    /// From here on these signals no longer end this process.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn listen() -> io::Result<Self> {
        let mut pipes = Vec::new();
        let wanted = [
            (SIGTERM, Told::Stop),
            (SIGINT, Told::Stop),
            (SIGHUP, Told::Restart),
            (SIGCHLD, Told::ChildEnded),
        ];
        for (signal, told) in wanted {
            let (receiver, sender) = UnixStream::pair()?;
            receiver.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal, sender)?;
            pipes.push((told, receiver));
        }
        Ok(Self { pipes })
    }

    /// What to poll for reading.
    pub fn descriptors(&self) -> impl Iterator<Item = &UnixStream> {
        self.pipes.iter().map(|(_, pipe)| pipe)
    }

    /// Takes what came since the last call.
    pub fn take(&self) -> Vec<Told> {
        let mut buffer = [0_u8; 64];
        let mut told: Vec<Told> = Vec::new();
        for (what, pipe) in &self.pipes {
            let mut reader = pipe;
            while reader.read(&mut buffer).is_ok_and(|count| count > 0) {
                if !told.contains(what) {
                    told.push(*what);
                }
            }
        }
        told
    }
}
