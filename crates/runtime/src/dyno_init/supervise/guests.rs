//! Further commands beside the dyno's own, as `supervise` sees them: their streams, their ends, and who is told.
//!
//! In: control's `Exec...` frames. The dyno's first process runs the commands ([`super::super::inside`]); here their
//! output waits in bounded buffers until control's window has room for it, so that nothing of one client's
//! slowness reaches the dyno's log or another client.
//!
//! Invariants: a command whose client or control is gone gets SIGHUP at once and SIGKILL after [`HANGUP_MS`]; one
//! `ExecEnded` is told for each other command that was asked for, after all its output.

use super::super::inside::Said;
use crate::dyno_init::outlet::Outlet;
use crate::dyno_init::streams::{Attached, Took};
use crate::dyno_init::sys::{self, Context, Failure};
use ferroku_core::protocol::dyno::{EXEC_WINDOW_BYTES, FromDynoInit, MAX_EXECS, Order};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a command may do about the end of its client's connection. Heroku gives attached dynos three times 5 s.
const HANGUP_MS: u64 = 5_000;
/// What is still read after a command's end: its own last words lie in a pipe of at most 64 KiB. Without a limit, what
/// it left in the background could go on for ever.
const LAST_WORDS_BYTES: usize = 128 * 1024;
/// Exit status of a command that could not be run, as shells have it.
const CANNOT_RUN: i32 = 126;
const KILLED: i32 = 128 + libc::SIGKILL;

/// The commands that run, and the way to the first process.
#[derive(Debug, Default)]
pub struct Guests {
    requests: Option<OwnedFd>,
    all: Vec<Guest>,
}

#[derive(Debug)]
struct Guest {
    id: u32,
    /// To the first process; see there.
    line: Option<OwnedFd>,
    output: Attached,
    errors: Attached,
    /// How much output control takes now.
    window: usize,
    /// Input that the command has taken, not told yet.
    taken: u64,
    status: Option<i32>,
    failure: Option<String>,
    /// What may still be read after the end.
    last_words: usize,
    /// Nothing more will be read.
    drained: bool,
    /// Its client is gone; when it is to be killed.
    hung_up: Option<u64>,
}

impl Guests {
    /// The socket that the first process gets.
    pub fn open(&mut self) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = sys::message_pair()?;
        sys::set_nonblocking(ours.as_fd())?;
        self.requests = Some(ours);
        Ok(theirs)
    }

    /// Has a command run. `runs`: the dyno's own does. `owner` may open the streams again as `/dev/stdout`.
    pub fn start(&mut self, id: u32, order: &Order, runs: bool, owner: u32) {
        // Those that have ended count until that has been told: their output is kept here.
        let counts =
            |guest: &&Guest| guest.failure.is_none() && (guest.hung_up.is_none() || guest.status.is_none());
        let living = self.all.iter().filter(counts).count();
        let asked = match &self.requests {
            _ if living >= MAX_EXECS => {
                Err(Failure::new(format!("{MAX_EXECS} other commands run in the dyno already")))
            }
            Some(requests) if runs => ask(requests, order, owner),
            _ => Err(Failure::new("the dyno does not run")),
        };
        self.all.push(match asked {
            Ok((line, output, errors)) => Guest { line: Some(line), ..Guest::new(id, output, errors) },
            Err(failure) => Guest {
                status: Some(CANNOT_RUN),
                failure: Some(failure.to_string()),
                ..Guest::new(id, Attached::default(), Attached::default())
            },
        });
    }

    /// Whether a command runs.
    pub fn are_there(&self) -> bool {
        self.all.iter().any(|guest| guest.status.is_none())
    }

    fn get(&mut self, id: u32) -> Option<&mut Guest> {
        self.all.iter_mut().find(|guest| guest.id == id)
    }

    pub fn input(&mut self, id: u32, bytes: &[u8]) {
        if let Some(guest) = self.get(id) {
            guest.output.push_input(bytes);
        }
    }

    pub fn close_input(&mut self, id: u32) {
        if let Some(guest) = self.get(id) {
            guest.output.close_input();
        }
    }

    pub fn resize(&mut self, id: u32, rows: u16, columns: u16) {
        if let Some(guest) = self.get(id) {
            guest.output.resize(rows, columns);
        }
    }

    pub fn signal(&mut self, id: u32, signal: i32) {
        if let Some(guest) = self.get(id) {
            guest.signal(signal);
        }
    }

    pub fn output_taken(&mut self, id: u32, bytes: u64) {
        if let Some(guest) = self.get(id) {
            let bytes = usize::try_from(bytes).unwrap_or(EXEC_WINDOW_BYTES);
            guest.window = guest.window.saturating_add(bytes).min(EXEC_WINDOW_BYTES);
        }
    }

    pub fn hang_up(&mut self, id: u32) {
        if let Some(guest) = self.get(id) {
            guest.hang_up();
        }
    }

    /// Control is gone, and with it every client.
    pub fn hang_up_all(&mut self) {
        self.all.iter_mut().for_each(Guest::hang_up);
    }

    /// The dyno is dead, and so is all that ran in it.
    pub fn dyno_ended(&mut self) {
        self.requests = None;
        for guest in &mut self.all {
            guest.hear_line();
            guest.line = None;
            guest.ended(KILLED);
        }
    }

    /// What to wait for: descriptor and poll events.
    pub fn interests<'a>(&'a self, waits: &mut Vec<(BorrowedFd<'a>, i16)>) {
        for guest in &self.all {
            waits.extend(guest.line.as_ref().map(|line| (line.as_fd(), libc::POLLIN)));
            if !guest.drained {
                waits.extend(guest.output.interests());
                waits.extend(guest.errors.interests());
            }
        }
    }

    /// When the clock alone brings something.
    pub fn due_at_ms(&self) -> Option<u64> {
        self.all.iter().filter_map(|guest| guest.hung_up).min()
    }

    /// Moves what can be moved now.
    pub fn work(&mut self) {
        let now = sys::monotonic_ms();
        for guest in &mut self.all {
            guest.hear_line();
            guest.taken += guest.output.pass_input() as u64;
            guest.read();
            if guest.hung_up.is_some_and(|at| now >= at) {
                guest.signal(libc::SIGKILL);
            }
        }
        self.all.retain(|guest| guest.hung_up.is_none_or(|at| now < at));
    }

    /// Whether something would be told if there were room for it.
    pub fn has_something_to_tell(&self) -> bool {
        self.all.iter().any(|guest| {
            let output = guest.window > 0 && guest.has_waiting_output();
            guest.hung_up.is_none() && (guest.taken > 0 || output || guest.is_over())
        })
    }

    /// To control, what it has room for.
    pub fn tell(&mut self, outlet: &mut Outlet) {
        for guest in self.all.iter_mut().filter(|guest| guest.hung_up.is_none()) {
            guest.tell(outlet);
        }
        let mut living = Vec::with_capacity(self.all.len());
        for guest in self.all.drain(..) {
            if guest.hung_up.is_some() || !guest.is_over() || !outlet.has_room() {
                living.push(guest);
                continue;
            }
            let Guest { id, status, failure, .. } = guest;
            outlet.tell(&FromDynoInit::ExecEnded { id, status: status.unwrap_or(KILLED), failure });
        }
        self.all = living;
    }
}

impl Guest {
    fn new(id: u32, output: Attached, errors: Attached) -> Self {
        Self {
            id,
            line: None,
            output,
            errors,
            window: EXEC_WINDOW_BYTES,
            taken: 0,
            status: None,
            failure: None,
            last_words: LAST_WORDS_BYTES,
            drained: false,
            hung_up: None,
        }
    }

    fn signal(&self, signal: i32) {
        if let (Some(line), Ok(signal)) = (&self.line, u8::try_from(signal)) {
            let _ = sys::write(line.as_fd(), &[signal]);
        }
    }

    /// Its end; the first one told counts.
    fn ended(&mut self, status: i32) {
        self.status.get_or_insert(status);
    }

    fn hang_up(&mut self) {
        if self.hung_up.is_some() {
            return;
        }
        // Closing a terminal's master is a hang-up, too.
        (self.output, self.errors) = (Attached::default(), Attached::default());
        self.signal(libc::SIGHUP);
        let wait_ms = if self.status.is_some() { 0 } else { HANGUP_MS };
        self.hung_up = Some(sys::monotonic_ms() + wait_ms);
    }

    fn hear_line(&mut self) {
        let mut buffer = [0; 1024];
        while let Some(line) = &self.line {
            match sys::receive_with_descriptors(line.as_fd(), &mut buffer) {
                Ok((0, _)) => {
                    self.line = None;
                    self.ended(KILLED);
                }
                Ok((count, descriptors)) => match Said::decode(&buffer[..count]) {
                    Some(Said::Terminal) => {
                        let master = descriptors.into_iter().next().filter(|_| self.hung_up.is_none());
                        if let Some(Err(error)) = master.map(|master| self.output.set_terminal(master)) {
                            self.failure.get_or_insert(format!("take its terminal: {error}"));
                            self.signal(libc::SIGKILL);
                        }
                    }
                    Some(Said::Ended(status)) => {
                        self.ended(status);
                        if self.hung_up.is_none() {
                            // What it left in the background goes on, as with any SSH server.
                            self.line = None;
                        }
                    }
                    Some(Said::Failed(failure)) => {
                        self.failure.get_or_insert(failure);
                        // Without a process no end follows but that of the line.
                        self.ended(CANNOT_RUN);
                    }
                    None => {}
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.line = None;
                    self.ended(KILLED);
                }
            }
        }
    }

    fn read(&mut self) {
        let before = self.waiting_output();
        let took = [self.output.take_output(), self.errors.take_output()];
        if self.status.is_some() && !self.drained {
            self.last_words = self.last_words.saturating_sub(self.waiting_output() - before);
            self.drained = took.iter().all(|took| *took == Took::All) || self.last_words == 0;
        }
    }

    fn waiting_output(&self) -> usize {
        self.output.waiting_output.len() + self.errors.waiting_output.len()
    }

    fn has_waiting_output(&self) -> bool {
        self.waiting_output() > 0
    }

    fn is_over(&self) -> bool {
        self.status.is_some() && self.drained && !self.has_waiting_output()
    }

    fn tell(&mut self, outlet: &mut Outlet) {
        if self.taken > 0 {
            outlet
                .tell(&FromDynoInit::ExecInputTaken { id: self.id, bytes: std::mem::take(&mut self.taken) });
        }
        for (stream, output) in [(1, &mut self.output), (2, &mut self.errors)] {
            while outlet.has_room() && self.window > 0 && !output.waiting_output.is_empty() {
                let count = output.waiting_output.len().min(self.window);
                let bytes: Vec<u8> = output.waiting_output.drain(..count).collect();
                self.window -= count;
                outlet.tell(&FromDynoInit::ExecOutput { id: self.id, stream, bytes });
            }
        }
    }
}

/// Asks the first process for a command: its line, its input and output, and its errors.
fn ask(requests: &OwnedFd, order: &Order, owner: u32) -> Result<(OwnedFd, Attached, Attached), Failure> {
    let bytes = serde_json::to_vec(order).context(|| "write the order".into())?;
    let file = sys::memory_file(&bytes).context(|| "write the order".into())?;
    let (line, theirs) = sys::message_pair().context(|| "make its line".into())?;
    sys::set_nonblocking(line.as_fd()).context(|| "make its line".into())?;
    let mut descriptors = vec![file, theirs];
    let (mut output, mut errors) = (Attached::terminal(), Attached::default());
    if order.terminal.is_none() {
        let (input_output, inner) = Attached::pipes(owner).context(|| "make its pipes".into())?;
        let (only_errors, stderr) = Attached::output_pipe(owner).context(|| "make its pipes".into())?;
        (output, errors) = (input_output, only_errors);
        descriptors.extend([inner.stdin, inner.stdout, stderr]);
    }
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    sys::send_descriptors(requests.as_fd(), &[1], &descriptors).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => {
            Failure::new("the dyno takes no commands now; is it frozen or out of memory?")
        }
        _ => Failure::new(format!("reach the dyno's first process: {error}")),
    })?;
    Ok((line, output, errors))
}
