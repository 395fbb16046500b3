//! A running dyno as its manager sees it: events out, actions in.

use crate::Result;
use crate::exec::{Exec, ExecRequest, Execs};
use ferroku_core::DynoId;
use ferroku_core::protocol::dyno::{Order, STDIN_WINDOW_BYTES};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// What happened to a dyno.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DynoEvent {
    /// The command runs. Told again after an adoption.
    Started,
    /// A socket listens on the port, on an address that the router reaches, and took a connection. Told again after an adoption.
    Bound,
    /// A socket listens on the port, but on 127.0.0.1 or ::1 only, where no router gets to. Told once.
    BoundLoopbackOnly,
    /// Nothing listened in time (Heroku's R10). The dyno still runs: the caller decides.
    BootTimeout,
    /// A line of the log. `sequence` starts at 1 and has no gaps but those told by `LogDropped`; after
    /// an adoption, lines that were not acknowledged come again with the same numbers.
    Log { sequence: u64, at_us: i64, stream: LogStream, line: Vec<u8> },
    /// So many lines were lost here, because the ring was full.
    LogDropped { count: u64 },
    /// What an attached dyno wrote, as it came.
    Output(Vec<u8>),
    /// The grace after SIGTERM ran out (R12); it was killed.
    StopTimeout,
    /// It could not be started; no `Exited` follows.
    StartFailed { message: String },
    /// All of it has ended, and every log line before was told. `status` is 128 + signal when one ended it.
    /// Repeated after an adoption until [`crate::Driver::remove`].
    Exited { status: i32, at_us: i64, oom_killed: bool },
    /// None of its processes runs any more, as control asked under this number. Told again after an adoption.
    Frozen { sleep_id: u64 },
    /// It runs again, or was not frozen, because somebody woke it. Told again after an adoption, whenever that was.
    Thawed { sleep_id: u64 },
    /// It could not be frozen, and runs.
    FreezeFailed { sleep_id: u64, reason: String },
    /// Its dyno-init died; what was left of the dyno was killed. The exit status is not known.
    Lost,
}

/// Which stream a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// A dyno. Dropping it does nothing to the dyno.
#[derive(Debug)]
pub struct DynoHandle {
    pub dyno_id: DynoId,
    /// Address of the dyno with its port; `None` without a port or a network.
    pub address: Option<SocketAddr>,
    /// Where the router wakes it; `None` for one that an older release started, which cannot be frozen.
    pub wake_socket: Option<PathBuf>,
    /// Ends after `Exited`, `StartFailed` or `Lost`, and at the driver's shutdown.
    pub events: mpsc::Receiver<DynoEvent>,
    pub control: DynoControl,
}

/// Acts on a dyno; clones act on the same one. Each call returns once the action is queued for
/// its dyno-init, and fails only when the dyno is gone.
#[derive(Debug, Clone)]
pub struct DynoControl {
    dyno_id: DynoId,
    actions: mpsc::Sender<Action>,
    stdin_window: Arc<Semaphore>,
    execs: Execs,
}

/// What a [`DynoControl`] asks of the connection task.
#[derive(Debug)]
pub(crate) enum Action {
    Stop { grace_ms: u64 },
    Kill,
    Signal(i32),
    Stdin(Vec<u8>),
    CloseStdin,
    Resize { rows: u16, columns: u16 },
    Acknowledge { sequence: u64 },
    Freeze { sleep_id: u64 },
    Thaw { sleep_id: u64 },
    Release,
    Exec { id: u32, order: Order },
    ExecInput { id: u32, bytes: Vec<u8> },
    ExecCloseInput { id: u32 },
    ExecResize { id: u32, rows: u16, columns: u16 },
    ExecSignal { id: u32, signal: i32 },
    ExecHangup { id: u32 },
    ExecOutputTaken { id: u32, bytes: u64 },
}

// === impl DynoHandle ===

impl DynoHandle {
    /// The actions and the events apart, for two tasks.
    pub fn split(self) -> (DynoControl, mpsc::Receiver<DynoEvent>) {
        (self.control, self.events)
    }

    /// The next event; `None` after the last.
    pub async fn next_event(&mut self) -> Option<DynoEvent> {
        self.events.recv().await
    }
}

// === impl DynoControl ===

impl DynoControl {
    pub(crate) fn new(
        dyno_id: DynoId,
        actions: mpsc::Sender<Action>,
        stdin_window: Arc<Semaphore>,
        execs: Execs,
    ) -> Self {
        Self { dyno_id, actions, stdin_window, execs }
    }

    /// Runs a further command in the dyno, whose own command must run.
    ///
    /// # Errors
    /// The dyno is gone, or its dyno-init is of a release that could not do that. What is wrong inside the dyno
    /// is the first event.
    pub async fn exec(&self, request: ExecRequest) -> Result<Exec> {
        self.execs.start(self.dyno_id, &self.actions, request).await
    }

    /// Which dyno this acts on.
    pub fn dyno_id(&self) -> DynoId {
        self.dyno_id
    }

    /// SIGTERM to all its processes; SIGKILL for what is left after `grace_ms`.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn stop(&self, grace_ms: u64) -> Result<()> {
        self.send(Action::Stop { grace_ms }).await
    }

    /// SIGKILL to all its processes.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn kill(&self) -> Result<()> {
        self.send(Action::Kill).await
    }

    /// A signal to all its processes.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        self.send(Action::Signal(signal)).await
    }

    /// Lets none of its processes run until it is woken; `Frozen`, `Thawed` or `FreezeFailed` follows. `sleep_id` is a
    /// number that was not used for this dyno before.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn freeze(&self, sleep_id: u64) -> Result<()> {
        self.send(Action::Freeze { sleep_id }).await
    }

    /// Lets its processes run, and prevents a freeze under this number that is still to come; `Thawed` follows.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn thaw(&self, sleep_id: u64) -> Result<()> {
        self.send(Action::Thaw { sleep_id }).await
    }

    /// Bytes for an attached dyno's standard input. Waits while the dyno does not read what came before.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn write_stdin(&self, bytes: impl Into<Vec<u8>>) -> Result<()> {
        const PIECE_BYTES: usize = STDIN_WINDOW_BYTES / 4;
        for piece in bytes.into().chunks(PIECE_BYTES) {
            let gone = |_| crate::RuntimeError::DynoGone { dyno_id: self.dyno_id };
            self.stdin_window.acquire_many(piece.len() as u32).await.map_err(gone)?.forget();
            self.send(Action::Stdin(piece.to_vec())).await?;
        }
        Ok(())
    }

    /// End of an attached dyno's standard input, after all that was written. On a terminal, this does nothing.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn close_stdin(&self) -> Result<()> {
        self.send(Action::CloseStdin).await
    }

    /// A new size of an attached dyno's terminal.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.send(Action::Resize { rows, columns }).await
    }

    /// Every line up to and with `sequence` is safe; dyno-init may forget them.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn ack(&self, sequence: u64) -> Result<()> {
        self.send(Action::Acknowledge { sequence }).await
    }

    async fn send(&self, action: Action) -> Result<()> {
        self.actions.send(action).await.map_err(|_| crate::RuntimeError::DynoGone { dyno_id: self.dyno_id })
    }
}
