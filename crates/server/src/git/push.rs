//! Pushes under way: who pushes to what, and the conversation with the hook.
//!
//! A push is registered when its request begins, under a one-time token that only its hook gets. The hook connects,
//! shows the token, and becomes a [`PushSession`]: the handler (a build) writes text, asks for the archive, and gives
//! the verdict. When that says so ([`PushSession::follow`]), the post-receive hook, which git starts once the references
//! have moved, comes back with the token as a [`Follower`] of the release, and is shown what its command prints.
//!
//! Invariants:
//! - One push (or build of an archive) at a time per app holds the app's slot, from its hook's first word until its request has ended, so
//!   until its references have moved. A second one is refused at once; never are both half done.
//! - A token is good for one connection, and for one more as a follower, and dies with its request.

use bytes::Bytes;
use ferroku_core::app::App;
use ferroku_core::event::Actor;
use ferroku_core::protocol::frame::{Decoder, Frame, encode_into};
use ferroku_core::protocol::push::{ArchiveEnd, Hello, SendArchive, Verdict, frame_type};
use ferroku_core::uids::GIT_UID;
use ferroku_core::{AppId, ReleaseId};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Time the hook has to say hello; it lists the pushed tree before it does.
const HELLO_TIMEOUT: Duration = Duration::from_secs(60);
/// Frames on their way to the hook. When the client reads slowly, the build waits.
const OUTGOING_FRAMES: usize = 256;
/// Archive pieces on their way to the disk, 128 KiB each.
const ARCHIVE_PIECES: usize = 16;
/// Read at once from the hook, in bytes: one archive piece and its header.
const READ_BYTES: usize = 160 * 1024;
/// Largest source archive, in bytes: a checkout of 1 GB and its tar headers.
pub const MAX_ARCHIVE_BYTES: u64 = 1280 * 1024 * 1024;

/// A push's archive could not be had.
#[derive(Debug, Error)]
pub enum ArchiveError {
    #[error("the client went away")]
    Gone,
    #[error("{0}")]
    Git(String),
    #[error("the source is larger than 1 GB: keep large files out of the repository")]
    TooLarge,
    #[error("cannot write the source archive")]
    Io(#[from] std::io::Error),
}

/// Who pushes what.
#[derive(Debug, Clone)]
pub struct Push {
    pub app: App,
    pub actor: Actor,
}

/// Every push under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pushes {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<String, Push>,
    /// The token that holds each app's slot.
    busy: HashMap<AppId, String>,
    /// Which release a push's second hook may follow.
    follows: HashMap<String, ReleaseId>,
    /// Apps that are being destroyed take no push.
    closed: HashSet<AppId>,
}

/// What a token is good for.
enum Redeemed {
    /// A push, and whether the app's slot was free and is now this push's.
    Push(Push, bool),
    Follower(ReleaseId),
}

/// A push's registration; dropping it forgets the token and frees the app's slot.
#[derive(Debug)]
pub struct PushGuard {
    pushes: Pushes,
    app_id: AppId,
    token: String,
}

impl Pushes {
    /// Registers a push; the token goes into its hook's environment.
    pub fn register(&self, push: Push) -> PushGuard {
        let token = new_token();
        let app_id = push.app.id;
        self.lock().waiting.insert(token.clone(), push);
        PushGuard { pushes: self.clone(), app_id, token }
    }

    /// Takes the app's slot for what is no push; None while a push or another such has it, or the app is being destroyed.
    pub fn hold(&self, app_id: AppId) -> Option<PushGuard> {
        let mut inner = self.lock();
        if inner.busy.contains_key(&app_id) || inner.closed.contains(&app_id) {
            return None;
        }
        // Nobody is told it: no hook comes with it.
        let token = new_token();
        inner.busy.insert(app_id, token.clone());
        Some(PushGuard { pushes: self.clone(), app_id, token })
    }

    fn redeem(&self, token: &str) -> Option<Redeemed> {
        let mut inner = self.lock();
        let Some(push) = inner.waiting.remove(token) else {
            return inner.follows.remove(token).map(Redeemed::Follower);
        };
        let free = !inner.busy.contains_key(&push.app.id) && !inner.closed.contains(&push.app.id);
        if free {
            inner.busy.insert(push.app.id, token.to_owned());
        }
        Some(Redeemed::Push(push, free))
    }

    /// Refuses every later push to the app.
    pub fn close(&self, app_id: AppId) {
        self.lock().closed.insert(app_id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every change is a single insertion or removal, so a panic elsewhere leaves no half change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_token() -> String {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers once the system is up");
    hex::encode(bytes)
}

impl PushGuard {
    /// The one-time token.
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for PushGuard {
    fn drop(&mut self) {
        let mut inner = self.pushes.lock();
        inner.waiting.remove(&self.token);
        inner.follows.remove(&self.token);
        if inner.busy.get(&self.app_id) == Some(&self.token) {
            inner.busy.remove(&self.app_id);
        }
    }
}

/// The conversation with one hook.
pub struct PushSession {
    pub push: Push,
    pub hello: Hello,
    /// Whether the app's slot is this push's; otherwise it must be refused.
    pub has_slot: bool,
    /// Cancelled when the hook is gone: the client went away, or git was stopped.
    pub gone: CancellationToken,
    pushes: Pushes,
    token: String,
    outgoing: mpsc::Sender<Frame>,
    archive: mpsc::Receiver<Result<Bytes, ArchiveEnd>>,
}

/// The conversation with the hook that runs once the references have moved.
pub struct Follower {
    pub release_id: ReleaseId,
    /// Cancelled when the hook is gone.
    pub gone: CancellationToken,
    outgoing: mpsc::Sender<Frame>,
}

/// Who has come.
pub enum Hook {
    Push(PushSession),
    Follower(Follower),
}

impl Follower {
    /// Shows text to whoever pushes. Nothing happens when they are gone.
    pub async fn text(&self, text: impl Into<Vec<u8>>) {
        send(&self.outgoing, frame_type::TEXT, text.into()).await;
    }

    /// Ends the conversation.
    pub async fn finish(self) {
        send(&self.outgoing, frame_type::VERDICT, verdict(&Verdict { accept: true, head: None })).await;
    }
}

impl PushSession {
    /// Shows text to whoever pushes. Nothing happens when they are gone.
    pub async fn text(&self, text: impl Into<Vec<u8>>) {
        send(&self.outgoing, frame_type::TEXT, text.into()).await;
    }

    /// A handle that writes text and can be moved elsewhere.
    pub fn writer(&self) -> TextWriter {
        TextWriter { outgoing: self.outgoing.clone() }
    }

    /// Asks for the commit's archive and writes it to `path`; gives its size in bytes.
    ///
    /// # Errors
    /// The client went away, git failed, the archive is over the limit, or the disk is full.
    pub async fn archive(&mut self, commit: &str, path: &Path) -> Result<u64, ArchiveError> {
        let request =
            serde_json::to_vec(&SendArchive { commit: commit.to_owned() }).expect("no map keys but strings");
        send(&self.outgoing, frame_type::SEND_ARCHIVE, request).await;
        let mut file = tokio::io::BufWriter::with_capacity(256 * 1024, tokio::fs::File::create(path).await?);
        let mut total_bytes: u64 = 0;
        loop {
            match self.archive.recv().await {
                None => return Err(ArchiveError::Gone),
                Some(Ok(piece)) => {
                    total_bytes += piece.len() as u64;
                    if total_bytes > MAX_ARCHIVE_BYTES {
                        return Err(ArchiveError::TooLarge);
                    }
                    file.write_all(&piece).await?;
                }
                Some(Err(ArchiveEnd { error: None })) => break,
                Some(Err(ArchiveEnd { error: Some(error) })) => return Err(ArchiveError::Git(error)),
            }
        }
        file.flush().await?;
        Ok(total_bytes)
    }

    /// Once the push is accepted, whoever pushes is shown what the release's command prints.
    pub fn follow(&self, release_id: ReleaseId) {
        let mut inner = self.pushes.lock();
        // Without the slot its request has ended, and nobody is left to show anything to.
        if inner.busy.get(&self.push.app.id) == Some(&self.token) {
            inner.follows.insert(self.token.clone(), release_id);
        }
    }

    /// Gives the verdict, which ends the conversation.
    pub async fn finish(self, given: Verdict) {
        send(&self.outgoing, frame_type::VERDICT, verdict(&given)).await;
    }
}

fn verdict(verdict: &Verdict) -> Vec<u8> {
    serde_json::to_vec(verdict).expect("no map keys but strings")
}

async fn send(outgoing: &mpsc::Sender<Frame>, frame_type: u8, payload: Vec<u8>) {
    // The hook is gone; `gone` says so to whoever needs to know.
    let _ = outgoing.send(Frame { frame_type, payload }).await;
}

/// Writes text to the person who pushes.
#[derive(Debug, Clone)]
pub struct TextWriter {
    outgoing: mpsc::Sender<Frame>,
}

impl TextWriter {
    /// Shows text; nothing happens when nobody is there.
    pub async fn text(&self, text: Vec<u8>) {
        send(&self.outgoing, frame_type::TEXT, text).await;
    }
}

/// The hooks' socket, in place of one that an earlier process left. The git user may connect, and nobody else but root; which
/// push it is, the token tells.
///
/// # Errors
/// It cannot be made.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    std::os::unix::fs::chown(path, Some(GIT_UID), Some(GIT_UID))?;
    Ok(listener)
}

/// Serves hooks until the task is dropped: `handle` gets each and ends its conversation. A push that is dropped without a
/// verdict is refused.
pub async fn serve_hooks<F, Fut>(listener: UnixListener, pushes: Pushes, handle: F)
where
    F: Fn(Hook) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (pushes, handle) = (pushes.clone(), handle.clone());
                tokio::spawn(async move {
                    if let Some(hook) = open(stream, &pushes).await {
                        handle(hook).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!("the hook's socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Hears the hook's hello.
async fn open(stream: UnixStream, pushes: &Pushes) -> Option<Hook> {
    let (reader, writer) = stream.into_split();
    let mut reader = FrameReader { reader, decoder: Decoder::default(), buffer: vec![0u8; READ_BYTES] };
    let hello = tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await.ok()??;
    if hello.frame_type != frame_type::HELLO {
        return None;
    }
    let mut hello: Hello = serde_json::from_slice(&hello.payload).ok()?;
    let token = std::mem::take(&mut hello.token);
    let redeemed = pushes.redeem(&token)?;
    let (outgoing, outgoing_frames) = mpsc::channel(OUTGOING_FRAMES);
    let (archive_sender, archive) = mpsc::channel(ARCHIVE_PIECES);
    let gone = CancellationToken::new();
    tokio::spawn(write_frames(writer, outgoing_frames));
    tokio::spawn(read_archive(reader, archive_sender, gone.clone()));
    Some(match redeemed {
        Redeemed::Push(push, has_slot) => {
            let pushes = pushes.clone();
            Hook::Push(PushSession { push, hello, has_slot, gone, pushes, token, outgoing, archive })
        }
        Redeemed::Follower(release_id) => Hook::Follower(Follower { release_id, gone, outgoing }),
    })
}

struct FrameReader {
    reader: OwnedReadHalf,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl FrameReader {
    /// The next frame; None when the hook is gone or broke the protocol.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("a hook broke the protocol: {error}");
                    return None;
                }
            }
            match self.reader.read(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&self.buffer[..count]),
            }
        }
    }
}

/// Reads until the hook closes the connection, and then says that it is gone.
async fn read_archive(
    mut reader: FrameReader,
    archive: mpsc::Sender<Result<Bytes, ArchiveEnd>>,
    gone: CancellationToken,
) {
    while let Some(frame) = reader.next().await {
        let piece = match frame.frame_type {
            frame_type::ARCHIVE => Ok(Bytes::from(frame.payload)),
            frame_type::ARCHIVE_END => Err(serde_json::from_slice(&frame.payload)
                .unwrap_or_else(|error| ArchiveEnd { error: Some(error.to_string()) })),
            _ => continue,
        };
        // Nobody wants the rest: the session has ended. Reading goes on, so that the hook's end is seen.
        let _ = archive.send(piece).await;
    }
    gone.cancel();
}

async fn write_frames(mut writer: OwnedWriteHalf, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        let mut bytes = Vec::with_capacity(frame.payload.len() + 5);
        if encode_into(&mut bytes, frame.frame_type, &frame.payload).is_err()
            || writer.write_all(&bytes).await.is_err()
        {
            return;
        }
    }
}
