//! Custom domains.
//!
//! A host name belongs to one app of the node. Which names a wildcard may shadow, or lie below one, is decided here in
//! the transaction that adds them, because it depends on the other apps' rows.

use crate::events::announce;
use crate::row::{Columns, failed, failed_or_taken, word};
use crate::{Connection, Result, Store, StoreError, acm, sni_endpoints, write};
use ferroku_core::app::App;
use ferroku_core::domain::{AcmStatus, Domain, DomainStatus, MAX_DOMAINS_PER_APP, wildcard_of};
use ferroku_core::event::Actor;
use ferroku_core::{AppId, DomainId, Millis, SniEndpointId};
use sqlx::Executor;
use sqlx::any::AnyRow;

/// A domain to be added.
#[derive(Debug)]
pub struct NewDomain<'a> {
    pub id: DomainId,
    /// Normalized.
    pub hostname: &'a str,
    pub cname: &'a str,
    pub sni_endpoint_id: Option<SniEndpointId>,
}

/// What is to be noted of a domain's automatic certificate; by default nothing, which makes it due when management
/// is on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcmState<'a> {
    pub status: Option<AcmStatus>,
    pub reason: Option<&'a str>,
    pub due_at: Option<Millis>,
}

/// Adds a domain to an app.
///
/// # Errors
/// [`StoreError::Refused`], in Heroku's words, when another app has it, or has a name that it would shadow.
pub async fn create(
    store: &Store,
    app: &App,
    new: &NewDomain<'_>,
    actor: &Actor,
    now: Millis,
) -> Result<Domain> {
    write!(store, tx => {
        refuse_taken(&mut tx, app, new.hostname).await?;
        sqlx::query(
            "INSERT INTO domain (id, app_id, hostname, cname, status, sni_endpoint_id, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        )
        .bind(new.id.to_string())
        .bind(app.id.to_string())
        .bind(new.hostname)
        .bind(new.cname)
        .bind(word(&DomainStatus::Pending))
        .bind(new.sni_endpoint_id.map(|id| id.to_string()))
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(failed_or_taken("add a domain", "domain"))?;
        let message = format!("Add domain {}", new.hostname);
        announce(&mut tx, app.id, "domain.create", &message, actor, now).await?;
        let domain = find_in(&mut tx, new.id).await?.ok_or(StoreError::NotFound { what: "domain" })?;
        if app.acm && domain.is_wildcard() {
            set_acm(&mut tx, domain.id, &acm::first_state(&domain), now).await?;
            return find_in(&mut tx, new.id).await?.ok_or(StoreError::NotFound { what: "domain" });
        }
        Ok(domain)
    })
}

/// Removes a domain, and a certificate that the node got for it alone.
///
/// # Errors
/// [`StoreError::NotFound`] when it is gone already.
pub async fn delete(store: &Store, domain: &Domain, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        let deleted = sqlx::query("DELETE FROM domain WHERE id = $1")
            .bind(domain.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("remove a domain"))?;
        if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "domain" });
        }
        sni_endpoints::delete_unused_acm(&mut tx, domain.app_id).await?;
        let message = format!("Remove domain {}", domain.hostname);
        announce(&mut tx, domain.app_id, "domain.destroy", &message, actor, now).await
    })
}

/// The app's domain with this id or (normalized) host name.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, app_id: AppId, id_or_hostname: &str) -> Result<Option<Domain>> {
    let row = sqlx::query("SELECT * FROM domain WHERE app_id = $1 AND (id = $2 OR hostname = $2)")
        .bind(app_id.to_string())
        .bind(id_or_hostname)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a domain"))?;
    row.as_ref().map(domain).transpose()
}

/// The domain with this id.
///
/// # Errors
/// The database failed.
pub async fn by_id(store: &Store, id: DomainId) -> Result<Option<Domain>> {
    let row = sqlx::query("SELECT * FROM domain WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a domain"))?;
    row.as_ref().map(domain).transpose()
}

/// The app's domains, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<Domain>> {
    select(store.reader(), app_id).await
}

/// The same inside a transaction.
///
/// # Errors
/// The database failed.
pub async fn list_in(tx: &mut Connection, app_id: AppId) -> Result<Vec<Domain>> {
    select(tx, app_id).await
}

async fn select<'c>(executor: impl Executor<'c, Database = sqlx::Any>, app_id: AppId) -> Result<Vec<Domain>> {
    let rows = sqlx::query("SELECT * FROM domain WHERE app_id = $1 ORDER BY created_at, id")
        .bind(app_id.to_string())
        .fetch_all(executor)
        .await
        .map_err(failed("list domains"))?;
    rows.iter().map(domain).collect()
}

/// Lets a domain use a certificate, or none; removes a certificate that the node got and that nobody uses any more.
///
/// # Errors
/// [`StoreError::NotFound`] when the domain is gone.
pub async fn set_endpoint(
    store: &Store,
    found: &Domain,
    endpoint: Option<SniEndpointId>,
    actor: &Actor,
    now: Millis,
) -> Result<Domain> {
    write!(store, tx => {
        set_endpoint_in(&mut tx, found.id, endpoint, now).await?;
        sni_endpoints::delete_unused_acm(&mut tx, found.app_id).await?;
        let message = format!("Update domain {}", found.hostname);
        announce(&mut tx, found.app_id, "domain.update", &message, actor, now).await?;
        find_in(&mut tx, found.id).await?.ok_or(StoreError::NotFound { what: "domain" })
    })
}

/// Ids of the domains that use a certificate.
pub(crate) async fn list_of_endpoint(tx: &mut Connection, id: SniEndpointId) -> Result<Vec<DomainId>> {
    let rows = sqlx::query("SELECT id FROM domain WHERE sni_endpoint_id = $1 ORDER BY id")
        .bind(id.to_string())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("list a certificate's domains"))?;
    rows.iter().map(|row| row.parsed("id")).collect()
}

/// As [`set_endpoint`], without its event. One that loses its certificate is due for another, where they come
/// automatically, unless one is being ordered.
pub(crate) async fn set_endpoint_in(
    tx: &mut Connection,
    id: DomainId,
    endpoint: Option<SniEndpointId>,
    now: Millis,
) -> Result<()> {
    sqlx::query("UPDATE domain SET sni_endpoint_id = $1, updated_at = $2 WHERE id = $3")
        .bind(endpoint.map(|id| id.to_string()))
        .bind(now)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("set a domain's certificate"))?;
    if endpoint.is_none() {
        sqlx::query(
            "UPDATE domain SET acm_status = NULL, acm_due_at = NULL WHERE id = $1 AND acm_due_at <> $2",
        )
        .bind(id.to_string())
        .bind(acm::WHILE_JOB)
        .execute(&mut *tx)
        .await
        .map_err(failed("let a domain be due for a certificate"))?;
    }
    Ok(())
}

/// Notes that the router serves these domains.
///
/// # Errors
/// The database failed.
pub async fn served(store: &Store, ids: &[DomainId], now: Millis) -> Result<()> {
    write!(store, tx => {
        for id in ids {
            sqlx::query("UPDATE domain SET status = $1, updated_at = $2 WHERE id = $3")
                .bind(word(&DomainStatus::Succeeded))
                .bind(now)
                .bind(id.to_string())
                .execute(&mut *tx)
                .await
                .map_err(failed("note that a domain is served"))?;
        }
        Ok(())
    })
}

/// Notes how far a domain's automatic certificate is.
///
/// # Errors
/// The database failed.
pub async fn set_acm(tx: &mut Connection, id: DomainId, state: &AcmState<'_>, now: Millis) -> Result<()> {
    sqlx::query(
        "UPDATE domain SET acm_status = $1, acm_status_reason = $2, acm_due_at = $3, updated_at = $4 WHERE id = $5",
    )
    .bind(state.status.as_ref().map(word))
    .bind(state.reason)
    .bind(state.due_at)
    .bind(now)
    .bind(id.to_string())
    .execute(&mut *tx)
    .await
    .map_err(failed("note how far a domain's certificate is"))?;
    Ok(())
}

/// The domains that need a certificate now: of apps with automatic management, with no certificate of their owner's,
/// no wildcards (which HTTP cannot prove), and due. Oldest first, at most `limit`.
///
/// # Errors
/// The database failed.
pub async fn due_for_certificate(store: &Store, now: Millis, limit: i64) -> Result<Vec<Domain>> {
    let rows = sqlx::query(
        "SELECT d.* FROM domain d JOIN app a ON a.id = d.app_id \
         LEFT JOIN sni_endpoint e ON e.id = d.sni_endpoint_id \
         WHERE a.acm = 1 AND d.hostname NOT LIKE '*.%' AND (e.id IS NULL OR e.acm = 1) \
         AND (d.acm_due_at IS NULL OR d.acm_due_at <= $1) ORDER BY d.created_at, d.id LIMIT $2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all(store.reader())
    .await
    .map_err(failed("list domains that need a certificate"))?;
    rows.iter().map(domain).collect()
}

async fn find_in(tx: &mut Connection, id: DomainId) -> Result<Option<Domain>> {
    let row = sqlx::query("SELECT * FROM domain WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("find a domain"))?;
    row.as_ref().map(domain).transpose()
}

/// A name may lie below a wildcard, or a wildcard above names, only within one owner's apps: otherwise one could
/// catch another's visitors.
async fn refuse_taken(tx: &mut Connection, app: &App, hostname: &str) -> Result<()> {
    if list_in(tx, app.id).await?.len() >= MAX_DOMAINS_PER_APP {
        return Err(StoreError::Refused(format!(
            "An app can have {MAX_DOMAINS_PER_APP} domains; {} has as many.",
            app.name
        )));
    }
    let below = hostname.strip_prefix('*').map(|rest| format!("%{rest}"));
    let rows = sqlx::query(
        "SELECT d.hostname, d.app_id, a.owner_id FROM domain d JOIN app a ON a.id = d.app_id \
         WHERE d.hostname = $1 OR d.hostname = $2 OR d.hostname LIKE $3",
    )
    .bind(hostname)
    .bind(wildcard_of(hostname).unwrap_or_default())
    .bind(below.unwrap_or_default())
    .fetch_all(&mut *tx)
    .await
    .map_err(failed("look for a domain's owner"))?;
    for row in &rows {
        let other = row.text("hostname")?;
        let own = row.text("app_id")? == app.id.to_string();
        if other == hostname && own {
            return Err(StoreError::Refused("Domain already added to this app.".to_owned()));
        }
        if other == hostname {
            return Err(StoreError::Refused(format!("{hostname} is currently in use by another app.")));
        }
        // Deeper names than one label below are not the wildcard's. Whose name it is, is not told.
        let related = wildcard_of(&other).as_deref() == Some(hostname)
            || wildcard_of(hostname).is_some_and(|wildcard| wildcard == other);
        if related && row.text("owner_id")? != app.owner_id.to_string() {
            return Err(StoreError::Refused(format!(
                "{hostname} is currently in use by another app, by a wildcard or a name under it."
            )));
        }
    }
    Ok(())
}

fn domain(row: &AnyRow) -> Result<Domain> {
    let acm_status = match row.optional_text("acm_status")? {
        Some(_) => Some(row.word("acm_status")?),
        None => None,
    };
    Ok(Domain {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        hostname: row.text("hostname")?,
        cname: row.text("cname")?,
        status: row.word("status")?,
        sni_endpoint_id: row.optional_parsed("sni_endpoint_id")?,
        acm_status,
        acm_status_reason: row.optional_text("acm_status_reason")?,
        acm_due_at: row.optional_integer("acm_due_at")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
