//! Sealing secrets at rest: XChaCha20-Poly1305 with a random nonce.
//!
//! A sealed value is the lower-case hex of `nonce (24 bytes) || ciphertext`. The
//! additional data names table, row and version (`config_snapshot/<id>/1`), so
//! that a value copied to another row does not open. The key's id is kept in
//! the row, so that keys can be rotated.

use crate::{Result, StoreError};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 24;

/// The node's master key, with a name for it.
pub struct MasterKey {
    id: String,
    bytes: Zeroizing<[u8; 32]>,
}

impl MasterKey {
    /// A key from its 32 bytes; `id` is stored beside what it seals.
    pub fn new(id: impl Into<String>, bytes: [u8; 32]) -> Self {
        Self { id: id.into(), bytes: Zeroizing::new(bytes) }
    }

    /// The key's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals `plain` so that it opens only with the same key and `additional_data`.
    pub fn seal(&self, additional_data: &str, plain: &[u8]) -> String {
        let mut nonce = [0u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).expect("the kernel's random source answers once the system is up");
        let payload = Payload { msg: plain, aad: additional_data.as_bytes() };
        let ciphertext = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .expect("encryption fails only for messages of over 256 GiB");
        let mut sealed = nonce.to_vec();
        sealed.extend_from_slice(&ciphertext);
        to_hex(&sealed)
    }

    /// Opens what [`MasterKey::seal`] made.
    ///
    /// # Errors
    /// Another key, other additional data, or altered bytes.
    pub fn unseal(&self, additional_data: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>> {
        let fail = || StoreError::Unseal { what: additional_data.to_owned() };
        let bytes = from_hex(sealed).ok_or_else(fail)?;
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or_else(fail)?;
        let payload = Payload { msg: ciphertext, aad: additional_data.as_bytes() };
        self.cipher().decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| fail())
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.bytes))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_row_only() {
        let key = MasterKey::new("k1", [7; 32]);
        let sealed = key.seal("config_snapshot/a/1", b"secret");
        assert_eq!(key.unseal("config_snapshot/a/1", &sealed).expect("opens").as_slice(), b"secret");
        assert!(key.unseal("config_snapshot/b/1", &sealed).is_err(), "another row");
        assert!(MasterKey::new("k1", [8; 32]).unseal("config_snapshot/a/1", &sealed).is_err(), "another key");
        let mut altered = sealed.into_bytes();
        altered[60] = if altered[60] == b'0' { b'1' } else { b'0' };
        let altered = String::from_utf8(altered).expect("hex");
        assert!(key.unseal("config_snapshot/a/1", &altered).is_err(), "altered");
    }
}
