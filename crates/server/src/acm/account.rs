//! The node's account at the certificate authority: made at the first order, kept sealed, made anew when the
//! authority has forgotten it.

use super::{AcmeSettings, Failure};
use crate::node::{Node, now_ms};
use ferroku_store::acme_accounts;
use instant_acme::{Account, AccountCredentials, NewAccount};
use std::fmt;
use tokio::sync::Mutex;

/// The account, once it was used. Orders at the same time must not make two.
#[derive(Default)]
pub(super) struct Accounts(Mutex<Option<Account>>);

impl fmt::Debug for Accounts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Accounts").finish_non_exhaustive()
    }
}

impl Accounts {
    /// The account at the authority that the settings name.
    pub async fn get(&self, node: &Node, settings: &AcmeSettings) -> Result<Account, Failure> {
        let mut known = self.0.lock().await;
        if let Some(account) = &*known {
            return Ok(account.clone());
        }
        let account = open(node, settings).await?;
        *known = Some(account.clone());
        Ok(account)
    }

    /// Forgets the account: the authority does not know it.
    pub async fn forget(&self, node: &Node, settings: &AcmeSettings) {
        let mut known = self.0.lock().await;
        *known = None;
        if let Err(error) = acme_accounts::forget(&node.store, &settings.directory_url).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "cannot forget an account that the certificate authority does not know");
        }
    }
}

async fn open(node: &Node, settings: &AcmeSettings) -> Result<Account, Failure> {
    let builder = || match &settings.root {
        Some(path) => Account::builder_with_root(path).map_err(|error| {
            Failure(format!("The file {} (--acme-root) cannot be used: {error}", path.display()))
        }),
        None => Account::builder().map_err(|error| failed("TLS cannot be set up", &error)),
    };
    let kept = acme_accounts::find(&node.store, &settings.directory_url)
        .await
        .map_err(|error| failed("The node's account at the authority cannot be read", &error))?;
    if let Some(kept) = kept {
        let credentials: AccountCredentials = serde_json::from_slice(&kept)
            // The parser's own message could quote the key.
            .map_err(|_| Failure("The node's account at the authority cannot be read".to_owned()))?;
        return builder()?
            .from_credentials(credentials)
            .await
            .map_err(|error| failed("The certificate authority cannot be reached", &error));
    }
    let contact: Vec<String> = settings.contact.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder()?
        .create(&new, settings.directory_url.clone(), None)
        .await
        .map_err(|error| failed("The certificate authority gave no account", &error))?;
    let credentials =
        zeroize::Zeroizing::new(serde_json::to_vec(&credentials).expect("credentials have a JSON form"));
    acme_accounts::save(&node.store, &settings.directory_url, &credentials, now_ms())
        .await
        .map_err(|error| failed("The node's account at the authority cannot be kept", &error))?;
    Ok(account)
}

/// A failure with the whole chain of its causes.
pub(super) fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    let mut text = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(&format!(": {next}"));
        }
        cause = error.source();
    }
    Failure(text)
}
