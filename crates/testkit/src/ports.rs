//! Ports for servers that cannot be asked which one they got, or that are started again on the same one.
//!
//! They lie below those that the kernel gives to outgoing connections, one of which could take a port between two uses.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
/// Where the kernel's own choice begins unless `net.ipv4.ip_local_port_range` says otherwise.
const END: u16 = 32_768;
static NEXT: AtomicU16 = AtomicU16::new(0);

/// Ports of 127.0.0.1 that nobody listens on, each given once by this process.
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
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port between {FIRST} and {END} is free");
}
