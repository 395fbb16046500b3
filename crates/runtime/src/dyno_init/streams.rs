//! A dyno's standard streams as dyno-init holds them: into the log, or to and from an attached client.

use super::lines::Splitter;
use super::ring::Ring;
use super::sys;
use crate::spec::Attach;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One read; a pipe holds 64 KiB.
const READ_BYTES: usize = 16 * 1024;
/// Output of an attached dyno that waits for its client; above it the dyno waits too.
const WAITING_OUTPUT_BYTES: usize = 64 * 1024;

/// The ends that dyno-init keeps.
#[derive(Debug)]
pub enum Streams {
    Logged { sources: [Source; 2] },
    Attached(Attached),
}

/// A pipe whose lines go to the log.
#[derive(Debug)]
pub struct Source {
    pipe: Option<OwnedFd>,
    splitter: Splitter,
    number: u8,
}

/// Streams of a client. On a terminal, input and output are the same master. The default has none.
#[derive(Debug, Default)]
pub struct Attached {
    terminal: bool,
    output: Option<OwnedFd>,
    input: Option<OwnedFd>,
    pub waiting_output: Vec<u8>,
    waiting_input: Vec<u8>,
    close_input: bool,
}

/// How much of what is there was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    All,
    Some,
}

/// The ends that the container gets.
#[derive(Debug)]
pub struct InnerEnds {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A pipe, read end first, that `owner` may open again.
fn pipe(owner: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = sys::pipe()?;
    for end in [&read, &write] {
        std::os::unix::fs::fchown(end, Some(owner), Some(owner))?;
    }
    Ok((read, write))
}

impl Streams {
    /// Makes the pipes; `owner` may open them again as `/dev/stdout`.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn make(attach: Option<Attach>, owner: u32) -> io::Result<(Self, InnerEnds)> {
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        match attach {
            None => {
                let ((out_read, out_write), (err_read, err_write)) = (pipe(owner)?, pipe(owner)?);
                let source = |pipe: OwnedFd, number| -> io::Result<Source> {
                    sys::set_nonblocking(pipe.as_fd())?;
                    Ok(Source { pipe: Some(pipe), splitter: Splitter::default(), number })
                };
                let sources = [source(out_read, 1)?, source(err_read, 2)?];
                Ok((
                    Self::Logged { sources },
                    InnerEnds { stdin: null()?, stdout: out_write, stderr: err_write },
                ))
            }
            Some(Attach { terminal: Some(_) }) => {
                let inner = InnerEnds { stdin: null()?, stdout: null()?, stderr: null()? };
                Ok((Self::Attached(Attached::terminal()), inner))
            }
            Some(Attach { terminal: None }) => {
                let (attached, inner) = Attached::pipes(owner)?;
                Ok((Self::Attached(attached), inner))
            }
        }
    }

    /// What to wait for: descriptor and poll events.
    pub fn interests(&self) -> Vec<(BorrowedFd<'_>, i16)> {
        match self {
            Self::Logged { sources } => sources
                .iter()
                .filter_map(|source| Some((source.pipe.as_ref()?.as_fd(), libc::POLLIN)))
                .collect(),
            Self::Attached(attached) => attached.interests(),
        }
    }

    /// Whether something that was read still waits for room on its way to control.
    pub fn has_waiting_output(&self) -> bool {
        matches!(self, Self::Attached(attached) if !attached.waiting_output.is_empty())
    }

    /// Moves what can be moved now; `all`: until nothing is left, since the dyno has ended. Returns how many
    /// bytes of input the dyno took.
    pub fn work(&mut self, ring: &mut Ring, all: bool) -> usize {
        match self {
            Self::Logged { sources } => {
                for source in sources {
                    while source.read(ring) && all {}
                    if all {
                        source.finish(ring);
                    }
                }
                0
            }
            Self::Attached(attached) => {
                while (all || attached.wants_output()) && attached.read() {}
                if all {
                    (attached.input, attached.output) = (None, None);
                }
                attached.pass_input()
            }
        }
    }
}

impl Source {
    /// One read into the ring; `true` when there may be more.
    fn read(&mut self, ring: &mut Ring) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let mut buffer = [0; READ_BYTES];
        match sys::read(pipe.as_fd(), &mut buffer) {
            Ok(0) => {
                self.finish(ring);
                false
            }
            Ok(count) => {
                let (at_us, number) = (sys::now_us(), self.number);
                self.splitter.push(&buffer[..count], |line| ring.append(at_us, number, line));
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(_) => {
                self.finish(ring);
                false
            }
        }
    }

    fn finish(&mut self, ring: &mut Ring) {
        let (at_us, number) = (sys::now_us(), self.number);
        self.splitter.finish(|line| ring.append(at_us, number, line));
        self.pipe = None;
    }
}

impl Attached {
    /// A terminal that is still to be opened.
    pub fn terminal() -> Self {
        Self { terminal: true, ..Self::default() }
    }

    /// Pipes, where errors go with the output; and their other ends, which `owner` may open again.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pipes(owner: u32) -> io::Result<(Self, InnerEnds)> {
        let (stdin, in_write) = pipe(owner)?;
        sys::set_nonblocking(in_write.as_fd())?;
        let (output, stdout) = Self::output_pipe(owner)?;
        let inner = InnerEnds { stdin, stderr: stdout.try_clone()?, stdout };
        Ok((Self { input: Some(in_write), ..output }, inner))
    }

    /// A pipe out, and its other end, which `owner` may open again.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn output_pipe(owner: u32) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = pipe(owner)?;
        sys::set_nonblocking(read.as_fd())?;
        Ok((Self { output: Some(read), ..Self::default() }, write))
    }

    /// What to wait for: descriptor and poll events.
    pub fn interests(&self) -> Vec<(BorrowedFd<'_>, i16)> {
        let output = self.output.as_ref().filter(|_| self.wants_output());
        let input = self.input.as_ref().filter(|_| !self.waiting_input.is_empty());
        let output = output.map(|fd| (fd.as_fd(), libc::POLLIN));
        output.into_iter().chain(input.map(|fd| (fd.as_fd(), libc::POLLOUT))).collect()
    }

    /// Reads what is there, up to what may wait.
    pub fn take_output(&mut self) -> Took {
        while self.wants_output() {
            if !self.read() {
                return Took::All;
            }
        }
        Took::Some
    }

    /// The master of the terminal that the dyno opened.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn set_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        sys::set_nonblocking(master.as_fd())?;
        self.input = Some(master.try_clone()?);
        self.output = Some(master);
        Ok(())
    }

    /// A new size; without a terminal there is none to set.
    pub fn resize(&self, rows: u16, columns: u16) {
        if let (true, Some(master)) = (self.terminal, &self.input) {
            let _ = sys::set_terminal_size(master.as_fd(), rows, columns);
        }
    }

    pub fn push_input(&mut self, bytes: &[u8]) {
        self.waiting_input.extend_from_slice(bytes);
    }

    pub fn close_input(&mut self) {
        self.close_input = !self.terminal;
    }

    fn wants_output(&self) -> bool {
        self.waiting_output.len() < WAITING_OUTPUT_BYTES
    }

    fn read(&mut self) -> bool {
        let Some(output) = &self.output else { return false };
        let mut buffer = [0; READ_BYTES];
        match sys::read(output.as_fd(), &mut buffer) {
            Ok(count) if count > 0 => {
                self.waiting_output.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            // End of the pipe; a terminal gives EIO when its last user is gone.
            _ => {
                self.output = None;
                false
            }
        }
    }

    /// Writes the input that there is room for; how many bytes that were.
    pub fn pass_input(&mut self) -> usize {
        let mut taken = 0;
        // Before the terminal is here, input waits.
        while let (Some(input), false) = (&self.input, self.waiting_input.is_empty()) {
            match sys::write(input.as_fd(), &self.waiting_input) {
                Ok(count) => {
                    self.waiting_input.drain(..count);
                    taken += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    taken += self.waiting_input.len();
                    self.waiting_input.clear();
                    self.close_input = true;
                }
            }
        }
        if self.input.is_none() && !self.terminal {
            // Nobody will ever read it, and whoever sends must not wait for that.
            taken += self.waiting_input.len();
            self.waiting_input.clear();
        }
        if self.close_input && self.waiting_input.is_empty() && !self.terminal {
            self.input = None;
        }
        taken
    }
}
