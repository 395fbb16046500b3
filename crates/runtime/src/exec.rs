//! Further commands in a dyno that runs, as whoever serves their client uses them.
//!
//! In: [`DynoControl::exec`](crate::DynoControl::exec) with an [`ExecRequest`]. Out: an [`Exec`], whose two halves go
//! to the tasks that carry input and output.
//!
//! Invariants: of each command at most [`EXEC_WINDOW_BYTES`] are under way each way, whatever its client does; dropping
//! its [`ExecOutput`] is the end of the client: the command gets SIGHUP, then SIGKILL. The last event is `Ended` or
//! `Failed`, or there is none because the dyno is gone.

use crate::handle::{Action, LogStream};
use crate::{Environment, Result, RuntimeError};
use ferroku_core::DynoId;
use ferroku_core::protocol::dyno::{Command, EXEC_VERSION, EXEC_WINDOW_BYTES, Order, TerminalSize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The program in every dyno that connects its standard streams to a host and a port, which follow as arguments; its
/// first byte of output says that it is connected.
pub const RELAY: [&str; 2] = [crate::dyno_init::PROGRAM_INSIDE, "relay"];

/// A command to be run beside the dyno's own, with the dyno's ids, limits and file system.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// The dyno's own is not kept anywhere; whoever started the dyno knows it.
    pub environment: Environment,
    pub command: Command,
    /// Set: on a terminal of this size. Else on pipes.
    pub terminal: Option<TerminalSize>,
}

/// A command that was asked for.
#[derive(Debug)]
pub struct Exec {
    pub input: ExecInput,
    pub output: ExecOutput,
}

/// Acts on a command; clones act on the same one. Once it has ended, nothing happens.
#[derive(Debug, Clone)]
pub struct ExecInput {
    dyno_id: DynoId,
    id: u32,
    actions: mpsc::Sender<Action>,
    window: Arc<Semaphore>,
}

/// What a command tells. Dropping it hangs up.
#[derive(Debug)]
pub struct ExecOutput {
    id: u32,
    actions: mpsc::Sender<Action>,
    events: mpsc::UnboundedReceiver<ExecEvent>,
    /// Bytes given out last, which were taken when the next are asked for.
    given: u64,
    _alive: oneshot::Sender<()>,
}

/// What happened to a command.
#[derive(Debug, PartialEq, Eq)]
pub enum ExecEvent {
    Output {
        stream: LogStream,
        bytes: Vec<u8>,
    },
    /// All its output was told. `status` is 128 + signal when one ended it.
    Ended {
        status: i32,
    },
    /// It could not be run.
    Failed {
        message: String,
    },
}

/// The commands of one dyno, between the connection's tasks and the handles. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Execs(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// What dyno-init speaks; `None` until it has said hello.
    version: Option<u32>,
    closed: bool,
    last_id: u32,
    peers: HashMap<u32, Peer>,
}

#[derive(Debug)]
struct Peer {
    events: mpsc::UnboundedSender<ExecEvent>,
    window: Arc<Semaphore>,
}

impl Execs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// dyno-init has said hello.
    pub fn speaks(&self, version: u32) {
        self.table().version = Some(version);
    }

    pub fn output(&self, id: u32, stream: u8, bytes: Vec<u8>) {
        let stream = if stream == 2 { LogStream::Stderr } else { LogStream::Stdout };
        if let Some(peer) = self.table().peers.get(&id) {
            // A client that has gone has hung up already. Bounded by dyno-init, which keeps to the window.
            let _ = peer.events.send(ExecEvent::Output { stream, bytes });
        }
    }

    pub fn input_taken(&self, id: u32, bytes: u64) {
        if let Some(peer) = self.table().peers.get(&id) {
            peer.window.add_permits((bytes as usize).min(EXEC_WINDOW_BYTES));
        }
    }

    pub fn ended(&self, id: u32, status: i32, failure: Option<String>) {
        if let Some(peer) = self.forget(id) {
            let _ = peer.events.send(match failure {
                Some(message) => ExecEvent::Failed { message },
                None => ExecEvent::Ended { status },
            });
        }
    }

    fn forget(&self, id: u32) -> Option<Peer> {
        let peer = self.table().peers.remove(&id)?;
        peer.window.close();
        Some(peer)
    }

    /// The connection has ended, and with it every command.
    pub fn close(&self) {
        let peers = {
            let mut table = self.table();
            table.closed = true;
            std::mem::take(&mut table.peers)
        };
        peers.values().for_each(|peer| peer.window.close());
    }

    /// Has a command run.
    pub async fn start(
        &self,
        dyno_id: DynoId,
        actions: &mpsc::Sender<Action>,
        request: ExecRequest,
    ) -> Result<Exec> {
        let (sender, events) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(EXEC_WINDOW_BYTES));
        let id = {
            let mut table = self.table();
            match table.version {
                _ if table.closed => return Err(RuntimeError::DynoGone { dyno_id }),
                Some(version) if version >= EXEC_VERSION => {}
                Some(_) => return Err(RuntimeError::ExecTooOld { dyno_id }),
                None => return Err(RuntimeError::ExecTooEarly { dyno_id }),
            }
            table.last_id = table.last_id.wrapping_add(1);
            let id = table.last_id;
            table.peers.insert(id, Peer { events: sender, window: Arc::clone(&window) });
            id
        };
        let ExecRequest { environment, command, terminal } = request;
        let order = Order { environment: environment.variables().clone(), command, terminal };
        if actions.send(Action::Exec { id, order }).await.is_err() {
            self.forget(id);
            return Err(RuntimeError::DynoGone { dyno_id });
        }
        let (alive, gone) = oneshot::channel();
        let (execs, hangup) = (self.clone(), actions.clone());
        tokio::spawn(async move {
            let _: Result<(), _> = gone.await;
            if execs.forget(id).is_some() {
                let _ = hangup.send(Action::ExecHangup { id }).await;
            }
        });
        let input = ExecInput { dyno_id, id, actions: actions.clone(), window };
        let output = ExecOutput { id, actions: actions.clone(), events, given: 0, _alive: alive };
        Ok(Exec { input, output })
    }
}

impl ExecInput {
    /// Bytes for its standard input. Waits while it does not read what came before.
    ///
    /// # Errors
    /// It has ended, or the dyno is gone.
    pub async fn write(&self, bytes: &[u8]) -> Result<()> {
        const PIECE_BYTES: usize = EXEC_WINDOW_BYTES / 4;
        for piece in bytes.chunks(PIECE_BYTES) {
            let gone = |_| RuntimeError::DynoGone { dyno_id: self.dyno_id };
            self.window.acquire_many(piece.len() as u32).await.map_err(gone)?.forget();
            self.send(Action::ExecInput { id: self.id, bytes: piece.to_vec() }).await?;
        }
        Ok(())
    }

    /// End of its standard input, after all that was written. On a terminal, this does nothing.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn close(&self) -> Result<()> {
        self.send(Action::ExecCloseInput { id: self.id }).await
    }

    /// A new size of its terminal.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.send(Action::ExecResize { id: self.id, rows, columns }).await
    }

    /// A signal to it and what it has started.
    ///
    /// # Errors
    /// The dyno is gone.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        self.send(Action::ExecSignal { id: self.id, signal }).await
    }

    async fn send(&self, action: Action) -> Result<()> {
        self.actions.send(action).await.map_err(|_| RuntimeError::DynoGone { dyno_id: self.dyno_id })
    }
}

impl ExecOutput {
    /// The next event; `None` after the last, and when the dyno is gone. Asking for it says that what was
    /// given before has been dealt with: only then the command may write as much again.
    pub async fn next(&mut self) -> Option<ExecEvent> {
        let bytes = std::mem::take(&mut self.given);
        if bytes > 0 {
            let _ = self.actions.send(Action::ExecOutputTaken { id: self.id, bytes }).await;
        }
        let event = self.events.recv().await;
        if let Some(ExecEvent::Output { bytes, .. }) = &event {
            self.given = bytes.len() as u64;
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test]
    async fn a_dyno_init_of_an_older_release_is_not_asked() {
        let execs = Execs::default();
        let (actions, mut asked) = mpsc::channel(1);
        let dyno_id = DynoId(Uuid::nil());
        let start = || {
            let command = Command::Shell("true".into());
            let request = ExecRequest { environment: Environment::default(), command, terminal: None };
            execs.start(dyno_id, &actions, request)
        };
        assert!(matches!(start().await, Err(RuntimeError::ExecTooEarly { .. })));
        execs.speaks(EXEC_VERSION - 1);
        assert!(matches!(start().await, Err(RuntimeError::ExecTooOld { .. })));
        assert!(asked.try_recv().is_err());
        execs.speaks(EXEC_VERSION);
        let mut exec = start().await.expect("asked");
        assert!(matches!(asked.recv().await, Some(Action::Exec { id: 1, .. })));
        execs.ended(1, 3, None);
        assert_eq!(exec.output.next().await, Some(ExecEvent::Ended { status: 3 }));
        assert_eq!(exec.output.next().await, None);
        drop(exec);
        let exec = start().await.expect("asked");
        assert!(matches!(asked.recv().await, Some(Action::Exec { id: 2, .. })));
        drop(exec);
        assert!(matches!(asked.recv().await, Some(Action::ExecHangup { id: 2 })), "of the living one only");
        execs.close();
        assert!(matches!(start().await, Err(RuntimeError::DynoGone { .. })));
    }
}
