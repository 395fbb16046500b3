//! SNI endpoints: certificates, and their private keys sealed.
//!
//! AAD of a key: `sni_endpoint/<id>/<version>`, so that an older key does not open beside a newer certificate.
//! Invariant: certificate and key of a row change together, and the version with them.

use crate::events::announce;
use crate::row::{Columns, failed, failed_or_taken, json};
use crate::{Connection, MasterKey, Result, Store, StoreError, domains, write};
use ferroku_core::event::Actor;
use ferroku_core::sni_endpoint::{Certificate, MAX_SNI_ENDPOINTS_PER_APP, SniEndpoint};
use ferroku_core::{AppId, DomainId, Millis, SniEndpointId};
use sqlx::Executor;
use sqlx::any::AnyRow;
use zeroize::Zeroizing;

/// A certificate that was checked, with its key.
pub struct Material<'a> {
    /// PEM, the leaf first.
    pub certificate_chain: &'a str,
    pub certificate: &'a Certificate,
    /// PEM.
    pub private_key: &'a str,
}

/// Adds an endpoint and binds it to those of the app's domains that it covers and that have none.
///
/// # Errors
/// [`StoreError::Taken`] when the name is; draw another.
pub async fn create(
    store: &Store,
    app_id: AppId,
    name: &str,
    material: &Material<'_>,
    actor: &Actor,
    now: Millis,
) -> Result<SniEndpoint> {
    let id = SniEndpointId(uuid::Uuid::new_v4());
    write!(store, tx => {
        if list_in(&mut tx, app_id).await?.len() >= MAX_SNI_ENDPOINTS_PER_APP {
            return Err(StoreError::Refused(format!(
                "An app can have {MAX_SNI_ENDPOINTS_PER_APP} certificates. Remove one with `heroku certs:remove`."
            )));
        }
        let endpoint = insert(&mut tx, store.key(), (id, app_id, name), false, material, now).await?;
        bind_matching(&mut tx, &endpoint, now).await?;
        let message = format!("Add certificate {name}");
        announce(&mut tx, app_id, "sni_endpoint.create", &message, actor, now).await?;
        Ok(endpoint)
    })
}

/// Puts another certificate in the place of a user's. Domains that it covers and that have none use it, too.
///
/// # Errors
/// [`StoreError::Refused`] when a domain that uses the endpoint is not covered by the new certificate.
pub async fn update(
    store: &Store,
    endpoint: &SniEndpoint,
    material: &Material<'_>,
    actor: &Actor,
    now: Millis,
) -> Result<SniEndpoint> {
    write!(store, tx => {
        let all = domains::list_in(&mut tx, endpoint.app_id).await?;
        let uncovered = all.iter().find(|domain| {
            domain.sni_endpoint_id == Some(endpoint.id) && !material.certificate.covers(&domain.hostname)
        });
        if let Some(domain) = uncovered {
            return Err(StoreError::Refused(format!(
                "The certificate is not for {}, which uses {}. Add it as another with `heroku certs:add`, or give \
                 the domain another one first with `heroku domains:update`.",
                domain.hostname, endpoint.name
            )));
        }
        let updated = replace(&mut tx, store.key(), endpoint.id, false, material, now).await?;
        bind_matching(&mut tx, &updated, now).await?;
        let message = format!("Update certificate {}", endpoint.name);
        announce(&mut tx, endpoint.app_id, "sni_endpoint.update", &message, actor, now).await?;
        Ok(updated)
    })
}

/// Writes a certificate that the node got for a domain, in place of the one it got before.
///
/// # Errors
/// [`StoreError::Taken`] when the name is; draw another.
pub async fn put_acm(
    tx: &mut Connection,
    key: &MasterKey,
    (app_id, domain_id): (AppId, DomainId),
    name: &str,
    material: &Material<'_>,
    now: Millis,
) -> Result<SniEndpoint> {
    let row = sqlx::query(
        "SELECT e.* FROM sni_endpoint e JOIN domain d ON d.sni_endpoint_id = e.id WHERE d.id = $1 AND e.acm = 1",
    )
    .bind(domain_id.to_string())
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed("find a domain's certificate"))?;
    if let Some(row) = row {
        let id = row.parsed("id")?;
        return replace(tx, key, id, true, material, now).await;
    }
    let id = SniEndpointId(uuid::Uuid::new_v4());
    let endpoint = insert(tx, key, (id, app_id, name), true, material, now).await?;
    domains::set_endpoint_in(tx, domain_id, Some(id), now).await?;
    Ok(endpoint)
}

/// Removes an endpoint; domains that used it have none then.
///
/// # Errors
/// [`StoreError::NotFound`] when it is gone already.
pub async fn delete(store: &Store, endpoint: &SniEndpoint, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        unbind(&mut tx, endpoint.id, now).await?;
        let deleted = sqlx::query("DELETE FROM sni_endpoint WHERE id = $1")
            .bind(endpoint.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("remove a certificate"))?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "sni endpoint" });
        }
        let message = format!("Remove certificate {}", endpoint.name);
        announce(&mut tx, endpoint.app_id, "sni_endpoint.destroy", &message, actor, now).await
    })
}

/// Removes every certificate that the node got for the app.
///
/// # Errors
/// The database failed.
pub async fn delete_acm(tx: &mut Connection, app_id: AppId, now: Millis) -> Result<()> {
    for endpoint in list_in(tx, app_id).await?.iter().filter(|endpoint| endpoint.acm) {
        unbind(tx, endpoint.id, now).await?;
    }
    delete_unused_acm(tx, app_id).await
}

/// Removes the certificates that the node got for domains that do not use them any more.
pub(crate) async fn delete_unused_acm(tx: &mut Connection, app_id: AppId) -> Result<()> {
    sqlx::query(
        "DELETE FROM sni_endpoint WHERE app_id = $1 AND acm = 1 AND id NOT IN \
         (SELECT sni_endpoint_id FROM domain WHERE app_id = $1 AND sni_endpoint_id IS NOT NULL)",
    )
    .bind(app_id.to_string())
    .execute(&mut *tx)
    .await
    .map_err(failed("remove certificates without domains"))?;
    Ok(())
}

/// The app's endpoint with this id or name.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, app_id: AppId, id_or_name: &str) -> Result<Option<SniEndpoint>> {
    let row = sqlx::query("SELECT * FROM sni_endpoint WHERE app_id = $1 AND (id = $2 OR name = $2)")
        .bind(app_id.to_string())
        .bind(id_or_name)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a certificate"))?;
    row.as_ref().map(endpoint).transpose()
}

/// The app's endpoints, by name.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<SniEndpoint>> {
    select(store.reader(), app_id).await
}

/// The same inside a transaction.
///
/// # Errors
/// The database failed.
pub(crate) async fn list_in(tx: &mut Connection, app_id: AppId) -> Result<Vec<SniEndpoint>> {
    select(tx, app_id).await
}

async fn select<'c>(
    executor: impl Executor<'c, Database = sqlx::Any>,
    app_id: AppId,
) -> Result<Vec<SniEndpoint>> {
    let rows = sqlx::query("SELECT * FROM sni_endpoint WHERE app_id = $1 ORDER BY name")
        .bind(app_id.to_string())
        .fetch_all(executor)
        .await
        .map_err(failed("list certificates"))?;
    rows.iter().map(endpoint).collect()
}

/// Every endpoint of the node.
///
/// # Errors
/// The database failed.
pub async fn list_all(store: &Store) -> Result<Vec<SniEndpoint>> {
    let rows = sqlx::query("SELECT * FROM sni_endpoint ORDER BY name")
        .fetch_all(store.reader())
        .await
        .map_err(failed("list certificates"))?;
    rows.iter().map(endpoint).collect()
}

/// The endpoint's private key as PEM; None when it has another certificate by now, or is gone.
///
/// # Errors
/// It does not open: another master key sealed it.
pub async fn private_key(store: &Store, endpoint: &SniEndpoint) -> Result<Option<Zeroizing<String>>> {
    let row = sqlx::query("SELECT sealed_private_key FROM sni_endpoint WHERE id = $1 AND version = $2")
        .bind(endpoint.id.to_string())
        .bind(endpoint.version)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("read a private key"))?;
    let Some(row) = row else { return Ok(None) };
    let additional_data = additional_data(endpoint.id, endpoint.version);
    let plain = store.key().unseal(&additional_data, &row.text("sealed_private_key")?)?;
    let text = std::str::from_utf8(&plain).map_err(|_| StoreError::Corrupt {
        what: "private key",
        // The bytes are secret.
        detail: "it is not text".to_owned(),
    })?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// Ids of those that the node got.
pub(crate) async fn managed_in(tx: &mut Connection, app_id: AppId) -> Result<Vec<SniEndpointId>> {
    let all = list_in(tx, app_id).await?;
    Ok(all.iter().filter(|endpoint| endpoint.acm).map(|endpoint| endpoint.id).collect())
}

async fn insert(
    tx: &mut Connection,
    key: &MasterKey,
    (id, app_id, name): (SniEndpointId, AppId, &str),
    acm: bool,
    material: &Material<'_>,
    now: Millis,
) -> Result<SniEndpoint> {
    let row = sqlx::query(
        "INSERT INTO sni_endpoint (id, app_id, name, acm, certificate_chain, certificate, version, key_id, \
         sealed_private_key, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, 1, $7, $8, $9, $9) RETURNING *",
    )
    .bind(id.to_string())
    .bind(app_id.to_string())
    .bind(name)
    .bind(i64::from(acm))
    .bind(material.certificate_chain)
    .bind(json(material.certificate))
    .bind(key.id())
    .bind(key.seal(&additional_data(id, 1), material.private_key.as_bytes()))
    .bind(now)
    .fetch_one(&mut *tx)
    .await
    .map_err(failed_or_taken("add a certificate", "certificate name"))?;
    endpoint(&row)
}

pub(crate) async fn replace(
    tx: &mut Connection,
    key: &MasterKey,
    id: SniEndpointId,
    acm: bool,
    material: &Material<'_>,
    now: Millis,
) -> Result<SniEndpoint> {
    let row = sqlx::query("SELECT version FROM sni_endpoint WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("find a certificate"))?
        .ok_or(StoreError::NotFound { what: "sni endpoint" })?;
    let version = row.integer("version")? + 1;
    let row = sqlx::query(
        "UPDATE sni_endpoint SET acm = $1, certificate_chain = $2, certificate = $3, version = $4, key_id = $5, \
         sealed_private_key = $6, updated_at = $7 WHERE id = $8 RETURNING *",
    )
    .bind(i64::from(acm))
    .bind(material.certificate_chain)
    .bind(json(material.certificate))
    .bind(version)
    .bind(key.id())
    .bind(key.seal(&additional_data(id, version), material.private_key.as_bytes()))
    .bind(now)
    .bind(id.to_string())
    .fetch_one(&mut *tx)
    .await
    .map_err(failed("update a certificate"))?;
    endpoint(&row)
}

pub(crate) async fn bind_matching(tx: &mut Connection, endpoint: &SniEndpoint, now: Millis) -> Result<()> {
    for domain in domains::list_in(tx, endpoint.app_id).await? {
        if domain.sni_endpoint_id.is_none() && endpoint.certificate.covers(&domain.hostname) {
            domains::set_endpoint_in(tx, domain.id, Some(endpoint.id), now).await?;
        }
    }
    Ok(())
}

async fn unbind(tx: &mut Connection, id: SniEndpointId, now: Millis) -> Result<()> {
    for domain in domains::list_of_endpoint(tx, id).await? {
        domains::set_endpoint_in(tx, domain, None, now).await?;
    }
    Ok(())
}

fn additional_data(id: SniEndpointId, version: i64) -> String {
    format!("sni_endpoint/{id}/{version}")
}

fn endpoint(row: &AnyRow) -> Result<SniEndpoint> {
    Ok(SniEndpoint {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        name: row.text("name")?,
        acm: row.flag("acm")?,
        certificate_chain: row.text("certificate_chain")?,
        certificate: row.json("certificate")?,
        version: row.integer("version")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
