//! The second factor: codes of an app on a phone (RFC 6238: SHA-1, 6 digits, 30 s) and recovery codes.
//!
//! A code is good for its own 30 s and those before and after (RFC 6238, section 5.2), and only if no code of that step
//! or a later one was taken before. A recovery code is 80 random bits, kept as its SHA-256 and taken once.

use crate::auth;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use ferroku_core::account::Account;
use ferroku_core::event::Actor;
use ferroku_core::{AccountId, Millis};
use ferroku_store::{Store, two_factor};
use qrcode::QrCode;
use qrcode::render::svg;
use secrecy::{ExposeSecret, SecretString};
use totp_rs::{Builder, Secret, Totp};
use zeroize::Zeroizing;

/// The shared secret, in bytes: 160 bits (RFC 4226, section 4).
const SECRET_BYTES: usize = 20;
const RECOVERY_CODES: usize = 10;
/// Random letters and digits of a recovery code: log2(36) * 16 = 82 bits.
const RECOVERY_LETTERS: usize = 16;
/// Longest code that is looked at, in bytes: a recovery code with its hyphens and some blanks.
const MAX_CODE_BYTES: usize = 64;

/// What a phone has to be told.
pub struct Offer {
    /// `otpauth://...` as a picture.
    pub qr_svg: String,
    /// The secret in base 32, for typing.
    pub secret: SecretString,
}

/// Offers the account a new secret, or the same as before while no code has proved it.
///
/// # Errors
/// 422 when the second factor is on already.
pub async fn offer(node: &Node, account: &Account) -> Result<Offer, ApiError> {
    let secret = match two_factor::shared(&node.store, account.id).await? {
        Some(shared) if !shared.enabled => shared.secret,
        _ => {
            let mut secret = Zeroizing::new(vec![0u8; SECRET_BYTES]);
            getrandom::fill(&mut secret).map_err(|error| ApiError::internal(anyhow::anyhow!(error)))?;
            two_factor::offer(&node.store, account.id, &secret, now_ms()).await?;
            secret
        }
    };
    let totp = totp(&secret, &account.email)?;
    let url = Zeroizing::new(totp.to_url().map_err(ApiError::internal)?);
    let code = QrCode::new(url.as_bytes()).map_err(ApiError::internal)?;
    let qr_svg = code.render::<svg::Color>().min_dimensions(200, 200).build();
    // Without the XML declaration it can stand in a page.
    let qr_svg = qr_svg.find("<svg").map_or(qr_svg.as_str(), |at| &qr_svg[at..]).to_owned();
    Ok(Offer { qr_svg, secret: totp.secret().to_base32().into() })
}

/// Turns the second factor on, if the code shows that the phone has the secret. Gives the recovery codes, which nobody
/// can be shown again.
///
/// # Errors
/// 422 for a wrong code, or when nothing was offered.
pub async fn enable(
    node: &Node,
    account: &Account,
    code: &str,
    actor: &Actor,
) -> Result<Vec<SecretString>, ApiError> {
    let shared = two_factor::shared(&node.store, account.id).await?.filter(|shared| !shared.enabled);
    let shared =
        shared.ok_or_else(|| ApiError::invalid_params("Two-factor authentication was not begun."))?;
    let now = now_ms();
    let step = matching_step(&shared.secret, code, now)?
        .ok_or_else(|| ApiError::invalid_params("That code is wrong. Is the phone's clock right?"))?;
    let (codes, hashes) = recovery_codes();
    two_factor::enable(&node.store, account.id, step, &hashes, actor, now).await?;
    Ok(codes)
}

/// New recovery codes in place of the old ones.
///
/// # Errors
/// The store failed.
pub async fn new_recovery_codes(
    node: &Node,
    account: &Account,
    actor: &Actor,
) -> Result<Vec<SecretString>, ApiError> {
    let (codes, hashes) = recovery_codes();
    two_factor::replace_recovery_codes(&node.store, account.id, &hashes, actor, now_ms()).await?;
    Ok(codes)
}

/// Whether the code is one of the account's, and takes it.
///
/// # Errors
/// The store failed.
pub async fn take(store: &Store, id: AccountId, code: &SecretString, now: Millis) -> Result<bool, ApiError> {
    let code = code.expose_secret().trim();
    if code.len() > MAX_CODE_BYTES {
        return Ok(false);
    }
    let digits: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    if digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let shared = two_factor::shared(store, id).await?.filter(|shared| shared.enabled);
        let Some(shared) = shared else { return Ok(false) };
        return Ok(match matching_step(&shared.secret, &digits, now)? {
            Some(step) => two_factor::take_step(store, id, step).await?,
            None => false,
        });
    }
    Ok(two_factor::take_recovery_code(store, id, &recovery_hash(code)).await?)
}

/// The 30 s that the code belongs to, counted from the epoch.
fn matching_step(secret: &[u8], code: &str, now: Millis) -> Result<Option<i64>, ApiError> {
    let seconds = u64::try_from(now / 1000).unwrap_or(0);
    let step = totp(secret, "")?.check(code.trim(), seconds);
    Ok(step.and_then(|step| i64::try_from(step).ok()))
}

fn totp(secret: &[u8], account_name: &str) -> Result<Totp, ApiError> {
    // A colon would divide the label in two.
    let account_name = account_name.replace(':', "");
    Builder::new()
        .with_secret(Secret::new(secret.into()))
        .with_account_name(account_name)
        .with_issuer(Some("Ferroku"))
        .build()
        .map_err(ApiError::internal)
}

/// New codes, and what is kept of them.
fn recovery_codes() -> (Vec<SecretString>, Vec<String>) {
    let codes: Vec<SecretString> = (0..RECOVERY_CODES)
        .map(|_| {
            let letters = auth::random_lower_case(RECOVERY_LETTERS);
            let parts: Vec<&str> = [0, 4, 8, 12].iter().map(|at| &letters[*at..at + 4]).collect();
            parts.join("-").into()
        })
        .collect();
    let hashes = codes.iter().map(|code| recovery_hash(code.expose_secret())).collect();
    (codes, hashes)
}

/// Of the letters and digits alone, so that a code may be typed with or without hyphens.
fn recovery_hash(code: &str) -> String {
    let letters: String =
        code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    auth::token_hash(&letters.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_rfc() {
        // RFC 6238, appendix B, SHA-1: the last six of the eight digits.
        let secret = b"12345678901234567890";
        for (seconds, code) in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")] {
            let step = matching_step(secret, code, seconds * 1000).expect("checked");
            assert_eq!(step, Some(seconds / 30), "{code}");
            assert!(
                matching_step(secret, code, (seconds + 30) * 1000).expect("checked").is_some(),
                "a step late"
            );
            assert!(
                matching_step(secret, code, (seconds + 90) * 1000).expect("checked").is_none(),
                "too late"
            );
        }
        for bad in ["", "28708", "2870822", "abcdef", "287083"] {
            assert!(matching_step(secret, bad, 59_000).expect("checked").is_none(), "{bad}");
        }
    }

    #[test]
    fn a_recovery_code_may_be_typed_as_people_type() {
        let (codes, hashes) = recovery_codes();
        let code = codes[0].expose_secret();
        assert_eq!((codes.len(), code.len()), (10, 19));
        assert_eq!(recovery_hash(&code.replace('-', " ").to_uppercase()), hashes[0]);
        assert_ne!(hashes[0], hashes[1]);
    }
}
