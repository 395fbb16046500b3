//! Rendezvous: where `heroku run` meets the one-off dyno it started, and `heroku run:inside` its command.
//!
//! The client opens a connection to the API port and sends the secret out of the
//! dyno's `attach_url` (`rendezvous://HOST:PORT/SECRET`), with a line end
//! (official CLI) or without (heroku3). It is answered `rendezvous\r\n`, alone,
//! because clients throw their first read away; from then on bytes go both ways as
//! they are, until the program has ended and all its output is sent.
//!
//! What the bytes mean (EOT at the end of piped input, keys at a terminal) is for whoever attaches the dyno.
//!
//! Invariants: a secret opens one connection, once, within [`SECRET_VALID`]; it
//! lives in memory only, since the client of a restarted control has to run again anyway. It gives no more than the access
//! that it was made with: that is asked for again when the client comes ([`attach`]), and the connection ends with it.
//!
//! Source: reference of the CLI's rendezvous client (`lib/commands/run`), heroku3's `rendezvous.py`.

use crate::access::Access;
use crate::dynos::InsideRequest;
use crate::node::Node;
use bytes::Bytes;
use ferroku_core::DynoId;
use futures::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// What every secret begins with: no HTTP request begins so, because methods are upper-case.
pub const SECRET_PREFIX: &str = "rdv.";

/// Length of a secret in bytes: the prefix and 32 random bytes in hex. Fixed, because a client need not end it.
pub const SECRET_BYTES: usize = SECRET_PREFIX.len() + 64;

/// How long a secret may be used; Heroku gives up an unattached dyno after some 30 s (R13).
pub const SECRET_VALID: Duration = Duration::from_secs(120);

/// Commands inside one dyno that wait for their client. Each keeps its command and variables in memory; the CLI comes at once.
const MAX_WAITING_INSIDE: usize = 32;

/// A session without a byte in either direction for so long is closed, as on Heroku.
pub const IDLE_LIMIT: Duration = Duration::from_secs(3_600);

/// Time between the greeting and the first output, so that they come in two reads on a plain connection too.
const GREETING_PAUSE: Duration = Duration::from_millis(50);

/// A client that takes no byte of output for so long is gone.
pub const WRITE_LIMIT: Duration = Duration::from_secs(600);

/// What the client reads when it is let go by the last arm of [`bridge`].
const ACCESS_ENDED: &[u8] = b"\r\nYour access to this app has ended.\r\n";

/// How long the client has to close its side after the program has ended.
const LINGER: Duration = Duration::from_secs(2);

/// Size of one read of input, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// What a client was attached to, and for how long it may stay so.
pub struct Attached {
    pub streams: AttachedStreams,
    /// Ready once the access that the secret was made with has ended.
    pub ended: BoxFuture<'static, ()>,
}

/// The two ends of an attached dyno's terminal or pipes.
#[derive(Debug)]
pub struct AttachedStreams {
    /// What the client sends. Dropping it says that the client has gone.
    pub input: mpsc::Sender<Bytes>,
    /// What the dyno writes. Ends when the program has ended and all is delivered.
    pub output: mpsc::Receiver<Bytes>,
}

/// What a secret opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A one-off that waits for its client.
    OneOff(DynoId),
    /// A command to be run inside a dyno.
    Inside(Box<InsideRequest>),
}

/// What a secret was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub session: Session,
    /// Of whoever asked for it.
    pub access: Access,
    expires: Instant,
}

/// The secrets that are waiting for their client. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Rendezvous(Arc<Mutex<HashMap<String, Issued>>>);

impl Rendezvous {
    /// No secrets yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a secret that opens one connection to this, by this access.
    pub fn issue(&self, session: Session, access: Access) -> String {
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).expect("the kernel's random source answers once the system is up");
        let secret = format!("{SECRET_PREFIX}{}", hex::encode(random));
        let now = Instant::now();
        let mut issued = self.issued();
        issued.retain(|_, entry| entry.expires > now);
        if let Session::Inside(request) = &session {
            make_room(&mut issued, request.dyno_id);
        }
        issued.insert(secret.clone(), Issued { session, access, expires: now + SECRET_VALID });
        secret
    }

    /// How many secrets wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.issued().len()
    }

    /// Uses a secret up; what it stands for.
    pub fn redeem(&self, secret: &str) -> Option<Issued> {
        let entry = self.issued().remove(secret)?;
        (entry.expires > Instant::now()).then_some(entry)
    }

    /// Makes the secrets of a dyno void: it has ended, or nobody came.
    pub fn revoke(&self, dyno_id: DynoId) {
        self.issued().retain(|_, entry| entry.session != Session::OneOff(dyno_id));
    }

    fn issued(&self) -> MutexGuard<'_, HashMap<String, Issued>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new secret for a command inside this dyno takes the place of the oldest, when there are many.
fn make_room(issued: &mut HashMap<String, Issued>, dyno_id: DynoId) {
    let of_dyno =
        |entry: &Issued| matches!(&entry.session, Session::Inside(request) if request.dyno_id == dyno_id);
    let waiting: Vec<(&String, Instant)> = issued
        .iter()
        .filter(|(_, entry)| of_dyno(entry))
        .map(|(secret, entry)| (secret, entry.expires))
        .collect();
    if waiting.len() >= MAX_WAITING_INSIDE {
        let oldest = waiting.iter().min_by_key(|(_, expires)| *expires).map(|(secret, _)| (*secret).clone());
        oldest.inspect(|secret| drop(issued.remove(secret)));
    }
}

/// Attaches a client that has come to what its secret was made for, by `streams`, if whoever asked for that still may.
///
/// # Errors
/// The access is gone, or the streams cannot be had. For the user.
pub async fn attach<F, G>(node: Arc<Node>, issued: Issued, streams: F) -> anyhow::Result<Attached>
where
    F: FnOnce(Session) -> G,
    G: Future<Output = anyhow::Result<AttachedStreams>>,
{
    let held = issued.access.hold(&node).await.map_err(|error| anyhow::anyhow!(error.message))?;
    let streams = streams(issued.session).await?;
    Ok(Attached { streams, ended: Box::pin(held.ended(node)) })
}

/// Greets a client whose secret was good. Output must come in a later read: attach only after it.
///
/// # Errors
/// The client is gone.
pub async fn greet(client: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    client.write_all(b"rendezvous\r\n").await?;
    client.flush().await?;
    tokio::time::sleep(GREETING_PAUSE).await;
    Ok(())
}

/// Tells a client that was greeted why there is nothing to attach to, and closes.
///
/// # Errors
/// The client is gone.
pub async fn refuse(client: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(client);
    writer.write_all(text.as_bytes()).await?;
    writer.shutdown().await?;
    linger(&mut reader).await;
    Ok(())
}

/// Passes bytes both ways until the program ends, the client goes away, its access ends or nobody says anything for
/// [`IDLE_LIMIT`].
///
/// # Errors
/// The client is gone, or takes nothing.
pub async fn bridge<S>(client: S, attached: Attached) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(client);
    let Attached { streams: AttachedStreams { input, mut output }, ended } = attached;
    let last_byte = Mutex::new(Instant::now());
    let touch = || *last_byte.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();

    let to_program = pass_input(&mut reader, input, &touch);
    let to_client = async {
        while let Some(bytes) = output.recv().await {
            touch();
            timeout(WRITE_LIMIT, async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            })
            .await??;
        }
        timeout(WRITE_LIMIT, writer.shutdown()).await?
    };
    let idle = async {
        loop {
            let since = *last_byte.lock().unwrap_or_else(PoisonError::into_inner);
            if since.elapsed() >= IDLE_LIMIT {
                return;
            }
            sleep_until(since + IDLE_LIMIT).await;
        }
    };
    let access_ended = tokio::select! {
        result = to_client => result.map(|()| false)?,
        () = to_program => return Ok(()),
        () = idle => return Ok(()),
        () = ended => true,
    };
    if access_ended {
        // By now the program has been hung up on. A client that takes nothing is not waited for.
        timeout(LINGER, writer.write_all(ACCESS_ENDED)).await??;
        timeout(LINGER, writer.shutdown()).await??;
    }
    linger(&mut reader).await;
    Ok(())
}

/// Passes input on until the client is gone.
async fn pass_input(reader: &mut (impl AsyncRead + Unpin), input: mpsc::Sender<Bytes>, touch: &impl Fn()) {
    let mut buffer = vec![0; READ_BYTES];
    let mut begins = true;
    loop {
        let length = reader.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return;
        }
        touch();
        let mut bytes = &buffer[..length];
        if std::mem::take(&mut begins) {
            // The line end behind the secret, where the client sends one.
            bytes = bytes.strip_prefix(b"\r\n").or(bytes.strip_prefix(b"\n")).unwrap_or(bytes);
        }
        // A program that no longer reads is about to end; its output says when.
        if !bytes.is_empty() && input.send(Bytes::copy_from_slice(bytes)).await.is_err() {
            return discard_input(reader).await;
        }
    }
}

/// Closing a socket with unread input resets it, and the reset may overtake the last output.
async fn linger(reader: &mut (impl AsyncRead + Unpin)) {
    let _ = timeout(LINGER, discard_input(reader)).await;
}

/// Reads and forgets until the client is gone.
async fn discard_input(reader: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    while !matches!(reader.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_core::authorize::Verb;
    use ferroku_core::event::Actor;
    use ferroku_core::{AccountId, AppId, AuthorizationId};
    use ferroku_runtime::Command;
    use uuid::Uuid;

    #[tokio::test]
    async fn commands_that_nobody_comes_for_make_room_for_others() {
        let rendezvous = Rendezvous::new();
        let inside = |dyno| {
            let actor = Actor {
                account_id: AccountId(Uuid::nil()),
                email: String::new(),
                remote_address: None,
                request_id: None,
            };
            Session::Inside(Box::new(InsideRequest {
                dyno_id: DynoId(Uuid::from_u128(dyno)),
                command: Command::Shell("ls".into()),
                shown: None,
                environment: Default::default(),
                terminal: None,
                actor,
            }))
        };
        let access = Access::new(AuthorizationId(Uuid::nil()), AppId(Uuid::nil()), Verb::Run);
        let other = rendezvous.issue(inside(2), access);
        let secrets: Vec<String> =
            (0..=MAX_WAITING_INSIDE).map(|_| rendezvous.issue(inside(1), access)).collect();
        assert_eq!(rendezvous.waiting(), MAX_WAITING_INSIDE + 1);
        let redeem = |secret: &str| rendezvous.redeem(secret).map(|issued| issued.session);
        assert_eq!(redeem(&secrets[0]), None);
        assert_eq!(redeem(&other), Some(inside(2)));
        assert_eq!(redeem(&secrets[MAX_WAITING_INSIDE]), Some(inside(1)));
    }
}
