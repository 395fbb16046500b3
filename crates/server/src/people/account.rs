//! Changes of one's own account: password, address, end.
//!
//! A new password ends every login but the one it was changed from: sessions of browsers and logins of the CLI.
//! Authorizations that were made on purpose (`heroku authorizations:create`, the API key) go on, because deploys hang on
//! them; `heroku authorizations:revoke` ends these.

use super::{Wanted, check_password, dead_link, email, hashed, letters, new_token};
use crate::api::conventions::RequestContext;
use crate::auth;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use ferroku_core::Millis;
use ferroku_core::account::{Account, Role};
use ferroku_core::event::Actor;
use ferroku_core::mailed_token::{MailedToken, Purpose};
use ferroku_store::account_changes::{self, Keep};
use ferroku_store::{StoreError, accounts, mailed_tokens, write};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

/// How long a link to a new password is good, in milliseconds. OWASP's advice: short; an hour survives slow mail.
const RESET_VALID_MS: Millis = 3_600_000;
const EMAIL_CHANGE_VALID_MS: Millis = 24 * 3_600_000;

/// Who changes their own account, having given its password where that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub account: &'a Account,
    pub actor: &'a Actor,
}

impl Own<'_> {
    /// Checks the account's password, held back like a login.
    ///
    /// # Errors
    /// 401, 429.
    pub async fn confirm(&self, node: &Node, password: SecretString) -> Result<(), ApiError> {
        let address = self.actor.remote_address.as_deref().unwrap_or("");
        node.logins.password(&node.store, &self.account.email, password, address, now_ms()).await?;
        Ok(())
    }

    /// Gives the account a new password.
    ///
    /// # Errors
    /// 401 for a wrong current one; 422 for a bad new one; 429.
    pub async fn change_password(
        &self,
        node: &Node,
        current: SecretString,
        new: SecretString,
        keep: Keep,
    ) -> Result<(), ApiError> {
        check_password(&new, &self.account.email)?;
        self.confirm(node, current).await?;
        let hash = hashed(new).await?;
        let (store, now) = (&node.store, now_ms());
        write!(store, tx => {
            account_changes::set_password(&mut tx, self.account.id, &hash, keep, self.actor, now).await
        })?;
        node.mail.post(letters::password_changed(&self.account.email, &node.config.people.public_url), now);
        Ok(())
    }

    /// Sends a link to a new address, which becomes the account's once the link is followed. Says nothing of whether
    /// the address has an account already: then no letter is sent.
    ///
    /// # Errors
    /// 401, 422, 429.
    pub async fn change_email(&self, node: &Node, new: &str, password: SecretString) -> Result<(), ApiError> {
        let new = email(new)?;
        self.confirm(node, password).await?;
        let now = now_ms();
        allow_letter(node, self.actor.remote_address.as_deref().unwrap_or(""), now)?;
        if !node.throttle.letter_to(&new, now) || accounts::find_by_email(&node.store, &new).await?.is_some()
        {
            return Ok(());
        }
        let wanted = Wanted {
            purpose: Purpose::EmailChange,
            email: &new,
            account_id: Some(self.account.id),
            valid_ms: EMAIL_CHANGE_VALID_MS,
            event: None,
        };
        let token = new_token(&node.store, &wanted, now).await?;
        node.mail.post(letters::email_change(&new, &node.config.people.public_url, &token), now);
        Ok(())
    }

    /// Ends the account.
    ///
    /// # Errors
    /// 401, 429; 422 while it owns apps, and always for the node's owner.
    pub async fn delete(&self, node: &Node, password: SecretString) -> Result<(), ApiError> {
        self.confirm(node, password).await?;
        delete(node, self.account, self.actor).await
    }
}

/// Ends an account.
///
/// # Errors
/// 422 while it owns apps, and always for the node's owner.
pub async fn delete(node: &Node, account: &Account, actor: &Actor) -> Result<(), ApiError> {
    if account.role == Role::Owner {
        return Err(ApiError::invalid_params("The node's owner cannot be deleted."));
    }
    Ok(account_changes::delete(&node.store, account.id, actor, now_ms()).await?)
}

/// Asks for a link to a new password: a letter goes to the address if it has an account.
///
/// # Errors
/// 422, 429.
pub fn request_reset(node: &Arc<Node>, address: &str, context: &RequestContext) -> Result<(), ApiError> {
    let address = email(address)?;
    let remote_address = context.remote_address.clone().unwrap_or_default();
    let now = now_ms();
    allow_letter(node, &remote_address, now)?;
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = offer_reset(&node, &address, &remote_address, now).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot answer somebody who lost their password"
            );
        }
    });
    Ok(())
}

async fn offer_reset(
    node: &Node,
    address: &str,
    remote_address: &str,
    now: Millis,
) -> Result<(), StoreError> {
    let Some(account) = accounts::find_by_email(&node.store, address).await? else { return Ok(()) };
    if !node.throttle.letter_to(address, now) {
        return Ok(());
    }
    let wanted = Wanted {
        purpose: Purpose::PasswordReset,
        email: address,
        account_id: Some(account.id),
        valid_ms: RESET_VALID_MS,
        event: None,
    };
    let token = new_token(&node.store, &wanted, now).await?;
    node.mail
        .post(letters::password_reset(address, &node.config.people.public_url, &token, remote_address), now);
    Ok(())
}

/// What a link to a new password, or to a new address, is for.
///
/// # Errors
/// 404 when it is worth nothing.
pub async fn link(node: &Node, token: &SecretString, purpose: Purpose) -> Result<MailedToken, ApiError> {
    let found = mailed_tokens::find(&node.store, &auth::token_hash(token), now_ms()).await?;
    found.filter(|found| found.purpose == purpose).ok_or_else(dead_link)
}

/// Gives the account that a link is for a new password, and ends all of its logins. A second factor stays on.
///
/// # Errors
/// 404 when the link is worth nothing; 422.
pub async fn reset_password(
    node: &Node,
    token: &SecretString,
    new: SecretString,
    context: &RequestContext,
) -> Result<Account, ApiError> {
    let account = account_of(node, token, Purpose::PasswordReset).await?;
    check_password(&new, &account.email)?;
    let hash = hashed(new).await?;
    let (token_hash, actor) = (auth::token_hash(token), context.actor(&account));
    let (store, now) = (&node.store, now_ms());
    let changed = write!(store, tx => {
        mailed_tokens::take(&mut tx, &token_hash, now).await?;
        account_changes::set_password(&mut tx, account.id, &hash, Keep::default(), &actor, now).await
    });
    changed.map_err(dead_or)?;
    node.mail.post(letters::password_changed(&account.email, &node.config.people.public_url), now);
    Ok(account)
}

/// Gives the account that a link is for the address that the link was sent to.
///
/// # Errors
/// 404 when the link is worth nothing; 422 when somebody else has the address by now.
pub async fn confirm_email(
    node: &Node,
    token: &SecretString,
    context: &RequestContext,
) -> Result<Account, ApiError> {
    let old = account_of(node, token, Purpose::EmailChange).await?;
    let (token_hash, actor) = (auth::token_hash(token), context.actor(&old));
    let (store, now) = (&node.store, now_ms());
    let changed = write!(store, tx => {
        let taken = mailed_tokens::take(&mut tx, &token_hash, now).await?;
        account_changes::set_email(&mut tx, old.id, &taken.email, &actor, now).await
    });
    let account = changed.map_err(dead_or)?;
    let url = &node.config.people.public_url;
    node.mail.post(letters::email_changed(&old.email, url, &account.email), now);
    Ok(account)
}

async fn account_of(node: &Node, token: &SecretString, purpose: Purpose) -> Result<Account, ApiError> {
    let link = link(node, token, purpose).await?;
    let id = link.account_id.ok_or_else(dead_link)?;
    accounts::find(&node.store, id).await?.ok_or_else(dead_link)
}

fn dead_or(error: StoreError) -> ApiError {
    match error {
        StoreError::NotFound { .. } => dead_link(),
        error => error.into(),
    }
}

/// Refuses a new password that was not typed twice alike.
///
/// # Errors
/// 422.
pub fn refuse_unlike(password: &SecretString, confirmation: &SecretString) -> Result<(), ApiError> {
    if password.expose_secret() == confirmation.expose_secret() {
        return Ok(());
    }
    Err(ApiError::invalid_params("The two passwords differ."))
}

/// Refuses a client that has asked for too many letters.
///
/// # Errors
/// 429.
pub(super) fn allow_letter(node: &Node, remote_address: &str, now: Millis) -> Result<(), ApiError> {
    if node.throttle.letter_for_client(remote_address, now) {
        return Ok(());
    }
    Err(ApiError::rate_limit("Too many letters were asked for from your address. Try again in an hour."))
}
