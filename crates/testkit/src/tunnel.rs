//! A TCP forwarder in front of a node's API, as an SSH tunnel from a laptop is, that keeps what passes.
//!
//! Every client of the tests goes through it, on a port that is not the node's own; so a link in an answer
//! that does not follow the request's authority fails a test. TLS passes unread.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest recording of one direction of one connection, in bytes; an answer of the API is far smaller.
const RECORD_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// First byte of a TLS record that opens a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What one plain connection carried.
#[derive(Debug, Default)]
pub struct Recording {
    pub sent: Vec<u8>,
    pub received: Vec<u8>,
}

/// A running forwarder. Its threads end with the process.
#[derive(Debug)]
pub struct Tunnel {
    pub address: SocketAddr,
    open: Arc<AtomicUsize>,
    recordings: Arc<Mutex<Vec<Recording>>>,
}

impl Tunnel {
    /// Forwards a free port of 127.0.0.1 to `target`.
    ///
    /// # Panics
    /// When no port is free.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let open = Arc::new(AtomicUsize::new(0));
        let recordings = Arc::new(Mutex::new(Vec::new()));
        let tunnel = Self { address, open: Arc::clone(&open), recordings: Arc::clone(&recordings) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let open = Arc::clone(&open);
                let recordings = Arc::clone(&recordings);
                open.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    if let Some(recording) = forward(client, target) {
                        recordings.lock().expect("no thread panics with it").push(recording);
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        tunnel
    }

    /// What passed since the last call, once the clients that are gone are done. Connections that stay open (a
    /// keep-alive pool, a log stream) come with a later call.
    ///
    /// # Panics
    /// Never in practice: a thread of the forwarder would have had to.
    pub fn take(&self) -> Vec<Recording> {
        let deadline = Instant::now() + Duration::from_millis(100);
        while self.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::mem::take(&mut *self.recordings.lock().expect("no thread panics with it"))
    }
}

fn forward(client: TcpStream, target: SocketAddr) -> Option<Recording> {
    let server = TcpStream::connect(target).ok()?;
    let (client_reader, server_writer) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let upload = std::thread::spawn(move || copy(client_reader, server_writer));
    let received = copy(server, client);
    let sent = upload.join().ok()?;
    (sent.first() != Some(&TLS_HANDSHAKE)).then_some(Recording { sent, received })
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        let room = RECORD_LIMIT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    let _ = to.shutdown(Shutdown::Write);
    kept
}
