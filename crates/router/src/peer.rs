//! Connections on the router's socket: who may speak, and frames to messages and back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ferroku_core::protocol::frame::Decoder;
use ferroku_core::protocol::router::{FromRouter, Hello, PROTOCOL_VERSION, Role, ToRouter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::handback::{Listeners, give_listeners};
use crate::limits::HELLO_TIMEOUT;

/// Frames of request records that wait for the socket; few, so that other messages are not late.
const BATCH_QUEUE: usize = 2;
/// Read at once, in bytes.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the router's main task hears.
#[derive(Debug)]
pub enum Heard {
    /// Control has connected.
    Connected(Peer),
    Said(u64, ToRouter),
    Gone(u64),
}

/// A connected control.
#[derive(Debug)]
pub struct Peer {
    pub number: u64,
    /// Sent before any batch.
    pub messages: mpsc::UnboundedSender<FromRouter>,
    pub batches: mpsc::Sender<FromRouter>,
}

/// What every connection needs to know of the router.
#[derive(Debug)]
pub struct Host {
    pub hello: Hello,
    pub trusted_uid: u32,
    pub listeners: Option<Listeners>,
}

/// Accepts connections for ever.
pub async fn listen(listener: UnixListener, host: Arc<Host>, heard: mpsc::Sender<Heard>) {
    let mut number = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                number += 1;
                let (host, heard) = (host.clone(), heard.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, number, &host, &heard).await {
                        tracing::warn!(%error, "a connection on the router's socket ended");
                    }
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept on the router's socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(
    mut stream: UnixStream,
    number: u64,
    host: &Host,
    heard: &mpsc::Sender<Heard>,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != host.trusted_uid {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("uid {uid} may not command the router"),
        ));
    }
    let mut decoder = Decoder::default();
    let hello = tokio::time::timeout(HELLO_TIMEOUT, next(&mut stream, &mut decoder)).await??;
    let hello = match hello {
        Some(ToRouter::Hello(hello)) => hello,
        Some(_) => return Err(io::Error::other("the peer did not say hello")),
        None => return Ok(()),
    };
    stream.write_all(&encode(&FromRouter::Hello(host.hello.clone()))?).await?;
    if hello.protocol_version != PROTOCOL_VERSION {
        let text = format!(
            "the peer speaks protocol version {}, this router {PROTOCOL_VERSION}",
            hello.protocol_version
        );
        return Err(io::Error::other(text));
    }
    if hello.role == Role::Supervisor {
        return serve_supervisor(stream, decoder, host).await;
    }
    let (reader, writer) = stream.into_split();
    let (messages, message_queue) = mpsc::unbounded_channel();
    let (batches, batch_queue) = mpsc::channel(BATCH_QUEUE);
    if heard.send(Heard::Connected(Peer { number, messages, batches })).await.is_err() {
        return Ok(());
    }
    let result = tokio::select! {
        result = read(reader, decoder, number, heard) => result,
        result = write(writer, message_queue, batch_queue) => result,
    };
    let _ = heard.send(Heard::Gone(number)).await;
    result
}

async fn serve_supervisor(mut stream: UnixStream, mut decoder: Decoder, host: &Host) -> io::Result<()> {
    while let Some(message) = next(&mut stream, &mut decoder).await? {
        if message == ToRouter::TakeListeners {
            let Some(listeners) = &host.listeners else { return Ok(()) };
            give_listeners(&stream, listeners).await?;
        }
    }
    Ok(())
}

async fn read(
    mut reader: OwnedReadHalf,
    mut decoder: Decoder,
    number: u64,
    heard: &mpsc::Sender<Heard>,
) -> io::Result<()> {
    while let Some(message) = next(&mut reader, &mut decoder).await? {
        if heard.send(Heard::Said(number, message)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes until the main task lets go of the peer.
async fn write(
    mut writer: OwnedWriteHalf,
    mut messages: mpsc::UnboundedReceiver<FromRouter>,
    mut batches: mpsc::Receiver<FromRouter>,
) -> io::Result<()> {
    loop {
        let message = tokio::select! {
            biased;
            message = messages.recv() => message,
            message = batches.recv() => message,
        };
        let Some(message) = message else { return Ok(()) };
        writer.write_all(&encode(&message)?).await?;
    }
}

/// The next message of a known type; `None` at the end.
async fn next(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    decoder: &mut Decoder,
) -> io::Result<Option<ToRouter>> {
    loop {
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            if let Some(message) = ToRouter::decode(&frame).map_err(io::Error::other)? {
                return Ok(Some(message));
            }
        }
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Ok(None);
        }
        decoder.push(&buffer[..count]);
    }
}

fn encode(message: &FromRouter) -> io::Result<Vec<u8>> {
    message.encode().map_err(io::Error::other)
}
