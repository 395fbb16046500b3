//! Giving the listeners back: a supervisor that was killed and started again takes them from the router, so
//! that no connection is refused in between.
//!
//! The descriptors (router listener, API listener, the router's second listener when it has one) travel as SCM_RIGHTS (unix(7)) with the `listeners`
//! frame. The router gives them to root only.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use ferroku_core::protocol::frame::Decoder;
use ferroku_core::protocol::router::{FromRouter, Hello, PROTOCOL_VERSION, Role, ToRouter};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::socket;

/// How long the router may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The listening sockets of a node.
#[derive(Debug)]
pub struct Listeners {
    pub router: OwnedFd,
    pub api: OwnedFd,
    /// The second one of the router, for https.
    pub router_tls: Option<OwnedFd>,
}

/// Takes all listeners from the router that listens at `socket`. Blocks for up to 5 s.
///
/// # Errors
/// No router listens there, it does not answer, or it has no listeners to give.
pub fn take_listeners(socket: &Path) -> io::Result<Listeners> {
    let mut stream = socket::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        binary_digest: String::new(),
        instance: 0,
        role: Role::Supervisor,
    };
    stream.write_all(&ToRouter::Hello(hello).encode().map_err(io::Error::other)?)?;
    stream.write_all(&ToRouter::TakeListeners.encode().map_err(io::Error::other)?)?;
    let mut decoder = Decoder::default();
    let mut received = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let count = recvmsg(stream.as_fd(), &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                received.extend(descriptors);
            }
        }
        decoder.push(&buffer[..count]);
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            if FromRouter::decode(&frame).map_err(io::Error::other)? == Some(FromRouter::Listeners) {
                let mut received = received.into_iter();
                let (Some(router), Some(api)) = (received.next(), received.next()) else {
                    return Err(io::Error::other("no listeners came"));
                };
                return Ok(Listeners { router, api, router_tls: received.next() });
            }
        }
        if count == 0 {
            let text = format!("the router at {} did not give its listeners back", socket.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
    }
}

/// The router's side: sends the frame with the descriptors on its first byte.
pub(crate) async fn give_listeners(stream: &UnixStream, listeners: &Listeners) -> io::Result<()> {
    let mut descriptors = vec![listeners.router.as_fd(), listeners.api.as_fd()];
    descriptors.extend(listeners.router_tls.as_ref().map(AsFd::as_fd));
    let frame = FromRouter::Listeners.encode().map_err(io::Error::other)?;
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            Ok(sendmsg(stream.as_fd(), &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?)
        })
        .await?;
    // Ten bytes into an empty socket buffer are taken whole or not at all.
    if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
