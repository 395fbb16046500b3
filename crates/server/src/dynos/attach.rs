//! Attached one-offs: between a client's connection and a dyno's terminal or pipes.
//!
//! The connection belongs to [`crate::rendezvous`]; here bytes go through two bounded channels. Without a
//! terminal, a byte 0x04 at the end of what the client sends stands for the end of its input (the CLI sends
//! it); with one, the terminal itself understands it. When the client goes, all processes get SIGHUP, again
//! each 5 s, and after 15 s R16 is logged and they are killed.
//!
//! Source: heroku-behaviour reference, section 6.6; heroku-cli reference, rendezvous.

use super::app_loop::{AppLoop, Live, Message};
use super::{DynosError, Result, log_text};
use crate::rendezvous::AttachedStreams;
use bytes::Bytes;
use ferroku_core::DynoId;
use ferroku_core::dyno::DynoState;
use ferroku_runtime::{DynoControl, ExecInput};
use ferroku_store::{apps, dynos};
use std::time::Duration;
use tokio::sync::mpsc;

/// Chunks that wait for a slow side before the other is made to wait.
pub(super) const CHUNKS: usize = 32;
/// The end-of-transmission byte.
const END_OF_TRANSMISSION: u8 = 0x04;
/// How long a 0x04 must stay the last byte to count as the end of input rather than as data.
const END_SETTLES: Duration = Duration::from_millis(100);
/// Between two SIGHUPs. Heroku's value.
const HANGUP_PAUSE: Duration = Duration::from_secs(5);
/// After so many SIGHUPs, R16 and the end. Heroku's value.
const HANGUPS: u32 = 3;
const SIGHUP: i32 = 1;

/// The dyno's ends of a client's streams, kept until it runs.
pub(super) struct Client {
    input: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<Bytes>,
    terminal: bool,
}

impl AppLoop {
    /// A client has come: the dyno is started.
    pub async fn on_attach(&mut self, dyno_id: DynoId) -> Result<AttachedStreams> {
        if self.closing.is_some() {
            return Err(DynosError::Closing);
        }
        let row = self.living(dyno_id).await?.ok_or(DynosError::NotWaiting(dyno_id))?;
        let waits = row.attached
            && row.state == DynoState::Created
            && row.stop_requested_at.is_none()
            && !self.live.contains_key(&dyno_id);
        let store = &self.shared.parts.store;
        let app = apps::by_id(store, self.app_id).await?;
        let (true, Some(app)) = (waits, app) else { return Err(DynosError::NotWaiting(dyno_id)) };
        let options = dynos::options(store, dyno_id).await?.unwrap_or_default();
        let (to_dyno, input) = mpsc::channel(CHUNKS);
        let (output, from_dyno) = mpsc::channel(CHUNKS);
        let client = Client { input, output, terminal: options.terminal };
        self.live.insert(dyno_id, Live::for_client(client));
        if let Err(shortage) = self.spawn(&app, &row) {
            self.log(&row, log_text::waiting(shortage));
            self.end(&row).await?;
            return Err(DynosError::NoRoom(shortage));
        }
        Ok(AttachedStreams { input: to_dyno, output: from_dyno })
    }

    /// The dyno runs: its client's bytes flow. Gives where its output goes.
    pub fn connect(&self, dyno_id: DynoId, control: DynoControl, client: Client) -> mpsc::Sender<Bytes> {
        let inbox = self.sender.clone();
        tokio::spawn(async move {
            feed(client.input, &Input::Dyno(control), client.terminal).await;
            // Of a dyno that has ended, this is nothing new.
            let _ = inbox.send(Message::Hangup { dyno_id, step: 0 });
        });
        client.output
    }

    /// The next step after the client has gone.
    pub async fn on_hangup(&mut self, dyno_id: DynoId, step: u32) {
        let Some(control) = self.live.get(&dyno_id).and_then(|live| live.control.clone()) else { return };
        if step < HANGUPS {
            let _ = control.signal(SIGHUP).await;
            let inbox = self.sender.clone();
            tokio::spawn(async move {
                tokio::time::sleep(HANGUP_PAUSE).await;
                let _ = inbox.send(Message::Hangup { dyno_id, step: step + 1 });
            });
            return;
        }
        if let Ok(Some(row)) = self.living(dyno_id).await {
            self.log(&row, log_text::DETACHED);
            self.log(&row, log_text::STOPPING_KILL);
        }
        let _ = control.kill().await;
    }
}

/// Where a client's bytes go.
pub(super) enum Input {
    Dyno(DynoControl),
    Inside(ExecInput),
}

impl Input {
    /// What has ended takes nothing; its end closes the connection.
    async fn write(&self, bytes: Vec<u8>) {
        let _ = match self {
            Self::Dyno(control) => control.write_stdin(bytes).await,
            Self::Inside(input) => input.write(&bytes).await,
        };
    }

    async fn close(&self) {
        let _ = match self {
            Self::Dyno(control) => control.close_stdin().await,
            Self::Inside(input) => input.close().await,
        };
    }
}

/// Passes a client's bytes on until it goes.
pub(super) async fn feed(mut client: mpsc::Receiver<Bytes>, input: &Input, terminal: bool) {
    let mut held = false;
    loop {
        let next = if held {
            match tokio::time::timeout(END_SETTLES, client.recv()).await {
                Ok(next) => next,
                Err(_) => {
                    held = false;
                    input.close().await;
                    continue;
                }
            }
        } else {
            client.recv().await
        };
        let Some(bytes) = next else { return };
        let (chunk, holds) = if terminal { (bytes.to_vec(), false) } else { hold_back(held, &bytes) };
        held = holds;
        if !chunk.is_empty() {
            input.write(chunk).await;
        }
    }
}

/// What to pass on of `bytes`, and whether a 0x04 at its end is held back. `held`: one was held back before,
/// which turns out to be data.
fn hold_back(held: bool, bytes: &[u8]) -> (Vec<u8>, bool) {
    if bytes.is_empty() {
        return (Vec::new(), held);
    }
    let mut chunk = Vec::with_capacity(bytes.len() + 1);
    if held {
        chunk.push(END_OF_TRANSMISSION);
    }
    chunk.extend_from_slice(bytes);
    let holds = chunk.pop_if(|last| *last == END_OF_TRANSMISSION).is_some();
    (chunk, holds)
}

#[cfg(test)]
mod tests {
    use super::hold_back;

    #[test]
    fn only_a_last_end_of_transmission_is_held_back() {
        assert_eq!(hold_back(false, b"abc"), (b"abc".to_vec(), false));
        assert_eq!(hold_back(false, b"abc\x04"), (b"abc".to_vec(), true));
        assert_eq!(hold_back(true, b"more"), (b"\x04more".to_vec(), false), "it was data");
        assert_eq!(hold_back(true, b"\x04"), (b"\x04".to_vec(), true));
        assert_eq!(hold_back(false, b"a\x04b"), (b"a\x04b".to_vec(), false));
        assert_eq!(hold_back(true, b""), (Vec::new(), true));
    }
}
