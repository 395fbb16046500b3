//! Carries what one dyno tells to where it belongs: lines to its app's log, attached output to the client, all
//! else to the app's loop.
//!
//! Invariants: a line is acknowledged only when it is on disk; an event reaches the loop only after the lines
//! before it were taken in.

use super::app_loop::Message;
use super::{log_text, now_us};
use bytes::Bytes;
use ferroku_core::AppId;
use ferroku_logplex::{LogLine, Logplex};
use ferroku_runtime::{DynoControl, DynoEvent, DynoHandle};
use std::time::Duration;
use tokio::sync::mpsc;

/// Lines taken in before they are flushed and acknowledged together.
const BATCH_LINES: usize = 1000;
/// When the log cannot be written (disk full), how long until the next try.
const FLUSH_RETRY: Duration = Duration::from_millis(500);
/// Tries to write the last lines of a dyno that has ended, before its end is reported all the same.
const LAST_FLUSHES: usize = 10;

/// One dyno's pump.
pub(super) struct Pump {
    pub app_id: AppId,
    /// `web.1`.
    pub name: String,
    pub logplex: Logplex,
    pub inbox: mpsc::UnboundedSender<Message>,
    /// Where attached output goes.
    pub output: Option<mpsc::Sender<Bytes>>,
}

impl Pump {
    /// Runs until the dyno's last event.
    pub async fn run(mut self, handle: DynoHandle) {
        let dyno_id = handle.dyno_id;
        let (control, mut events) = handle.split();
        let mut unacknowledged: Option<u64> = None;
        let mut lines = 0;
        loop {
            let event = match events.try_recv() {
                Ok(event) if lines < BATCH_LINES => event,
                taken => {
                    // Nothing more waits, or the batch is full: write what there is.
                    self.acknowledge(&control, &mut unacknowledged).await;
                    lines = 0;
                    let next = match taken {
                        Ok(event) => Some(event),
                        Err(_) if unacknowledged.is_some() => {
                            match tokio::time::timeout(FLUSH_RETRY, events.recv()).await {
                                Ok(next) => next,
                                Err(_) => continue,
                            }
                        }
                        Err(_) => events.recv().await,
                    };
                    let Some(event) = next else { return };
                    event
                }
            };
            match event {
                DynoEvent::Log { sequence, at_us, line, .. } => {
                    let line = LogLine::new(at_us, "app", self.name.as_str(), line);
                    self.logplex.append_dyno(self.app_id, dyno_id, sequence, line);
                    unacknowledged = Some(sequence);
                    lines += 1;
                }
                DynoEvent::LogDropped { count } => {
                    let text = log_text::dropped(count);
                    self.logplex
                        .append(self.app_id, LogLine::new(now_us(), "heroku", self.name.as_str(), text));
                }
                DynoEvent::Output(bytes) => self.pass_on(bytes).await,
                event => {
                    if let DynoEvent::Exited { .. } | DynoEvent::Lost | DynoEvent::StartFailed { .. } = event
                    {
                        self.finish(&control, &mut unacknowledged).await;
                    }
                    let _ = self.inbox.send(Message::Event { dyno_id, event: Box::new(event) });
                }
            }
        }
    }

    async fn pass_on(&mut self, bytes: Vec<u8>) {
        let Some(output) = &self.output else { return };
        // Of a client that is gone, its own task tells the loop; the dyno must not block on it.
        let _ = output.send(bytes.into()).await;
    }

    async fn acknowledge(&self, control: &DynoControl, unacknowledged: &mut Option<u64>) {
        let Some(sequence) = *unacknowledged else { return };
        if self.logplex.flush().await.is_ok() {
            // A dyno that is gone needs no acknowledgement.
            let _ = control.ack(sequence).await;
            *unacknowledged = None;
        }
    }

    async fn finish(&mut self, control: &DynoControl, unacknowledged: &mut Option<u64>) {
        // The client sees the end of output as the end of the connection.
        self.output = None;
        for _ in 0..LAST_FLUSHES {
            self.acknowledge(control, unacknowledged).await;
            if unacknowledged.is_none() {
                return;
            }
            tokio::time::sleep(FLUSH_RETRY).await;
        }
    }
}
