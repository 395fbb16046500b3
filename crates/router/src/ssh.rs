//! SSH clients (`heroku ps:exec`, which knows port 80 only): handed over to control byte for byte.
//!
//! In: a connection that began with SSH's preface. Out: the same bytes on control's unix socket, after one line with the
//! client's address. The router understands nothing of SSH: who may do what, and how long a stranger may take, is
//! control's to say; it closes the connection.
//!
//! Invariant: such a connection holds one of the places that client connections have, and none once either side has
//! closed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::limits::{SSH_CONNECT, TUNNEL_BUFFER_BYTES};
use crate::shared::{Phase, Shared};

/// Lines before the server's own preface are shown to the user by some clients (RFC 4253, section 4.2).
const AWAY: &[u8] = b"This server takes no SSH sessions now; try again.\r\n";

/// Serves the connection to its end. `read` has come already.
pub async fn hand_over(shared: &Arc<Shared>, mut client: TcpStream, address: SocketAddr, read: Bytes) {
    let Some(path) = &shared.ssh_socket else { return };
    let connected = tokio::time::timeout(SSH_CONNECT, UnixStream::connect(path)).await;
    let mut control = match connected.map_err(io::Error::from).and_then(|connected| connected) {
        Ok(control) => control,
        Err(error) => {
            tracing::warn!(%error, "an SSH client cannot be handed over to control");
            let _ = client.write_all(AWAY).await;
            return;
        }
    };
    let _ = rustix::net::sockopt::set_socket_keepalive(&client, true);
    if control.write_all(format!("{address}\n").as_bytes()).await.is_err()
        || control.write_all(&read).await.is_err()
    {
        return;
    }
    drop(read);
    let (mut client_read, mut client_write) = client.split();
    let (mut control_read, mut control_write) = control.split();
    let to_control = async {
        copy(&mut client_read, &mut control_write).await;
        // The client may still be listening: control says when that is over.
        std::future::pending::<()>().await;
    };
    // When control has ended, nobody waits for the client's end, which may never come.
    let session = async {
        tokio::select! {
            () = to_control => {}
            () = copy(&mut control_read, &mut client_write) => {}
        }
    };
    let mut phase = shared.phase.subscribe();
    // How it ends is nobody's business here.
    tokio::select! {
        () = session => {}
        _ = phase.wait_for(|phase| *phase == Phase::Forced) => {}
    }
}

/// Copies until either side has ended, and tells the end on.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut buffer = vec![0; TUNNEL_BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
