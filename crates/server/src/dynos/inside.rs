//! Further commands in a dyno that runs: `heroku run:inside`, `heroku ps:exec`.
//!
//! In: who asks, for what, in which dyno. Out: the command's streams, as the runtime gives them or for a rendezvous.
//! The command gets the environment that the dyno was started with, put together again from the same rows, and one line
//! of the app's log says who ran it.
//!
//! Invariant: nothing of this goes through the app's loop but the question which dyno-init serves the dyno, so that no
//! client can hold up the app's dynos.

use super::app_loop::Message;
use super::attach::{CHUNKS, Input, feed};
use super::{DynoManager, DynosError, actions};
use crate::node::now_ms;
use crate::rendezvous::AttachedStreams;
use bytes::Bytes;
use ferroku_core::DynoId;
use ferroku_core::dyno::{Dyno, DynoState};
use ferroku_core::event::Actor;
use ferroku_runtime::{Command, Environment, Exec, ExecEvent, ExecRequest, TerminalSize};
use ferroku_store::{Store, StoreError, apps, dynos, events};
use std::collections::BTreeMap;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// As a one-off's.
const PROMPT: &str = r"\w $ ";

/// What is to be run, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsideRequest {
    pub dyno_id: DynoId,
    pub command: Command,
    /// What the app's log shows of it; `None` says nothing, because it has been said.
    pub shown: Option<String>,
    /// Beside the dyno's own variables: `TERM` and the like.
    pub environment: BTreeMap<String, String>,
    pub terminal: Option<TerminalSize>,
    pub actor: Actor,
}

/// Why nothing was run. Display is for the user.
#[derive(Debug, Error)]
pub enum InsideError {
    #[error("{name} is {state}: commands can be run only inside a dyno that is up. See `heroku ps`.")]
    NotUp { name: String, state: &'static str },
    #[error("the dyno is gone. See `heroku ps`.")]
    Gone,
    #[error("{0}")]
    Failed(#[from] DynosError),
}

impl From<StoreError> for InsideError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

/// Whether a command can be run inside.
///
/// # Errors
/// It is not up.
pub fn check_up(row: &Dyno) -> Result<(), InsideError> {
    match why_not(row.state, row.stopping_at.is_some() || row.ended_at.is_some()) {
        None => Ok(()),
        Some(state) => Err(InsideError::NotUp { name: row.name(), state }),
    }
}

/// What stands in the way of commands, for the user.
fn why_not(state: DynoState, leaves: bool) -> Option<&'static str> {
    Some(match state {
        DynoState::Up if !leaves => return None,
        DynoState::Up => "being stopped",
        DynoState::Created | DynoState::Starting => "still starting",
        DynoState::Crashed => "crashed",
        DynoState::Idle => "asleep (a request to the app wakes it)",
        DynoState::Down | DynoState::Complete => "down",
    })
}

impl DynoManager {
    /// Runs a command inside a dyno that is up.
    ///
    /// # Errors
    /// The dyno is not up, or of an older release of Ferroku; or the database failed.
    pub async fn run_inside(&self, request: InsideRequest) -> Result<Exec, InsideError> {
        let shared = self.0.as_ref().ok_or(InsideError::Gone)?;
        let store = &shared.parts.store;
        let InsideRequest { dyno_id, command, shown, environment, terminal, actor } = request;
        let row = dynos::find(store, dyno_id).await?.ok_or(InsideError::Gone)?;
        check_up(&row)?;
        let app = apps::by_id(store, row.app_id).await?.ok_or(InsideError::Gone)?;
        let mut environment = environment;
        if terminal.is_some() {
            environment.entry("PS1".into()).or_insert_with(|| PROMPT.into());
        }
        let prepared = actions::prepare(&shared.parts, &app, &row, environment).await;
        let prepared = prepared.map_err(|error| DynosError::Inside(format!("{error:#}")))?;
        let (answer, wait) = oneshot::channel();
        shared.send(row.app_id, Message::Control { dyno_id, answer });
        let control = wait.await.ok().flatten().ok_or(InsideError::Gone)?;
        if let Some(shown) = shown {
            write(store, &row, &shown, &actor).await?;
            shared.parts.events.poke();
        }
        let environment = Environment::from(prepared.variables);
        let exec = control.exec(ExecRequest { environment, command, terminal }).await;
        Ok(exec.map_err(DynosError::from)?)
    }

    /// The same for a client that has come to a rendezvous.
    ///
    /// # Errors
    /// As [`DynoManager::run_inside`].
    pub async fn attach_inside(&self, request: InsideRequest) -> Result<AttachedStreams, InsideError> {
        let terminal = request.terminal.is_some();
        let Exec { input, output: mut said } = self.run_inside(request).await?;
        let (to_command, from_client) = mpsc::channel::<Bytes>(CHUNKS);
        let (output, to_client) = mpsc::channel::<Bytes>(CHUNKS);
        let input = Input::Inside(input);
        let gone = output.clone();
        tokio::spawn(async move {
            let pass_on = async {
                while let Some(event) = said.next().await {
                    let bytes = match event {
                        ExecEvent::Output { bytes, .. } => bytes,
                        ExecEvent::Failed { message } => {
                            format!("The command could not be run: {message}\r\n").into_bytes()
                        }
                        ExecEvent::Ended { .. } => return,
                    };
                    if output.send(bytes.into()).await.is_err() {
                        return;
                    }
                }
            };
            // When either ends, dropping the rest hangs up.
            tokio::select! {
                () = pass_on => {}
                // The command may take no input, and so keep `feed` from seeing that the client has gone.
                () = gone.closed() => {}
                () = feed(from_client, &input, terminal) => {}
            }
        });
        Ok(AttachedStreams { input: to_command, output: to_client })
    }
}

async fn write(store: &Store, row: &Dyno, shown: &str, actor: &Actor) -> Result<(), StoreError> {
    let now = now_ms();
    ferroku_store::write!(store, tx => {
        // One line, whatever was typed.
        let shown = shown.lines().collect::<Vec<_>>().join(" ");
        let message = format!("Starting process with command `{shown}` inside {}", row.name());
        let event = events::NewEvent {
            app_id: Some(row.app_id),
            actor,
            kind: "dyno.exec",
            log_message: Some(message),
        };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dyno_that_is_up_and_stays_up_takes_commands() {
        assert_eq!(why_not(DynoState::Up, false), None);
        assert_eq!(why_not(DynoState::Up, true), Some("being stopped"));
        for state in [DynoState::Starting, DynoState::Crashed, DynoState::Idle, DynoState::Complete] {
            assert!(why_not(state, false).is_some(), "{state:?}");
        }
    }
}
