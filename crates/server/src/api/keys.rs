//! `/account/keys`: SSH keys that people keep with their account.
//!
//! They are data: git takes pushes by HTTPS only, and `ps:exec` registers a key of its own for minutes.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{Browse, ChangeAccount};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::ssh::parse_client_key;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::key::{Create, Key};
use ferroku_core::SshKeyId;
use ferroku_core::ssh_key::SshKey;
use ferroku_store::ssh_keys::{self, NewSshKey};
use http::StatusCode;
use md5::{Digest, Md5};
use russh::keys::PublicKey;
use std::sync::Arc;
use uuid::Uuid;

/// Longest comment that is kept, in bytes.
const MAX_COMMENT_BYTES: usize = 200;

const SORT_FIELDS: [SortField<Key>; 1] = [("id", SortBy::Text(|key| key.id.to_string()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account/keys", get(list).post(create))
        .route("/account/keys/{key}", get(show).delete(destroy))
}

async fn list(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    range: ListRange,
) -> Result<Response, ApiError> {
    let keys = ssh_keys::list(&node.store, user.account.id).await?;
    let all = keys.iter().map(|key| Key::new(key, &user.account.email)).collect();
    Ok(range.answer(all, &SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Key>), ApiError> {
    let invalid = |why: String| ApiError::invalid_params(format!("Invalid value for public_key: {why}."));
    let mut key = parse_client_key(&create.public_key).map_err(invalid)?;
    let comment = String::from_utf8_lossy(key.comment().as_bytes()).into_owned();
    if comment.len() > MAX_COMMENT_BYTES || comment.chars().any(char::is_control) {
        let why = format!("its comment has more than {MAX_COMMENT_BYTES} bytes, or control characters");
        return Err(invalid(why));
    }
    key.set_comment(comment.clone());
    let unwritten = |error| ApiError::internal(anyhow::anyhow!("cannot write a key: {error}"));
    let public_key = key.to_openssh().map_err(unwritten)?;
    let new = NewSshKey {
        id: SshKeyId(Uuid::new_v4()),
        account_id: user.account.id,
        public_key: &public_key,
        fingerprint: &fingerprint(&key).map_err(unwritten)?,
        comment: &comment,
    };
    let key = ssh_keys::create(&node.store, &new, &user.actor, now_ms()).await?;
    Ok((StatusCode::CREATED, Json(Key::new(&key, &user.account.email))))
}

async fn show(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(name): Path<String>,
) -> Result<Json<Key>, ApiError> {
    let key = find(&node, user.account.id, &name).await?;
    Ok(Json(Key::new(&key, &user.account.email)))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(name): Path<String>,
) -> Result<Json<Key>, ApiError> {
    let key = find(&node, user.account.id, &name).await?;
    ssh_keys::delete(&node.store, key.id, &user.actor, now_ms()).await?;
    Ok(Json(Key::new(&key, &user.account.email)))
}

/// The account's key with this id or fingerprint.
async fn find(node: &Node, account_id: ferroku_core::AccountId, name: &str) -> Result<SshKey, ApiError> {
    let keys = ssh_keys::list(&node.store, account_id).await?;
    let meant = keys.into_iter().find(|key| key.id.to_string() == name || key.fingerprint == name);
    meant.ok_or_else(|| ApiError::not_found("key"))
}

/// MD5 of the key's bytes in hexadecimal pairs (RFC 4716, section 4), as Heroku shows it and `ssh-keygen -E md5` does.
fn fingerprint(key: &PublicKey) -> Result<String, russh::keys::ssh_key::Error> {
    let digest = Md5::digest(key.to_bytes()?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        // ssh-keygen -l -E md5
        let key = parse_client_key(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINwGYmehlh2cfy262+DgqQUEz/xFpawCXestHWKb0yDG a@b",
        );
        let key = key.expect("a key");
        assert_eq!(fingerprint(&key).expect("written"), "17:0f:53:df:31:4f:f0:f9:47:5d:8c:87:0f:fc:68:20");
    }
}
