//! Passwords: hashing, checking, and holding back whoever guesses.
//!
//! argon2id with the library's own parameters (19 MiB, 2 passes; OWASP's advice), on threads for blocking
//! work, few at a time: a flood of logins may neither fill the memory nor hold up other requests. After a few
//! failures from one address for one account further attempts are refused for a time that doubles; after a few wrong
//! codes of a second factor, from wherever they come.

use crate::auth::refuse_suspended;
use crate::error::ApiError;
use crate::people::second_factor;
use crate::ssh::door::network;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use ferroku_core::Millis;
use ferroku_core::account::Account;
use ferroku_store::{Store, accounts};
use http::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Passwords hashed at the same time: 19 MiB of memory and one processor each.
const CONCURRENT_HASHES: usize = 2;
/// Requests that may wait for their turn; more are told to come back.
const WAITING_LOGINS: usize = 64;
/// Failures that are forgiven before attempts are held back. Ours: a few typing errors.
const FREE_FAILURES: u32 = 5;
/// Failures for one account, from wherever they come, that are forgiven. Ours: far more than its owner makes, far fewer than
/// many addresses together need. What is logged in already goes on, and the wait stays a minute, so nobody is locked out.
const FREE_FAILURES_OF_ACCOUNT: u32 = 100;
/// Longest time for which attempts are held back, in milliseconds.
const LONGEST_WAIT_MS: Millis = 60_000;
/// A failure is forgotten after this long, in milliseconds.
const FORGET_AFTER_MS: Millis = 15 * 60_000;
/// Most (account, address) pairs remembered; the oldest are forgotten first.
const REMEMBERED_FAILURES: usize = 10_000;
/// Stands for an address where failures of a second factor are counted.
const SECOND_FACTOR: &str = "second factor";
/// Stands for an address where failures from all of them are counted.
const ANYWHERE: &str = "anywhere";
/// Longest password that is hashed, in bytes.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// Checks passwords.
#[derive(Debug)]
pub struct Logins {
    hashing: Semaphore,
    waiting: Semaphore,
    failures: Mutex<HashMap<(String, String), Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last_at: Millis,
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            hashing: Semaphore::new(CONCURRENT_HASHES),
            waiting: Semaphore::new(WAITING_LOGINS),
            failures: Mutex::default(),
        }
    }
}

impl Logins {
    /// The account with this email address, password and, where it is on, second factor.
    ///
    /// # Errors
    /// As [`Logins::password`] and [`Logins::second_factor`]; 403 `two_factor` when the password is right and a code is
    /// missing; 403 `suspended`.
    pub async fn check(
        &self,
        store: &Store,
        email: &str,
        password: SecretString,
        code: Option<SecretString>,
        remote_address: &str,
        now: Millis,
    ) -> Result<Account, ApiError> {
        let account = self.password(store, email, password, remote_address, now).await?;
        refuse_suspended(&account)?;
        if account.two_factor {
            let code = code.ok_or_else(ApiError::two_factor)?;
            self.second_factor(store, &account, &code, remote_address, now).await?;
        }
        Ok(account)
    }

    /// The account with this email address and password. Where a second factor is on, failures are not forgotten yet.
    ///
    /// # Errors
    /// 401 when there is none, in the same words and after the same work whichever of the two is wrong;
    /// 429 when there were too many failures.
    pub async fn password(
        &self,
        store: &Store,
        email: &str,
        password: SecretString,
        remote_address: &str,
        now: Millis,
    ) -> Result<Account, ApiError> {
        let key = (email.to_ascii_lowercase(), network_of(remote_address));
        let all = (key.0.clone(), ANYWHERE.to_owned());
        self.refuse_if_held_back(&key, now)?;
        self.refuse_if_held_back(&all, now)?;
        if password.expose_secret().len() > MAX_PASSWORD_BYTES {
            return Err(ApiError::unauthorized());
        }
        let _waiting = self
            .waiting
            .try_acquire()
            .map_err(|_| ApiError::unavailable("Too many logins at once. Try again in a few seconds."))?;
        let found = accounts::find_with_password_hash(store, email).await?;
        let _turn = self.hashing.acquire().await.map_err(ApiError::internal)?;
        // Counted before it is known to be one, so that many at once do not pass for one.
        self.refuse_if_held_back(&key, now)?;
        self.refuse_if_held_back(&all, now)?;
        self.note_failure(key.clone(), now);
        self.note_failure(all.clone(), now);
        let (account, hash) = found.unzip();
        let matches = tokio::task::spawn_blocking(move || verify(&password, hash.as_deref()))
            .await
            .map_err(ApiError::internal)??;
        match account {
            Some(account) if matches => {
                self.take_back_failure(&all);
                match account.two_factor {
                    true => self.take_back_failure(&key),
                    false => drop(self.lock().remove(&key)),
                }
                Ok(account)
            }
            _ => Err(ApiError::unauthorized()),
        }
    }

    /// Takes a code of the account's second factor. Whoever gives one knows the password, so failures count for the
    /// account from wherever they come.
    ///
    /// # Errors
    /// 401 for a wrong or used code; 429 when there were too many failures.
    pub async fn second_factor(
        &self,
        store: &Store,
        account: &Account,
        code: &SecretString,
        remote_address: &str,
        now: Millis,
    ) -> Result<(), ApiError> {
        let key = (account.id.to_string(), SECOND_FACTOR.to_owned());
        self.refuse_if_held_back(&key, now)?;
        self.note_failure(key.clone(), now);
        if second_factor::take(store, account.id, code, now).await? {
            let mut failures = self.lock();
            failures.remove(&key);
            failures.remove(&(account.email.clone(), network_of(remote_address)));
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "That two-factor code is wrong or was used already.",
        ))
    }

    fn refuse_if_held_back(&self, key: &(String, String), now: Millis) -> Result<(), ApiError> {
        let Some(failures) = self.lock().get(key).copied() else { return Ok(()) };
        let left_ms = failures.last_at + wait_ms(failures.count, free_failures(key)) - now;
        if left_ms <= 0 {
            return Ok(());
        }
        let seconds = (left_ms + 999) / 1000;
        Err(ApiError::rate_limit(format!("Too many failed logins. Try again in {seconds} seconds.")))
    }

    /// It was none after all.
    fn take_back_failure(&self, key: &(String, String)) {
        if let Some(failures) = self.lock().get_mut(key) {
            failures.count = failures.count.saturating_sub(1);
        }
    }

    fn note_failure(&self, key: (String, String), now: Millis) {
        let mut all = self.lock();
        if all.len() >= REMEMBERED_FAILURES && !all.contains_key(&key) {
            all.retain(|_, failures| now - failures.last_at < FORGET_AFTER_MS);
            if all.len() >= REMEMBERED_FAILURES
                && let Some(oldest) = all.iter().min_by_key(|(_, failures)| failures.last_at)
            {
                let oldest = oldest.0.clone();
                all.remove(&oldest);
            }
        }
        let failures = all.entry(key).or_insert(Failures { count: 0, last_at: now });
        if now - failures.last_at >= FORGET_AFTER_MS {
            failures.count = 0;
        }
        failures.count += 1;
        failures.last_at = now;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hash of a password, to be stored.
///
/// # Errors
/// The hash function refused its parameters or the kernel has no randomness.
pub fn hash_password(password: &SecretString) -> anyhow::Result<String> {
    let hash = Argon2::default()
        .hash_password(password.expose_secret().as_bytes())
        .map_err(|error| anyhow::anyhow!("cannot hash a password: {error}"))?;
    Ok(hash.to_string())
}

/// What stands for a client: its address, or of IPv6 the network that is all its own.
pub fn network_of(remote_address: &str) -> String {
    remote_address.parse().map_or_else(|_| remote_address.to_owned(), |address| network(address).to_string())
}

/// How many failures are forgiven where they are counted under `key`.
fn free_failures(key: &(String, String)) -> u32 {
    if key.1 == ANYWHERE { FREE_FAILURES_OF_ACCOUNT } else { FREE_FAILURES }
}

/// How long attempts are held back after so many failures in a row, `free` of which are forgiven.
fn wait_ms(failures: u32, free: u32) -> Millis {
    match failures.checked_sub(free) {
        None => 0,
        Some(over) => 1_000_i64.saturating_mul(2_i64.saturating_pow(over)).min(LONGEST_WAIT_MS),
    }
}

/// Whether the password has this hash. Without a hash the same work is done for nothing, so that the time
/// taken does not tell which addresses have an account.
fn verify(password: &SecretString, hash: Option<&str>) -> Result<bool, ApiError> {
    let bytes = password.expose_secret().as_bytes();
    let Some(hash) = hash else {
        hash_password(password).map_err(ApiError::internal)?;
        return Ok(false);
    };
    let hash = PasswordHash::new(hash).map_err(|error| {
        ApiError::internal(anyhow::anyhow!("a stored password hash cannot be read: {error}"))
    })?;
    Ok(Argon2::default().verify_password(bytes, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_verifies_against_its_own_hash_only() {
        let hash = hash_password(&"right".into()).expect("hashed");
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        assert!(verify(&"right".into(), Some(&hash)).expect("readable"));
        assert!(!verify(&"wrong".into(), Some(&hash)).expect("readable"));
        assert!(!verify(&"right".into(), None).expect("no account"));
        assert!(verify(&"right".into(), Some("garbage")).is_err());
    }

    #[test]
    fn failures_hold_back_only_who_failed_and_for_a_time_that_doubles() {
        let logins = Logins::default();
        let key = ("a@example.com".to_owned(), "192.0.2.1".to_owned());
        let other = ("a@example.com".to_owned(), "192.0.2.2".to_owned());
        for _ in 0..FREE_FAILURES - 1 {
            logins.note_failure(key.clone(), 0);
        }
        assert!(logins.refuse_if_held_back(&key, 0).is_ok());
        logins.note_failure(key.clone(), 0);
        assert_eq!(logins.refuse_if_held_back(&key, 0).expect_err("held back").status, 429);
        assert!(logins.refuse_if_held_back(&key, 1000).is_ok());
        assert!(logins.refuse_if_held_back(&other, 0).is_ok());
        logins.note_failure(key.clone(), 1000);
        assert!(logins.refuse_if_held_back(&key, 2999).is_err());
        assert!(logins.refuse_if_held_back(&key, 3000).is_ok());
        let networks = ["2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"].map(network_of);
        assert!(networks[0] == networks[1] && networks[1] != networks[2]);
        assert_eq!((wait_ms(11, 5), wait_ms(60, 5), wait_ms(200, 5)), (60_000, 60_000, 60_000));
        logins.note_failure(key.clone(), 1000 + FORGET_AFTER_MS);
        assert!(
            logins.refuse_if_held_back(&key, 1000 + FORGET_AFTER_MS).is_ok(),
            "the old ones are forgotten"
        );
    }

    #[tokio::test]
    async fn guesses_from_many_addresses_are_held_back_for_their_account_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = crate::node::Node::for_tests(folder.path()).await;
        let logins = Logins::default();
        let guess = async |email: &str, number: u32| {
            let address = format!("192.0.2.{number}");
            logins
                .password(&node.store, email, "wrong".into(), &address, 0)
                .await
                .expect_err("refused")
                .status
        };
        assert_eq!(guess("A@example.com", 1).await, 401);
        // By hand: to hash a password takes its time.
        for _ in 0..FREE_FAILURES_OF_ACCOUNT - 2 {
            logins.note_failure(("a@example.com".to_owned(), ANYWHERE.to_owned()), 0);
        }
        assert_eq!(guess("a@example.com", 2).await, 401, "the last one forgiven");
        assert_eq!(guess("a@example.com", 3).await, 429, "an address that never failed");
        assert_eq!(guess("b@example.com", 3).await, 401, "another account");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let logins = Logins::default();
        for number in 0..REMEMBERED_FAILURES as i64 + 5 {
            logins.note_failure((number.to_string(), String::new()), number);
        }
        assert_eq!(logins.lock().len(), REMEMBERED_FAILURES);
        assert!(!logins.lock().contains_key(&("0".to_owned(), String::new())));
    }
}
