//! How many connections each client address has, so that one client cannot take every place.
//!
//! Invariant: an address is remembered only while it has a connection.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// The counts.
#[derive(Debug)]
pub struct Addresses {
    limit: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Addresses {
    /// At most `limit` connections for each address.
    pub fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// Counts a connection in; `false` when its address has as many as it may.
    pub fn enter(&self, address: IpAddr) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(counted_as(address)).or_insert(0);
        // An address that is refused has others, so its entry stays.
        let free = *count < self.limit;
        *count += usize::from(free);
        free
    }

    /// Counts a connection out that was counted in.
    pub fn leave(&self, address: IpAddr) {
        let address = counted_as(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

/// One customer gets at least a /64 of IPv6 addresses.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_limit_and_is_forgotten_with_its_last_connection() {
        let addresses = Addresses::new(2);
        let enter = |text: &str| addresses.enter(text.parse().unwrap());
        assert!(
            enter("10.0.0.1") && enter("::ffff:10.0.0.1") && !enter("10.0.0.1"),
            "mapped addresses count as one"
        );
        assert!(enter("10.0.0.2"));
        assert!(
            enter("2001:db8::1") && enter("2001:db8::ffff:2") && !enter("2001:db8::3"),
            "a /64 counts as one"
        );
        assert!(enter("2001:db8:0:1::1"));
        for address in ["10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8::9", "2001:db8::8", "2001:db8:0:1::7"] {
            addresses.leave(address.parse().unwrap());
        }
        assert!(addresses.counts.lock().unwrap().is_empty());
    }
}
