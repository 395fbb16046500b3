//! From an address to an account: sign-up, invitation, and the link that both send.

use super::{SignUp, Wanted, check_password, dead_link, email, hashed, letters, name, new_token};
use crate::api::conventions::RequestContext;
use crate::auth;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use ferroku_core::account::{Account, Role};
use ferroku_core::event::Actor;
use ferroku_core::mailed_token::{MailedToken, Purpose};
use ferroku_core::{AccountId, Millis};
use ferroku_store::accounts::{self, NewAccount};
use ferroku_store::events::{self, NewEvent};
use ferroku_store::{StoreError, mailed_tokens, write};
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// How long a letter's link is good, in milliseconds: a day for somebody who waits for it.
const SIGN_UP_VALID_MS: Millis = 24 * 3_600_000;
/// A week for somebody who does not.
const INVITATION_VALID_MS: Millis = 7 * 24 * 3_600_000;

/// What became of an invitation.
#[derive(Debug)]
pub struct Invited {
    pub email: String,
    pub expires_at: Millis,
    /// Where the letter lies when it was not sent by SMTP.
    pub file: Option<PathBuf>,
}

/// Asks for an account: a letter goes to the address, whether it has one already or not.
///
/// # Errors
/// 403 unless sign-up is open; 422, 429.
pub fn request(node: &Arc<Node>, address: &str, context: &RequestContext) -> Result<(), ApiError> {
    if node.config.people.sign_up != SignUp::Open {
        return Err(ApiError::forbidden(
            "Accounts on this node are made by invitation only: ask its admin for one.",
        ));
    }
    let address = email(address)?;
    let remote_address = context.remote_address.clone().unwrap_or_default();
    let now = now_ms();
    super::account::allow_letter(node, &remote_address, now)?;
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = offer(&node, &address, &remote_address, now).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot answer somebody who wants to sign up"
            );
        }
    });
    Ok(())
}

async fn offer(node: &Node, address: &str, remote_address: &str, now: Millis) -> Result<(), StoreError> {
    if !node.throttle.letter_to(address, now) {
        return Ok(());
    }
    let url = &node.config.people.public_url;
    let letter = match accounts::find_by_email(&node.store, address).await? {
        Some(_) => letters::known(address, url, remote_address),
        None => {
            let wanted = Wanted {
                purpose: Purpose::SignUp,
                email: address,
                account_id: None,
                valid_ms: SIGN_UP_VALID_MS,
                event: None,
            };
            let token = new_token(&node.store, &wanted, now).await?;
            letters::sign_up(address, url, &token, remote_address)
        }
    };
    node.mail.post(letter, now);
    Ok(())
}

/// Invites somebody. An earlier invitation of the same address is worth nothing from then on.
///
/// # Errors
/// 422 when nobody may have an account, or this address has one already.
pub async fn invite(node: &Node, address: &str, actor: &Actor) -> Result<Invited, ApiError> {
    if node.config.people.sign_up == SignUp::Closed {
        return Err(ApiError::invalid_params(
            "Sign-up is closed: start the node with --sign-up invitation (or open) to invite people.",
        ));
    }
    let address = email(address)?;
    if accounts::find_by_email(&node.store, &address).await?.is_some() {
        return Err(ApiError::invalid_params(format!("{address} has an account already.")));
    }
    let now = now_ms();
    let wanted = Wanted {
        purpose: Purpose::Invitation,
        email: &address,
        account_id: None,
        valid_ms: INVITATION_VALID_MS,
        event: Some((actor, "invitation.create")),
    };
    let token = new_token(&node.store, &wanted, now).await?;
    let letter = letters::invitation(&address, &node.config.people.public_url, &token, &actor.email);
    let file = node.mail.post(letter, now);
    Ok(Invited { email: address, expires_at: now + INVITATION_VALID_MS, file })
}

/// The address that a link is for, when it may still become an account.
///
/// # Errors
/// 404.
pub async fn address_of(node: &Node, token: &SecretString) -> Result<String, ApiError> {
    let found = mailed_tokens::find(&node.store, &auth::token_hash(token), now_ms()).await?;
    Ok(found.filter(|found| is_welcome(node, found)).ok_or_else(dead_link)?.email)
}

/// Makes the account that a link is for.
///
/// # Errors
/// 404 when the link is worth nothing; 422.
pub async fn accept(
    node: &Node,
    token: &SecretString,
    full_name: &str,
    password: SecretString,
    context: &RequestContext,
) -> Result<Account, ApiError> {
    let address = address_of(node, token).await?;
    let full_name = name(full_name)?;
    check_password(&password, &address)?;
    let password_hash = hashed(password).await?;
    let token_hash = auth::token_hash(token);
    let id = AccountId(Uuid::new_v4());
    let actor = Actor {
        account_id: id,
        email: address.clone(),
        remote_address: context.remote_address.clone(),
        request_id: Some(context.request_id.to_string()),
    };
    let new = NewAccount {
        id,
        email: &address,
        name: Some(full_name.as_str()).filter(|name| !name.is_empty()),
        password_hash: &password_hash,
        role: Role::Member,
    };
    let (store, now) = (&node.store, now_ms());
    let made = write!(store, tx => {
        mailed_tokens::take(&mut tx, &token_hash, now).await?;
        let account = accounts::create(&mut tx, &new, now).await?;
        let event = NewEvent { app_id: None, actor: &actor, kind: "account.create", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(account)
    });
    match made {
        Err(StoreError::NotFound { .. }) => Err(dead_link()),
        made => Ok(made?),
    }
}

/// The admin may have closed the node since the letter was sent.
fn is_welcome(node: &Node, token: &MailedToken) -> bool {
    match token.purpose {
        Purpose::SignUp => node.config.people.sign_up == SignUp::Open,
        Purpose::Invitation => node.config.people.sign_up != SignUp::Closed,
        Purpose::PasswordReset | Purpose::EmailChange => false,
    }
}
