//! The node's secrets on disk: the master key and the owner's first credentials.
//!
//! - `DIR/master.key` (0600): 64 hex digits. Made once; the store cannot be read without it.
//! - `DIR/owner.json` (0600): `{"email", "password", "api_key"}` of the owner account. Written before the account,
//!   so that a crash in between leaves credentials that the next start uses, never an account nobody knows
//!   the password of.
//!
//! Both are written to a temporary file that is synced and then renamed.

use crate::auth;
use crate::login::hash_password;
use crate::node::now_ms;
use anyhow::{Context, bail, ensure};
use ferroku_core::account::Role;
use ferroku_core::oauth_authorization::Scopes;
use ferroku_core::{AccountId, AuthorizationId};
use ferroku_store::accounts::NewAccount;
use ferroku_store::oauth_authorizations::NewAuthorization;
use ferroku_store::{MasterKey, Store, StoreError, accounts, oauth_authorizations, write};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Description of the authorization behind an account's API key: the one that `~` means, and that no
/// logout removes.
pub const API_KEY_DESCRIPTION: &str = "API key";
/// Letters and digits of the owner's first password: 143 random bits.
const PASSWORD_LETTERS: usize = 24;

/// What `owner.json` holds.
#[derive(Serialize, Deserialize)]
pub struct Owner {
    pub email: String,
    pub password: String,
    pub api_key: String,
}

/// The node's master key, made when there is none yet.
///
/// # Errors
/// The file cannot be read, written or understood; or it is missing beside a database that was sealed with it.
pub fn master_key(data: &Path, store_url: &str) -> anyhow::Result<MasterKey> {
    let path = data.join("master.key");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(database) = store_url.strip_prefix("sqlite://")
                && Path::new(database).exists()
            {
                bail!(
                    "{} is missing, but {database} exists and is sealed with it: put the key back from your backup",
                    path.display()
                );
            }
            let mut bytes = Zeroizing::new([0u8; 32]);
            getrandom::fill(bytes.as_mut()).context("the kernel has no randomness")?;
            let text = Zeroizing::new(hex::encode(*bytes));
            write_secret(&path, text.as_bytes())?;
            text
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut bytes = Zeroizing::new([0u8; 32]);
    hex::decode_to_slice(text.trim(), bytes.as_mut()).with_context(|| {
        format!("{} does not hold 64 hex digits: put the key back from your backup", path.display())
    })?;
    let id = hex::encode(&Sha256::digest(*bytes)[..4]);
    Ok(MasterKey::new(id, *bytes))
}

/// Makes the owner's account and API key when the node has no account yet.
///
/// # Errors
/// `owner.json` cannot be written or read, or the store failed.
pub async fn ensure_owner(store: &Store, data: &Path, email: &str) -> anyhow::Result<()> {
    if !accounts::emails(store).await?.is_empty() {
        return Ok(());
    }
    let owner = owner_file(&data.join("owner.json"), email)?;
    let (password, token) = (SecretString::from(owner.password), SecretString::from(owner.api_key));
    let password_hash = tokio::task::spawn_blocking(move || hash_password(&password)).await??;
    let account_id = AccountId(Uuid::new_v4());
    let account = NewAccount {
        id: account_id,
        email: &owner.email,
        name: None,
        password_hash: &password_hash,
        role: Role::Owner,
    };
    let (token_hash, token_redacted) = (auth::token_hash(&token), auth::redact(&token));
    let authorization = NewAuthorization {
        id: AuthorizationId(Uuid::new_v4()),
        account_id,
        description: API_KEY_DESCRIPTION,
        scope: &Scopes::global(),
        token_hash: &token_hash,
        token_redacted: &token_redacted,
        expires_at: None,
        is_login: false,
    };
    let now = now_ms();
    create(store, &account, &authorization, now).await.context("cannot create the owner's account")
}

async fn create(
    store: &Store,
    account: &NewAccount<'_>,
    authorization: &NewAuthorization<'_>,
    now: ferroku_core::Millis,
) -> Result<(), StoreError> {
    write!(store, tx => {
        accounts::create(&mut tx, account, now).await?;
        oauth_authorizations::create(&mut tx, authorization, now).await?;
        Ok(())
    })
}

/// The credentials in `owner.json`, drawn and written when there is no such file.
fn owner_file(path: &Path, email: &str) -> anyhow::Result<Owner> {
    match std::fs::read(path) {
        Ok(text) => {
            let owner: Owner =
                serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(
                !owner.password.is_empty() && !owner.api_key.is_empty(),
                "{} is incomplete",
                path.display()
            );
            Ok(owner)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let owner = Owner {
                email: email.to_lowercase(),
                password: auth::random_letters(PASSWORD_LETTERS),
                api_key: auth::new_token().expose_secret().to_owned(),
            };
            let text = Zeroizing::new(serde_json::to_vec_pretty(&owner)?);
            write_secret(path, &text)?;
            Ok(owner)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file of mode 0600 that is there whole or not at all, with a line's end after `text`.
fn write_secret(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("is there").permissions().mode() & 0o7777
    }

    #[test]
    fn the_master_key_is_made_once_private_and_never_anew_beside_a_database() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("ferroku.sqlite");
        let url = format!("sqlite://{}", database.display());
        let first = master_key(folder.path(), &url).expect("made");
        assert_eq!(mode(&folder.path().join("master.key")), 0o600);
        std::fs::write(&database, "").expect("a database");
        let second = master_key(folder.path(), &url).expect("read");
        assert_eq!(first.id(), second.id());
        let sealed = first.seal("a/b/1", b"x");
        assert!(second.unseal("a/b/1", &sealed).is_ok());
        std::fs::write(folder.path().join("master.key"), "short").expect("damaged");
        assert!(master_key(folder.path(), &url).is_err());
        std::fs::remove_file(folder.path().join("master.key")).expect("lost");
        let error = master_key(folder.path(), &url).err().expect("refused").to_string();
        assert!(error.contains("put the key back"), "{error}");
        assert!(!folder.path().join("master.key").exists());
    }

    #[tokio::test]
    async fn credentials_written_before_a_crash_are_those_of_the_account_made_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("owner.json");
        // The crash: owner.json is there, the account is not.
        let written = owner_file(&path, "Me@Example.com").expect("written");
        assert_eq!(mode(&path), 0o600);
        let url = format!("sqlite://{}/ferroku.sqlite", folder.path().display());
        let store = Store::open(&url, MasterKey::new("k", [1; 32])).await.expect("a store");
        for _ in 0..2 {
            ensure_owner(&store, folder.path(), "other@example.com").await.expect("an owner");
        }
        assert_eq!(accounts::emails(&store).await.expect("read").len(), 1);
        let hash = auth::token_hash(&written.api_key.into());
        let (account, _) =
            accounts::by_token_hash(&store, &hash, now_ms()).await.expect("read").expect("valid");
        assert_eq!((account.email.as_str(), account.role), ("me@example.com", Role::Owner));
    }
}
