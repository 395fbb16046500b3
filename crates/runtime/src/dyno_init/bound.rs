//! Does a web process listen where the router can reach it?
//!
//! Source of truth: `/proc/self/net/tcp{,6}` of the dyno's network namespace, in which dyno-init is; then
//! a real connection to the dyno's own address, since a listener on `::` may or may not take IPv4.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    Not,
    LoopbackOnly,
    Reachable,
}

/// Looks once; takes well under a millisecond.
pub fn look(address: Ipv4Addr, port: u16) -> Listening {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .map(|table| std::fs::read_to_string(table).unwrap_or_default());
    match tables.iter().map(|table| in_table(table, port)).max_by_key(|found| *found as u8) {
        Some(Listening::Reachable) if connects(address, port) => Listening::Reachable,
        // A listener on another address than ours, or `::` without IPv4: not there yet.
        Some(Listening::Reachable) | None | Some(Listening::Not) => Listening::Not,
        Some(Listening::LoopbackOnly) => Listening::LoopbackOnly,
    }
}

/// The sockets that listen on a port, by their inodes.
pub fn listeners(port: u16) -> BTreeSet<u64> {
    const INODE: usize = 9;
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let mut inodes = BTreeSet::new();
    for table in tables.map(|table| std::fs::read_to_string(table).unwrap_or_default()) {
        // Line by line, as each may be another listener.
        for line in
            table.lines().skip(1).filter(|line| in_table(&format!("\n{line}"), port) != Listening::Not)
        {
            inodes
                .extend(line.split_ascii_whitespace().nth(INODE).and_then(|inode| inode.parse::<u64>().ok()));
        }
    }
    inodes
}

/// What a table in the form of `/proc/net/tcp` says of a port, before any connection.
fn in_table(table: &str, port: u16) -> Listening {
    const LISTEN: &str = "0A";
    let mut found = Listening::Not;
    for line in table.lines().skip(1) {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(_), Some(state)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some((address, local_port)) = local.rsplit_once(':') else { continue };
        if state != LISTEN || u16::from_str_radix(local_port, 16) != Ok(port) {
            continue;
        }
        if !is_loopback(address) {
            return Listening::Reachable;
        }
        found = Listening::LoopbackOnly;
    }
    found
}

/// Addresses stand there as hexadecimal words in the machine's byte order.
fn is_loopback(address: &str) -> bool {
    let first_octet_of = |word: &str| u32::from_str_radix(word, 16).map(|word| word.to_ne_bytes()[0]);
    match address.len() {
        8 => first_octet_of(address) == Ok(127),
        32 => {
            let mapped =
                address.starts_with("0000000000000000FFFF0000") && first_octet_of(&address[24..]) == Ok(127);
            address == "00000000000000000000000001000000" || mapped
        }
        _ => false,
    }
}

/// A connection to one's own address is answered at once or never.
fn connects(address: Ipv4Addr, port: u16) -> bool {
    // SAFETY: plain socket calls; the address structure lives through the call and has the length given.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return false;
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            sin_zero: [0; 8],
        };
        let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let result = libc::connect(socket.as_raw_fd(), (&raw const to).cast(), length);
        if result == 0 {
            return true;
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINPROGRESS) {
            return false;
        }
        // The backlog is full: that is a listener too, but let it show that it accepts.
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        libc::poll(&raw mut poll, 1, CONNECT_MS) == 1 && poll.revents & (libc::POLLERR | libc::POLLHUP) == 0
    }
}

/// Longer would hold up the dyno's log; the next look comes soon.
const CONNECT_MS: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";

    #[test]
    fn listeners_are_told_apart_by_address_state_and_port() {
        let cases = [
            ("00000000:1F90 00000000:0000 0A", Listening::Reachable),
            ("0100007F:1F90 00000000:0000 0A", Listening::LoopbackOnly),
            ("0200007F:1F90 00000000:0000 0A", Listening::LoopbackOnly),
            ("020011AC:1F90 00000000:0000 0A", Listening::Reachable),
            ("00000000:1F90 00000000:0000 01", Listening::Not),
            ("00000000:1F91 00000000:0000 0A", Listening::Not),
            ("00000000000000000000000000000000:1F90 0:0 0A", Listening::Reachable),
            ("00000000000000000000000001000000:1F90 0:0 0A", Listening::LoopbackOnly),
            ("0000000000000000FFFF00000100007F:1F90 0:0 0A", Listening::LoopbackOnly),
        ];
        for (line, expected) in cases {
            assert_eq!(in_table(&format!("{HEAD}   0: {line} 00:00\n"), 8080), expected, "{line}");
        }
        let both = format!("{HEAD}   0: {} 0\n   1: {} 0\n", cases[1].0, cases[0].0);
        assert_eq!(in_table(&both, 8080), Listening::Reachable);
    }
}
