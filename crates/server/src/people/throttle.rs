//! How many letters may be asked for, and how many other things that cost something before anybody has logged in.

use crate::login::network_of;
use ferroku_core::{AccountId, Millis};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Letters that one client's address may ask for in an hour. Ours: an office behind one address still gets by.
const PER_CLIENT: u32 = 30;
/// Letters that one mailbox gets in an hour, whoever asks.
const PER_MAILBOX: u32 = 5;
/// Browser logins that one client's address may begin in an hour.
const LOGINS_PER_CLIENT: u32 = 120;
/// Addresses without an account that one account may name in an hour, to share something with. Ours: typing errors, and
/// a team whose members have yet to sign up; whoever wants to know which addresses have accounts needs thousands.
pub const MISSES_PER_ACCOUNT: u32 = 30;
const HOUR_MS: Millis = 3_600_000;
/// Most counts remembered; beyond it those of past hours are forgotten, then everything.
const REMEMBERED: usize = 20_000;

/// Counts by the hour, in memory.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<String, (u32, Millis)>>);

impl Throttle {
    /// Whether this client may ask for one more letter.
    pub fn letter_for_client(&self, remote_address: &str, now: Millis) -> bool {
        self.take(format!("client {}", network_of(remote_address)), PER_CLIENT, now)
    }

    /// Whether this mailbox may get one more letter.
    pub fn letter_to(&self, email: &str, now: Millis) -> bool {
        self.take(format!("mailbox {email}"), PER_MAILBOX, now)
    }

    /// Whether this client may begin one more login of the CLI.
    pub fn cli_login(&self, remote_address: &str, now: Millis) -> bool {
        self.take(format!("login {}", network_of(remote_address)), LOGINS_PER_CLIENT, now)
    }

    /// Whether this account may name one more address. To be called before it is looked up, so that many at once do not pass
    /// for one; [`Throttle::found`] gives it back.
    pub fn look_up(&self, account_id: AccountId, now: Millis) -> bool {
        self.take(look_up_key(account_id), MISSES_PER_ACCOUNT, now)
    }

    /// The address that the account named has one.
    pub fn found(&self, account_id: AccountId) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = counts.get_mut(&look_up_key(account_id)) {
            *count = count.saturating_sub(1);
        }
    }

    fn take(&self, key: String, most: u32, now: Millis) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= REMEMBERED {
            counts.retain(|_, (_, since)| now - *since < HOUR_MS);
            if counts.len() >= REMEMBERED {
                counts.clear();
            }
        }
        let (count, since) = counts.entry(key).or_insert((0, now));
        if now - *since >= HOUR_MS {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
        *count <= most
    }
}

fn look_up_key(account_id: AccountId) -> String {
    format!("look-up {account_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_gets_few_letters_an_hour_and_others_are_not_held_up() {
        let throttle = Throttle::default();
        assert!((0..PER_MAILBOX).all(|_| throttle.letter_to("a@example.com", 0)));
        assert!(!throttle.letter_to("a@example.com", HOUR_MS - 1));
        assert!(throttle.letter_to("b@example.com", HOUR_MS - 1));
        assert!(throttle.letter_to("a@example.com", HOUR_MS));
        for number in 0..REMEMBERED + 10 {
            throttle.letter_for_client(&number.to_string(), 0);
        }
        assert!(throttle.0.lock().expect("whole").len() <= REMEMBERED);
    }
}
