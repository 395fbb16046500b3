//! What people do with their accounts, whether they come by a page, by the API or by a link in a letter.
//!
//! Invariants:
//! - Whoever asks for a letter gets the same answer, at once, whether the address has an account or not: what differs
//!   happens afterwards, in a task of its own.
//! - Links in letters lead to the address that the admin configured, never to what a request's `Host` says.
//! - A token of a link is drawn from 238 random bits, kept as its SHA-256, taken once, and expires.

pub mod account;
mod letters;
pub mod second_factor;
pub mod sessions;
pub mod sign_up;
pub mod throttle;

use crate::auth;
use crate::error::ApiError;
use crate::login::{MAX_PASSWORD_BYTES, hash_password};
use ferroku_core::event::Actor;
use ferroku_core::mailed_token::Purpose;
use ferroku_core::team::OWNER_DOMAIN;
use ferroku_core::{AccountId, Millis};
use ferroku_store::events::{self, NewEvent};
use ferroku_store::mailed_tokens::{self, NewMailedToken};
use ferroku_store::{Store, StoreError, write};
use secrecy::{ExposeSecret, SecretString};

/// Shortest password, in characters. NIST SP 800-63B, section 3.1.1.2, asks for 8 beside another factor and 15 without;
/// ours is in between, because guessing is held back here.
const MIN_PASSWORD_CHARACTERS: usize = 10;
/// Longest address, in bytes (RFC 5321, section 4.5.3.1, less the angle brackets).
const MAX_EMAIL_BYTES: usize = 254;
/// Longest name of a person, in bytes. Ours: it is shown in lists.
const MAX_NAME_BYTES: usize = 200;

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum SignUp {
    /// Whoever reads the address that it is for.
    Open,
    /// Whom an admin invites.
    Invitation,
    /// Nobody.
    #[default]
    Closed,
}

/// What the admin chose.
#[derive(Debug, Clone)]
pub struct PeopleSettings {
    pub sign_up: SignUp,
    /// Where people reach the API and its pages, without a slash at the end.
    pub public_url: String,
}

/// An address as it is kept: in lower case, with something on both sides of one `@`. None that clients take for a team's.
///
/// # Errors
/// 422.
pub fn email(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    let parses = text.parse::<lettre::Address>().is_ok();
    if parses && text.len() <= MAX_EMAIL_BYTES && text.is_ascii() {
        let address = text.to_ascii_lowercase();
        return match address.rsplit_once('@') {
            Some((_, OWNER_DOMAIN)) => Err(ApiError::invalid_params(format!(
                "Addresses at {OWNER_DOMAIN} stand for teams. Use one of your own."
            ))),
            _ => Ok(address),
        };
    }
    Err(ApiError::invalid_params("That is no email address: it is NAME@HOST, such as you@example.com."))
}

/// A person's name as it is kept.
///
/// # Errors
/// 422.
pub fn name(text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    if text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        let message = format!("A name has at most {MAX_NAME_BYTES} bytes and no control characters.");
        return Err(ApiError::invalid_params(message));
    }
    Ok(text.to_owned())
}

/// Refuses a password that is too easy to guess, or too long to be hashed.
///
/// # Errors
/// 422.
pub fn check_password(password: &SecretString, email: &str) -> Result<(), ApiError> {
    let password = password.expose_secret();
    if password.chars().count() < MIN_PASSWORD_CHARACTERS || password.len() > MAX_PASSWORD_BYTES {
        return Err(ApiError::invalid_params(format!(
            "A password has at least {MIN_PASSWORD_CHARACTERS} characters and at most {MAX_PASSWORD_BYTES} bytes."
        )));
    }
    let local_part = email.split('@').next().unwrap_or(email);
    let mut letters: Vec<char> = password.chars().collect();
    letters.dedup();
    if letters.len() == 1 || [email, local_part].iter().any(|bad| password.eq_ignore_ascii_case(bad)) {
        return Err(ApiError::invalid_params("That password is too easy to guess."));
    }
    Ok(())
}

/// A link that is to be sent.
struct Wanted<'a> {
    purpose: Purpose,
    email: &'a str,
    account_id: Option<AccountId>,
    valid_ms: Millis,
    /// What is noted of it, and who did it.
    event: Option<(&'a Actor, &'static str)>,
}

/// Keeps a new token and gives it for the link.
async fn new_token(store: &Store, wanted: &Wanted<'_>, now: Millis) -> Result<SecretString, StoreError> {
    let token: SecretString = auth::random_letters(auth::TOKEN_LETTERS).into();
    let token_hash = auth::token_hash(&token);
    let new = NewMailedToken {
        token_hash: &token_hash,
        purpose: wanted.purpose,
        email: wanted.email,
        account_id: wanted.account_id,
        expires_at: now + wanted.valid_ms,
    };
    write!(store, tx => {
        mailed_tokens::create(&mut tx, &new, now).await?;
        if let Some((actor, kind)) = wanted.event {
            events::append(&mut tx, NewEvent { app_id: None, actor, kind, log_message: None }, now).await?;
        }
        Ok(())
    })?;
    Ok(token)
}

/// A password's hash, made where it holds up nothing else.
async fn hashed(password: SecretString) -> Result<String, ApiError> {
    let hashing = tokio::task::spawn_blocking(move || hash_password(&password));
    hashing.await.map_err(ApiError::internal)?.map_err(ApiError::internal)
}

/// For a link that is worth nothing.
fn dead_link() -> ApiError {
    let message = "This link was used already, has expired, or a newer one was sent. Ask for another.";
    ApiError::new(http::StatusCode::NOT_FOUND, "not_found", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_in_lower_case_and_rubbish_is_refused() {
        assert_eq!(email(" Me@Example.COM ").expect("fine"), "me@example.com");
        for bad in ["", "me", "@host", "me@", "a@b@c", "a b@c.d", "a@b\r\nBcc: c@d.e", "<a@b.c>"] {
            assert!(email(bad).is_err(), "{bad}");
        }
        assert!(email("acme@HerokuManager.com").is_err(), "clients take it for a team");
        assert!(email(&format!("{}@example.com", "x".repeat(300))).is_err());
    }

    #[test]
    fn passwords_that_anybody_would_try_are_refused() {
        let check = |password: &str| check_password(&password.into(), "someone-long@example.com").is_ok();
        assert!(check("correct horse") && check("žluťoučký kůň"));
        for bad in ["short", "aaaaaaaaaaaaaa", "Someone-Long", "someone-long@example.com", &"xy".repeat(600)]
        {
            assert!(!check(bad), "{bad}");
        }
    }
}
