//! How many connections there may be, and how many of them strangers'.
//!
//! Invariant: before a client has shown a registered key, what it can cost is bounded: for its address, for all together, and
//! in time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// SSH connections that have shown a key, at once; each costs some 100 KB. More are refused.
const MAX_CONNECTIONS: usize = 512;
/// Strangers at once, listened to or waiting; more are closed.
const MAX_STRANGERS: usize = 128;
/// Of those, strangers that are being listened to. Each costs a key exchange.
const MAX_LISTENED: usize = 32;
/// Strangers of one address, listened to or waiting; more are closed. `ps:socks` opens a connection for each of a browser's.
const MAX_STRANGERS_PER_ADDRESS: usize = 24;

/// The one way in.
pub struct Door {
    places: Arc<Semaphore>,
    listened: Arc<Semaphore>,
    strangers: Mutex<HashMap<IpAddr, usize>>,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            listened: Arc::new(Semaphore::new(MAX_LISTENED)),
            strangers: Mutex::default(),
        }
    }
}

/// A stranger's place; dropped when it is none any more.
pub struct Knock {
    _stranger: Stranger,
    _listened: Option<OwnedSemaphorePermit>,
}

struct Stranger {
    door: Arc<Door>,
    address: IpAddr,
}

impl Door {
    /// A place for a connection that has shown a key; `None` when there is none.
    pub fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// A stranger's place, to be waited for; `None` when the address has too many, or all together.
    pub fn knock(self: &Arc<Self>, address: IpAddr) -> Option<impl Future<Output = Knock> + use<>> {
        let address = network(address);
        let mut strangers = self.strangers();
        if strangers.values().sum::<usize>() >= MAX_STRANGERS
            || strangers.get(&address).is_some_and(|count| *count >= MAX_STRANGERS_PER_ADDRESS)
        {
            return None;
        }
        *strangers.entry(address).or_default() += 1;
        let stranger = Stranger { door: self.clone(), address };
        let listened = self.listened.clone();
        // The semaphore is never closed.
        Some(async move { Knock { _stranger: stranger, _listened: listened.acquire_owned().await.ok() } })
    }

    fn strangers(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = self.door.strangers();
        if let Some(count) = strangers.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                strangers.remove(&self.address);
            }
        }
    }
}

/// One client has a whole /64 of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.into(),
            None => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_cannot_take_all_places() {
        let door = Arc::new(Door::default());
        let (hostile, other): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().expect("an address"), "2001:db8:0:1::1".parse().expect("an address"));
        let mut knocks = Vec::new();
        for _ in 0..MAX_STRANGERS_PER_ADDRESS {
            knocks.push(door.knock(hostile).expect("a place").await);
        }
        assert!(door.knock("2001:db8::2".parse().expect("an address")).is_none(), "the same network");
        let listened = door.knock(other).expect("another's").await;
        knocks.pop();
        drop(door.knock(hostile).expect("a place again"));
        assert!(door.knock(hostile).is_some(), "one that gave up waiting gives its place back");
        drop((knocks, listened));
        assert!(door.strangers().is_empty());
        let many = |number: u32| door.knock(std::net::Ipv4Addr::from_bits(number).into());
        let all: Vec<_> = (0..u32::MAX).map_while(many).collect();
        assert_eq!(all.len(), MAX_STRANGERS);
    }
}
