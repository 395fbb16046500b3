//! One SSH connection: who may in, and which channels it may open.

use super::channel;
use super::door::Door;
use super::keys::Registered;
use crate::access::Held;
use crate::node::Node;
use russh::keys::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Channels of a connection at once, as OpenSSH has it (`MaxSessions`).
const MAX_CHANNELS: usize = 10;

/// Whoever is at the other end.
pub struct Guest {
    node: Arc<Node>,
    address: SocketAddr,
    door: Arc<Door>,
    /// Told once the client has shown a registered key, by what access.
    authenticated: Option<oneshot::Sender<Held>>,
    access: Option<Access>,
    channels: Arc<Semaphore>,
    /// Tells the channels that the connection has ended: what they wait for may never come.
    gone: CancellationToken,
    _gone: DropGuard,
}

/// What a client that has shown its key may do.
struct Access {
    registered: Arc<Registered>,
    _places: [OwnedSemaphorePermit; 2],
}

impl Guest {
    /// A stranger.
    pub fn new(
        node: Arc<Node>,
        address: SocketAddr,
        door: Arc<Door>,
        authenticated: oneshot::Sender<Held>,
    ) -> Self {
        let channels = Arc::new(Semaphore::new(MAX_CHANNELS));
        let gone = CancellationToken::new();
        let guard = gone.clone().drop_guard();
        let authenticated = Some(authenticated);
        Self { node, address, door, authenticated, access: None, channels, gone, _gone: guard }
    }

    /// What the key opens under this name, and by what access, if that is still there. `used`: the client has signed with it.
    async fn registered(&self, user: &str, key: &PublicKey, used: bool) -> Option<(Arc<Registered>, Held)> {
        let registered = self.node.ssh.keys.find(user, key, used)?;
        let held = registered.access.hold(&self.node).await.ok()?;
        Some((registered, held))
    }

    /// A new channel, when the client may have one more.
    async fn admit(
        &self,
        reply: ChannelOpenHandle,
    ) -> Option<(Arc<Registered>, OwnedSemaphorePermit, ChannelOpenHandle)> {
        let Some(Access { registered, .. }) = &self.access else { return None };
        // The connection ends with the access, but soon after; a new channel waits for nothing.
        registered.access.check(&self.node).await.ok()?;
        match self.channels.clone().try_acquire_owned() {
            Ok(place) => Some((registered.clone(), place, reply)),
            Err(_) => {
                reply.reject(ChannelOpenFailure::ResourceShortage).await;
                None
            }
        }
    }
}

impl Handler for Guest {
    type Error = anyhow::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(match self.registered(user, offer.public_key, false).await {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let Some((registered, held)) = self.registered(user, key.public_key, true).await else {
            return Ok(Auth::reject());
        };
        let places = (registered.connections.clone().try_acquire_owned(), self.door.enter());
        let (Ok(of_key), Some(of_node)) = places else { return Ok(Auth::reject()) };
        tracing::info!(address = %self.address, email = registered.actor.email, app_id = %registered.access.app_id,
            dyno_id = %registered.dyno_id, "an SSH client has come");
        self.access = Some(Access { registered, _places: [of_key, of_node] });
        if let Some(authenticated) = self.authenticated.take() {
            // Nobody waits for it in a connection that is being closed.
            let _ = authenticated.send(held);
        }
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some((registered, place, reply)) = self.admit(reply).await {
            reply.accept().await;
            let (node, gone) = (self.node.clone(), self.gone.clone());
            tokio::spawn(async move {
                gone.run_until_cancelled(channel::serve(&node, &registered, channel)).await;
                drop(place);
            });
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some((registered, place, reply)) = self.admit(reply).await {
            let (node, host, gone) = (self.node.clone(), host.to_owned(), self.gone.clone());
            tokio::spawn(async move {
                let forward = channel::forward(&node, &registered, channel, reply, &host, port);
                gone.run_until_cancelled(forward).await;
                drop(place);
            });
        }
        Ok(())
    }

    // What follows only answers, at once and in order; the channel's task hears the same and acts.

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        answer(session, channel, true)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        answer(session, channel, channel::takes_variable(name, value))
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        answer(session, channel, true)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        answer(session, channel, channel::command_line(line).is_some())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        answer(session, channel, name == channel::FILES)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        answer(session, channel, false)
    }
}

fn answer(session: &mut Session, channel: ChannelId, granted: bool) -> anyhow::Result<()> {
    match granted {
        true => session.channel_success(channel)?,
        false => session.channel_failure(channel)?,
    }
    Ok(())
}
