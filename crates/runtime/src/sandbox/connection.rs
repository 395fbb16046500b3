//! Control's end of the connection to one dyno-init: frames into events, actions into frames.

use super::Shared;
use super::folders::{COMPLAINTS, short_path};
use crate::dyno_init::ring;
use crate::exec::Execs;
use crate::handle::{Action, DynoControl, DynoEvent, DynoHandle, LogStream};
use crate::launch::{ExitRecord, LaunchPlan, file};
use crate::{Environment, Result, RuntimeError};
use ferroku_core::DynoId;
use ferroku_core::protocol::dyno::{FromDynoInit, Hello, PROTOCOL_VERSION, STDIN_WINDOW_BYTES, ToDynoInit};
use ferroku_core::protocol::frame::Decoder;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// Events that wait for the manager; then dyno-init's ring has the rest.
const EVENTS: usize = 256;
/// Actions under way.
const ACTIONS: usize = 64;
/// A dead dyno-init lets go of its lock at once.
const OWNER_GONE: Duration = Duration::from_secs(2);

/// What the driver keeps of a dyno.
#[derive(Debug)]
pub(super) struct Running {
    pub actions: mpsc::Sender<Action>,
    /// Ends (its sender is dropped) with the connection for good.
    pub connection: watch::Receiver<()>,
    pub pid: Arc<AtomicU32>,
    pub slot: Option<u32>,
    /// The connection's tasks; they end with the driver, as they would with the process.
    pub tasks: JoinSet<()>,
}

/// Nobody waits for room in the input of a dyno that is gone, nor for a further command of it.
struct CloseOnDrop(Arc<Semaphore>, Execs);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
        self.1.close();
    }
}

/// One connection's reading half and what it tells.
struct Reader {
    shared: Arc<Shared>,
    dyno_id: DynoId,
    events: Option<mpsc::Sender<DynoEvent>>,
    stdin_window: Arc<Semaphore>,
    execs: Execs,
    pid: Arc<AtomicU32>,
    last_sequence: u64,
    heard: bool,
}

/// Starts to talk to a dyno-init. With an environment it is a new dyno's; else one that is adopted.
///
/// # Errors
/// It does not take the connection.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    plan: LaunchPlan,
    environment: Option<&Environment>,
) -> Result<(DynoHandle, Running)> {
    let dyno_id = plan.spec.dyno_id;
    let failed = |action| move |source| RuntimeError::DynoInit { dyno_id, action, source };
    let stream = dial(&plan.run_folder).await.map_err(failed("connect to it"))?;
    let (read, mut write) = stream.into_split();
    let mut first = Vec::new();
    let hello = Hello {
        version: PROTOCOL_VERSION,
        digest: shared.digest.clone(),
        dyno_id: dyno_id.to_string(),
        nonce: plan.nonce.clone(),
        pid: 0,
    };
    let encoded = ToDynoInit::Hello(hello).encode(&mut first).and_then(|()| match environment {
        Some(environment) => ToDynoInit::Environment(environment.variables().clone()).encode(&mut first),
        None => Ok(()),
    });
    encoded.map_err(|error| RuntimeError::Spec { dyno_id, message: error.to_string() })?;
    let sent = write.write_all(&first).await;
    first.fill(0);
    if environment.is_some() {
        // dyno-init may have died over its mounts: the reader tells that with the reason.
        let _ = sent;
    } else {
        sent.map_err(failed("write to it"))?;
    }
    let (handle, mut running, reader, alive, inbox) = parts(shared, dyno_id, Some(&plan));
    let window = CloseOnDrop(Arc::clone(&reader.stdin_window), reader.execs.clone());
    running.tasks.spawn(async move {
        tokio::select! {
            () = reader.run(read) => {}
            () = write_actions(write, inbox) => {}
        }
        drop((alive, window));
    });
    Ok((handle, running))
}

/// The handle of a dyno that ended while nobody was connected: tells what it left, and its end. Without `plan` its
/// run folder is gone: the machine was started anew.
pub(super) fn bury(
    shared: &Arc<Shared>,
    dyno_id: DynoId,
    plan: Option<&LaunchPlan>,
) -> (DynoHandle, Running) {
    let (handle, mut running, mut reader, alive, _) = parts(shared, dyno_id, plan);
    running.tasks.spawn(async move {
        reader.heard = true;
        reader.end().await;
        drop(alive);
    });
    (handle, running)
}

type Parts = (DynoHandle, Running, Reader, watch::Sender<()>, mpsc::Receiver<Action>);

fn parts(shared: &Arc<Shared>, dyno_id: DynoId, plan: Option<&LaunchPlan>) -> Parts {
    let (event_sender, events) = mpsc::channel(EVENTS);
    let (actions, inbox) = mpsc::channel(ACTIONS);
    let (alive, connection) = watch::channel(());
    let stdin_window = Arc::new(Semaphore::new(STDIN_WINDOW_BYTES));
    let execs = Execs::default();
    let pid = Arc::new(AtomicU32::new(0));
    let network = plan.and_then(|plan| plan.network);
    let port = plan.and_then(|plan| plan.spec.port);
    let address = network.zip(port).map(|(network, port)| SocketAddr::from((network.address, port)));
    let slot = network.map(|network| u32::from(network.address) - u32::from(shared.node.subnet));
    let wake_socket = plan.map(|plan| plan.run_folder.join(file::WAKE)).filter(|socket| socket.exists());
    let handle = DynoHandle {
        wake_socket,
        dyno_id,
        address,
        events,
        control: DynoControl::new(dyno_id, actions.clone(), Arc::clone(&stdin_window), execs.clone()),
    };
    let running = Running { actions, connection, pid: Arc::clone(&pid), slot, tasks: JoinSet::new() };
    let reader = Reader {
        shared: Arc::clone(shared),
        dyno_id,
        events: Some(event_sender),
        stdin_window,
        execs,
        pid,
        last_sequence: 0,
        heard: false,
    };
    (handle, running, reader, alive, inbox)
}

async fn dial(run_folder: &Path) -> io::Result<UnixStream> {
    let (_folder, path) = short_path(&run_folder.join(file::SOCKET))?;
    UnixStream::connect(path).await
}

async fn write_actions(mut write: OwnedWriteHalf, mut inbox: mpsc::Receiver<Action>) {
    while let Some(action) = inbox.recv().await {
        let message = match action {
            Action::Stop { grace_ms } => ToDynoInit::Stop { grace_ms },
            Action::Kill => ToDynoInit::Kill,
            Action::Signal(signal) => ToDynoInit::Signal(signal),
            Action::Stdin(bytes) => ToDynoInit::Stdin(bytes),
            Action::CloseStdin => ToDynoInit::CloseStdin,
            Action::Resize { rows, columns } => ToDynoInit::Resize { rows, columns },
            Action::Acknowledge { sequence } => ToDynoInit::Acknowledge(sequence),
            Action::Freeze { sleep_id } => ToDynoInit::Freeze { sleep_id },
            Action::Thaw { sleep_id } => ToDynoInit::Thaw { sleep_id },
            Action::Release => ToDynoInit::Release,
            Action::Exec { id, order } => ToDynoInit::Exec { id, order },
            Action::ExecInput { id, bytes } => ToDynoInit::ExecInput { id, bytes },
            Action::ExecCloseInput { id } => ToDynoInit::ExecCloseInput { id },
            Action::ExecResize { id, rows, columns } => ToDynoInit::ExecResize { id, rows, columns },
            Action::ExecSignal { id, signal } => ToDynoInit::ExecSignal { id, signal },
            Action::ExecHangup { id } => ToDynoInit::ExecHangup { id },
            Action::ExecOutputTaken { id, bytes } => ToDynoInit::ExecOutputTaken { id, bytes },
        };
        let mut bytes = Vec::new();
        if message.encode(&mut bytes).is_err() || write.write_all(&bytes).await.is_err() {
            break;
        }
        // An environment may have been in it.
        bytes.fill(0);
    }
    // Nobody can act on the dyno any more, but its events are still wanted: the reader ends the connection.
    std::future::pending::<()>().await;
}

// === impl Reader ===

impl Reader {
    async fn run(mut self, mut read: OwnedReadHalf) {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = match read.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            decoder.push(&buffer[..count]);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => match FromDynoInit::decode(frame) {
                        Ok(Some(message)) => self.hear(message).await,
                        Ok(None) => {}
                        Err(error) => {
                            tracing::warn!(dyno = %self.dyno_id, %error, "dyno-init spoke nonsense")
                        }
                    },
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(dyno = %self.dyno_id, %error, "dyno-init spoke nonsense");
                        return;
                    }
                }
            }
        }
        if self.events.is_some() {
            self.end().await;
        }
    }

    async fn hear(&mut self, message: FromDynoInit) {
        self.heard = true;
        let event = match message {
            FromDynoInit::Hello(hello) => {
                self.pid.store(hello.pid, Ordering::Relaxed);
                self.execs.speaks(hello.version);
                return;
            }
            FromDynoInit::ExecOutput { id, stream, bytes } => return self.execs.output(id, stream, bytes),
            FromDynoInit::ExecInputTaken { id, bytes } => return self.execs.input_taken(id, bytes),
            FromDynoInit::ExecEnded { id, status, failure } => {
                return self.execs.ended(id, status, failure);
            }
            FromDynoInit::StdinConsumed { bytes } => {
                self.stdin_window.add_permits((bytes as usize).min(STDIN_WINDOW_BYTES));
                return;
            }
            FromDynoInit::Started => DynoEvent::Started,
            FromDynoInit::Bound => DynoEvent::Bound,
            FromDynoInit::BoundLoopbackOnly => DynoEvent::BoundLoopbackOnly,
            FromDynoInit::BootTimeout => DynoEvent::BootTimeout,
            FromDynoInit::Log { sequence, at_us, stream, line } => {
                self.last_sequence = sequence;
                let stream = if stream == 2 { LogStream::Stderr } else { LogStream::Stdout };
                DynoEvent::Log { sequence, at_us, stream, line }
            }
            FromDynoInit::LogDropped { count } => DynoEvent::LogDropped { count },
            FromDynoInit::Output(bytes) => DynoEvent::Output(bytes),
            FromDynoInit::StopTimeout => DynoEvent::StopTimeout,
            FromDynoInit::Frozen { sleep_id } => DynoEvent::Frozen { sleep_id },
            FromDynoInit::Thawed { sleep_id } => DynoEvent::Thawed { sleep_id },
            FromDynoInit::FreezeFailed { sleep_id, reason } => DynoEvent::FreezeFailed { sleep_id, reason },
            FromDynoInit::StartFailed { message } => DynoEvent::StartFailed { message },
            FromDynoInit::Exited { status, at_us, oom_killed } => {
                DynoEvent::Exited { status, at_us, oom_killed }
            }
        };
        self.tell(event).await;
    }

    /// To the manager; it may have let go of the events, which is its affair.
    async fn tell(&mut self, event: DynoEvent) {
        let last =
            matches!(event, DynoEvent::Exited { .. } | DynoEvent::StartFailed { .. } | DynoEvent::Lost);
        if let Some(events) = &self.events {
            let _ = events.send(event).await;
        }
        if last {
            self.events = None;
        }
    }

    /// dyno-init is gone without having told the end: what it left on disk tells it.
    async fn end(&mut self) {
        let (shared, dyno_id) = (Arc::clone(&self.shared), self.dyno_id);
        if !shared.owner_gone(self.dyno_id, OWNER_GONE).await {
            // It lives, so another control has connected to it, and this one is on its way out.
            return;
        }
        let after = self.last_sequence;
        let left = tokio::task::spawn_blocking(move || {
            let cgroup = shared.node.dyno_cgroup(dyno_id);
            if let Err(error) = shared.hierarchies.group(&cgroup).kill() {
                tracing::error!(cgroup, %error, "cannot kill what is left of a dyno");
            }
            let (state, run) = (shared.folders.state(dyno_id), shared.folders.run(dyno_id));
            let lines = ring::salvage(&state.join(file::RING)).unwrap_or_default();
            let complaints = std::fs::read_to_string(run.join(COMPLAINTS)).unwrap_or_default();
            (lines, ExitRecord::read(&state), complaints)
        });
        let Ok((lines, record, complaints)) = left.await else { return };
        for line in lines {
            let is_new =
                |line: &FromDynoInit| matches!(line, FromDynoInit::Log { sequence, .. } if *sequence > after);
            if is_new(&line) {
                self.hear(line).await;
            }
        }
        let end = match record {
            Some(ExitRecord { status, at_us, oom_killed }) => DynoEvent::Exited { status, at_us, oom_killed },
            None if !self.heard => {
                let reason = complaints.trim();
                let reason = if reason.is_empty() { "dyno-init died at once" } else { reason };
                DynoEvent::StartFailed { message: reason.to_owned() }
            }
            None => DynoEvent::Lost,
        };
        self.tell(end).await;
    }
}
