//! Ports for servers that cannot be asked which one they got, or that are started again on the same one.
//!
//! They lie below those that the kernel gives to outgoing connections, one of which could take a port between two uses.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
/// Where the kernel's own choice begins unless `net.ipv4.ip_local_port_range` says otherwise.
const END: u16 = 32_768;
static NEXT: AtomicU16 = AtomicU16::new(0);
/// A socket for each port given, which no other process of the tests can have while this one lives.
static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Ports of 127.0.0.1 that nobody listens on, each given to one process of the tests only.
///
/// # Panics
/// All are taken.
pub fn free<const COUNT: usize>() -> [u16; COUNT] {
    [(); COUNT].map(|()| one())
}

fn one() -> u16 {
    // Processes begin at different places.
    let start = std::process::id().wrapping_mul(61);
    let size = u32::from(END - FIRST);
    for _ in 0..size {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(start.wrapping_add(turn) % size).expect("below END") + FIRST;
        if let Some(held) = hold(port)
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            HELD.lock().expect("not poisoned").push(held);
            return port;
        }
    }
    panic!("no port between {FIRST} and {END} is free");
}

/// An abstract socket of this port's name: it is gone with its process, however that ends.
fn hold(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("ferroku-test-port-{port}")).expect("a short name");
    UnixListener::bind_addr(&name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_was_given_is_not_given_again() {
        let [first] = free();
        assert!(hold(first).is_none());
        // As if the next one were another process's.
        let next = first + 1;
        let theirs = hold(next);
        let [second] = free();
        assert!(theirs.is_none() || second != next);
    }
}
