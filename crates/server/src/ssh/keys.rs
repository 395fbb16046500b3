//! Public keys that clients registered for one dyno each.
//!
//! In: `PUT /api/v2/DYNO`. Out: what an SSH client with that key may do. In memory only: the client of a restarted control
//! registers again.

use crate::access::Access;
use crate::auth::random_letters;
use ferroku_core::DynoId;
use ferroku_core::event::Actor;
use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long a key may be used after its registration, and after each use: `ps:forward` connects again for every connection.
const VALID: Duration = Duration::from_secs(5 * 60);
/// How long at most.
const VALID_AT_MOST: Duration = Duration::from_secs(60 * 60);
/// Keys at once, of an account and of all; the one that expires first makes room for another.
const MAX_KEYS_OF_ACCOUNT: usize = 50;
const MAX_KEYS: usize = 1_000;
/// SSH connections by one key at once.
const MAX_CONNECTIONS: usize = 64;
/// Longest key, in bytes of text: RSA of 8,192 bits has 1,400.
const MAX_KEY_BYTES: usize = 4_096;
/// Shortest RSA key, in bits, as OpenSSH of today has it.
const MIN_RSA_BITS: usize = 2_048;
/// Letters of the user name that stands for a key: log2(62) * 32 = 190 bits.
const USER_LETTERS: usize = 32;

/// What a key opens.
pub struct Registered {
    key: PublicKey,
    pub dyno_id: DynoId,
    /// What it was registered by.
    pub access: Access,
    /// The account, and where the key came from.
    pub actor: Actor,
    /// Taken by each connection.
    pub connections: Arc<Semaphore>,
    /// The app's log has told of a forwarded connection.
    pub forward_told: AtomicBool,
    born: Instant,
}

/// The keys, by the user name that was answered. Clones share them.
#[derive(Clone, Default)]
pub struct ClientKeys(Arc<Mutex<HashMap<String, Entry>>>);

struct Entry {
    registered: Arc<Registered>,
    expires: Instant,
}

impl ClientKeys {
    /// Takes a key for this dyno; the user name that goes with it.
    pub fn register(&self, key: PublicKey, dyno_id: DynoId, access: Access, actor: Actor) -> String {
        let now = Instant::now();
        let name = random_letters(USER_LETTERS);
        let registered = Registered {
            key,
            dyno_id,
            access,
            actor,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            forward_told: AtomicBool::new(false),
            born: now,
        };
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, entry| entry.expires > now);
        let account_id = registered.actor.account_id;
        let own = |entry: &Entry| entry.registered.actor.account_id == account_id;
        let many = keys.values().filter(|entry| own(entry)).count() >= MAX_KEYS_OF_ACCOUNT;
        if many || keys.len() >= MAX_KEYS {
            let candidates = keys.iter().filter(|(_, entry)| !many || own(entry));
            let first = candidates.min_by_key(|(_, entry)| entry.expires).map(|(name, _)| name.clone());
            first.inspect(|first| drop(keys.remove(first)));
        }
        keys.insert(name.clone(), Entry { registered: Arc::new(registered), expires: now + VALID });
        name
    }

    /// What this user name opens with this key. `used`: the client has shown that it is its own.
    pub fn find(&self, user: &str, key: &PublicKey, used: bool) -> Option<Arc<Registered>> {
        self.find_at(user, key, used, Instant::now())
    }

    fn find_at(&self, user: &str, key: &PublicKey, used: bool, now: Instant) -> Option<Arc<Registered>> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = keys.get_mut(user).filter(|entry| entry.expires > now)?;
        if entry.registered.key.key_data() != key.key_data() {
            return None;
        }
        if used {
            entry.expires = (now + VALID).min(entry.registered.born + VALID_AT_MOST);
        }
        Some(entry.registered.clone())
    }
}

/// Reads a key as clients send it: `ssh-rsa AAAA... comment`.
///
/// # Errors
/// It is none, or too short to be safe. The text is for the user.
pub fn parse_client_key(text: &str) -> Result<PublicKey, String> {
    if text.len() > MAX_KEY_BYTES {
        return Err(format!("it has more than {MAX_KEY_BYTES} bytes"));
    }
    let key =
        PublicKey::from_openssh(text.trim()).map_err(|error| format!("it is no SSH public key ({error})"))?;
    match key.key_data() {
        KeyData::Rsa(rsa) => {
            let bits = rsa.n().as_positive_bytes().map_or(0, |bytes| bytes.len() * 8);
            match bits {
                MIN_RSA_BITS.. => Ok(key),
                _ => Err(format!("an RSA key needs {MIN_RSA_BITS} bits")),
            }
        }
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) => Ok(key),
        _ => Err("only RSA, Ed25519 and ECDSA keys are taken".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_core::{AccountId, AppId, AuthorizationId};
    use uuid::Uuid;

    fn key(number: char) -> PublicKey {
        let data = format!("AAAAC3NzaC1lZDI1NTE5AAAAI{}{number}", "A".repeat(42));
        parse_client_key(&format!("ssh-ed25519 {data} comment\n")).expect("a key")
    }

    fn register(keys: &ClientKeys, key: PublicKey, dyno: u128, account: u128) -> String {
        let actor = Actor {
            account_id: AccountId(Uuid::from_u128(account)),
            email: "me@example.com".into(),
            remote_address: None,
            request_id: None,
        };
        let access = Access::by_ssh(AuthorizationId(Uuid::nil()), AppId(Uuid::nil()));
        keys.register(key, DynoId(Uuid::from_u128(dyno)), access, actor)
    }

    #[test]
    fn a_key_opens_its_own_dyno_under_its_own_name_for_minutes() {
        let keys = ClientKeys::default();
        let (one, two) = (register(&keys, key('B'), 1, 1), register(&keys, key('C'), 2, 1));
        let now = Instant::now();
        let opens = |user: &str, key: &PublicKey, now| {
            keys.find_at(user, key, false, now).map(|registered| registered.dyno_id.0.as_u128())
        };
        assert_eq!(opens(&one, &key('B'), now), Some(1));
        assert_eq!(opens(&two, &key('C'), now), Some(2));
        assert_eq!(opens(&one, &key('C'), now), None, "another's name");
        assert_eq!(opens("nobody", &key('B'), now), None);
        let later = now + VALID - Duration::from_secs(1);
        assert!(keys.find_at(&one, &key('B'), true, later).is_some(), "its use keeps it");
        let later = now + VALID + Duration::from_secs(1);
        assert_eq!((opens(&one, &key('B'), later), opens(&two, &key('C'), later)), (Some(1), None));
        let mut time = now;
        while keys.find_at(&one, &key('B'), true, time).is_some() {
            time += VALID / 2;
        }
        assert!(time - now < VALID_AT_MOST + VALID, "not for ever");
    }

    #[test]
    fn registered_keys_are_bounded() {
        let keys = ClientKeys::default();
        let first = register(&keys, key('B'), 1, 1);
        let others = register(&keys, key('B'), 1, 2);
        for _ in 0..MAX_KEYS_OF_ACCOUNT {
            register(&keys, key('C'), 2, 1);
        }
        assert!(keys.find(&first, &key('B'), false).is_none());
        assert!(keys.find(&others, &key('B'), false).is_some(), "another's are left alone");
        for account in 0..MAX_KEYS as u128 {
            register(&keys, key('C'), 2, 3 + account);
        }
        assert_eq!(keys.0.lock().expect("ours").len(), MAX_KEYS);
    }
}
