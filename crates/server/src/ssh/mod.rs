//! SSH for `heroku ps:exec`, `ps:copy`, `ps:forward` and `ps:socks`.
//!
//! | file | does |
//! |---|---|
//! | `keys` | the public keys that clients registered, for minutes |
//! | `door` | how many strangers may knock, and for how long |
//! | `handler` | who may in, and which channels an SSH connection may open |
//! | `channel` | one channel: a command's streams, or a connection to the dyno's own address |
//!
//! In: connections on `DIR/run/ssh.sock`, which the router hands over, each after one line with the client's address; the
//! CLI knows port 80 only. Out: commands inside dynos ([`crate::dynos`]). The protocol itself is russh's (RFC 4251 to 4254).
//!
//! Invariants: nothing but a registered public key opens anything, and it opens the dyno that it was registered for
//! alone, for as long as the access is there that it was registered by; no byte of a client is a path or a command on this side, only inside the dyno.

mod channel;
pub mod door;
mod handler;
mod keys;

pub use keys::{ClientKeys, parse_client_key};

use crate::access::Held;
use crate::node::Node;
use anyhow::Context;
use door::{Door, Knock};
use ferroku_core::uids::ROUTER_UID;
use handler::Guest;
use russh::MethodKind;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, ssh_key};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Where the router hands SSH clients over, in `DIR/run`.
pub const SSH_SOCKET: &str = "ssh.sock";
/// The node's host key, in the data folder.
const HOST_KEY_FILE: &str = "ssh_host_key";
/// From the first byte to a key that is known. Source: half a minute is what sshd was set to for years; the CLI needs one second.
const AUTHENTICATION_LIMIT: Duration = Duration::from_secs(20);
/// A connection on which nothing comes for so long is closed, as a rendezvous is.
const IDLE_LIMIT: Duration = crate::rendezvous::IDLE_LIMIT;
/// Keys that a client may try: agents offer all that they have.
const KEYS_TRIED: usize = 10;
/// What a refused key costs the client.
const REFUSAL: Duration = Duration::from_millis(300);
/// Elliptic curves only: strangers may ask for key exchanges, and those of large groups take tens of milliseconds each.
const KEY_EXCHANGES: &[russh::kex::Name] = &[
    russh::kex::MLKEM768X25519_SHA256,
    russh::kex::CURVE25519,
    russh::kex::CURVE25519_PRE_RFC_8731,
    russh::kex::EXTENSION_SUPPORT_AS_SERVER,
    russh::kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];
/// What clients may sign with: no SHA-1.
const SIGNATURES: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];
/// The line in front: an IPv6 address with a port in brackets, and some.
const ADDRESS_BYTES: usize = 64;
/// Pause after an accept that failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The node's side of SSH.
pub struct Ssh {
    host_key: PrivateKey,
    pub keys: ClientKeys,
}

impl Ssh {
    /// Reads the host key, or makes it.
    ///
    /// # Errors
    /// The file cannot be read, written, or understood.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        let path = data.join(HOST_KEY_FILE);
        let host_key = match fs::read_to_string(&path) {
            Ok(text) => PrivateKey::from_openssh(&text).with_context(|| {
                format!("{} is no SSH key; remove it to have another made", path.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_host_key(&path)?,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Self { host_key, keys: ClientKeys::default() })
    }

    /// What clients compare with the key that they meet: `ssh-ed25519 AAAA...`.
    ///
    /// # Errors
    /// Never, for a key that was read.
    pub fn public_key(&self) -> ssh_key::Result<String> {
        self.host_key.public_key().to_openssh()
    }
}

/// Complete at once or not there.
fn make_host_key(path: &Path) -> anyhow::Result<PrivateKey> {
    let mut seed = zeroize::Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut()).context("no random bytes for the SSH host key")?;
    let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
    let key = PrivateKey::new(pair, "ferroku").context("cannot make the SSH host key")?;
    let text = key.to_openssh(LineEnding::LF).context("cannot write the SSH host key")?;
    let temporary = path.with_extension("new");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(key)
}

/// Listens for the router.
///
/// # Errors
/// The socket cannot be made.
pub fn bind(data: &Path) -> io::Result<UnixListener> {
    let path = data.join("run").join(SSH_SOCKET);
    let listener = ferroku_router::socket::bind(&path)?;
    if rustix::process::geteuid().is_root() {
        // The folder is root's: nobody can put a link in the way.
        std::os::unix::fs::lchown(&path, Some(ROUTER_UID), Some(ROUTER_UID))?;
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until `stop` is cancelled; sessions end with it, and so does what they run.
pub async fn serve(node: Arc<Node>, listener: UnixListener, stop: CancellationToken) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "SSH clients cannot be served"),
    };
    let config = Arc::new(config(&node.ssh));
    let door = Arc::new(Door::default());
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an SSH client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (node, config, door, stop) = (node.clone(), config.clone(), door.clone(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_one(&node, config, &door, stream, &stop).await {
                tracing::debug!(error = format!("{error:#}"), "an SSH session ended early");
            }
        });
    }
}

fn config(ssh: &Ssh) -> russh::server::Config {
    russh::server::Config {
        server_id: russh::SshId::Standard("SSH-2.0-Ferroku".into()),
        methods: (&[MethodKind::PublicKey][..]).into(),
        auth_rejection_time: REFUSAL,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![ssh.host_key.clone()],
        max_auth_attempts: KEYS_TRIED,
        inactivity_timeout: Some(IDLE_LIMIT),
        preferred: russh::Preferred {
            kex: KEY_EXCHANGES.into(),
            key: SIGNATURES.into(),
            ..russh::Preferred::DEFAULT
        },
        ..russh::server::Config::default()
    }
}

async fn serve_one(
    node: &Arc<Node>,
    config: Arc<russh::server::Config>,
    door: &Arc<Door>,
    mut stream: UnixStream,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let begun = tokio::time::Instant::now();
    // The router sends it at once.
    let address = timeout(AUTHENTICATION_LIMIT, address(&mut stream)).await??;
    let Some(knock) = door.knock(address.ip()) else { return Ok(()) };
    let knock = timeout(AUTHENTICATION_LIMIT, knock).await?;
    // For closing it from outside, whatever its session is about.
    let stream = stream.into_std()?;
    let handle = stream.try_clone()?;
    let close = move || handle.shutdown(std::net::Shutdown::Both);
    let stream = UnixStream::from_std(stream)?;
    let (tell, authenticated) = oneshot::channel();
    let guest = Guest::new(node.clone(), address, door.clone(), tell);
    let session = async { anyhow::Ok(russh::server::run_stream(config, stream, guest).await?.await?) };
    let limits = limits(node.clone(), begun + AUTHENTICATION_LIMIT, authenticated, knock, stop);
    tokio::pin!(session);
    tokio::select! {
        result = &mut session => return result,
        () = limits => {}
    }
    close()?;
    session.await
}

/// Returns when the session must end.
async fn limits(
    node: Arc<Node>,
    deadline: tokio::time::Instant,
    authenticated: oneshot::Receiver<Held>,
    knock: Knock,
    stop: &CancellationToken,
) {
    let held = tokio::select! {
        held = authenticated => held,
        () = tokio::time::sleep_until(deadline) => return,
    };
    drop(knock);
    // A guest that is gone has ended the session.
    let Ok(held) = held else { return };
    stop.run_until_cancelled(held.ended(node)).await;
}

/// Reads the line that the router puts in front, byte by byte: what follows it is the client's.
async fn address(stream: &mut UnixStream) -> anyhow::Result<SocketAddr> {
    let mut line = Vec::with_capacity(ADDRESS_BYTES);
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            _ if line.len() == ADDRESS_BYTES => anyhow::bail!("the router sent no address"),
            byte => line.push(byte),
        }
    }
    Ok(std::str::from_utf8(&line)?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_host_key_stays_the_same_and_is_the_nodes_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Ssh::open(folder.path()).expect("made").public_key().expect("text");
        assert!(first.starts_with("ssh-ed25519 AAAA"), "{first}");
        let mode = fs::metadata(folder.path().join(HOST_KEY_FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Ssh::open(folder.path()).expect("read").public_key().expect("text"), first);
        fs::write(folder.path().join(HOST_KEY_FILE), "nonsense").expect("ours");
        assert!(Ssh::open(folder.path()).is_err(), "another key without a word would look like an attack");
    }
}
