//! Automatic certificate management: an app's switch, and the jobs that order certificates.
//!
//! A domain whose time has come ([`enqueue_due`]) gets one job, and no other while that is open: its `acm_due_at` is
//! then [`WHILE_JOB`]. The job ends with the certificate ([`issued`]), or by giving up ([`given_up`]), and each
//! sets when the domain is due again.

use crate::domains::AcmState;
use crate::events::announce;
use crate::row::failed;
use crate::sni_endpoints::Material;
use crate::{Connection, Result, Store, StoreError, apps, domains, jobs, sni_endpoints, write};
use ferroku_core::app::App;
use ferroku_core::domain::{AcmStatus, Domain};
use ferroku_core::event::Actor;
use ferroku_core::sni_endpoint::SniEndpoint;
use ferroku_core::{AppId, DomainId, Millis};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Kind of the job that gets one domain's certificate.
pub const ORDER_JOB: &str = "acm.order";
/// Why a wildcard gets none.
pub const WILDCARD_REASON: &str =
    "A wildcard cannot be proven over HTTP. Add a certificate for it with certs:add";

/// `acm_due_at` of a domain that has an open job: never.
pub(crate) const WHILE_JOB: Millis = Millis::MAX;

/// Payload of an [`ORDER_JOB`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderJob {
    pub domain_id: DomainId,
    /// Set once the authority has taken the order.
    #[serde(default)]
    pub order_url: Option<String>,
    /// The certificate's private key as PEM, sealed with the AAD `acm_order/<job id>/1`.
    #[serde(default)]
    pub sealed_key: Option<String>,
}

impl OrderJob {
    /// At its beginning.
    pub fn new(domain_id: DomainId) -> Self {
        Self { domain_id, order_url: None, sealed_key: None }
    }

    /// As a job's payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("ids and strings have a JSON form")
    }
}

/// Switches it on: every domain that has no certificate of its owner's gets one.
///
/// # Errors
/// The database failed.
pub async fn enable(store: &Store, app_id: AppId, actor: &Actor, now: Millis) -> Result<App> {
    write!(store, tx => {
        let app = apps::set_acm(&mut tx, app_id, true, now).await?;
        for domain in domains::list_in(&mut tx, app_id).await? {
            if domain.acm_status.is_none() && domain.acm_due_at != Some(WHILE_JOB) {
                domains::set_acm(&mut tx, domain.id, &first_state(&domain), now).await?;
            }
        }
        announce(&mut tx, app_id, "acm.create", "Enable Automatic Certificate Management", actor, now).await?;
        Ok(app)
    })
}

/// Switches it off and removes what it got.
///
/// # Errors
/// The database failed.
pub async fn disable(store: &Store, app_id: AppId, actor: &Actor, now: Millis) -> Result<App> {
    write!(store, tx => {
        let app = apps::set_acm(&mut tx, app_id, false, now).await?;
        jobs::cancel(&mut tx, ORDER_JOB, app_id, now).await?;
        sni_endpoints::delete_acm(&mut tx, app_id, now).await?;
        for domain in domains::list_in(&mut tx, app_id).await? {
            domains::set_acm(&mut tx, domain.id, &AcmState::default(), now).await?;
        }
        announce(&mut tx, app_id, "acm.destroy", "Disable Automatic Certificate Management", actor, now).await?;
        Ok(app)
    })
}

/// Switches it off and puts a certificate of the owner's in the place of all that it got.
///
/// # Errors
/// [`StoreError::Refused`] when a domain that uses what it got is not covered by the owner's.
pub async fn replace(
    store: &Store,
    endpoint: &SniEndpoint,
    material: &Material<'_>,
    actor: &Actor,
    now: Millis,
) -> Result<SniEndpoint> {
    let app_id = endpoint.app_id;
    write!(store, tx => {
        let managed = sni_endpoints::managed_in(&mut tx, app_id).await?;
        for domain in domains::list_in(&mut tx, app_id).await? {
            domains::set_acm(&mut tx, domain.id, &AcmState::default(), now).await?;
            if !domain.sni_endpoint_id.is_some_and(|id| managed.contains(&id)) {
                continue;
            }
            if !material.certificate.covers(&domain.hostname) {
                return Err(StoreError::Refused(format!(
                    "The certificate is not for {}, which has an automatic one. Add it beside that with \
                     `heroku certs:add`, or use one that is for all domains.",
                    domain.hostname
                )));
            }
            domains::set_endpoint_in(&mut tx, domain.id, Some(endpoint.id), now).await?;
        }
        let replaced = sni_endpoints::replace(&mut tx, store.key(), endpoint.id, false, material, now).await?;
        sni_endpoints::bind_matching(&mut tx, &replaced, now).await?;
        apps::set_acm(&mut tx, app_id, false, now).await?;
        jobs::cancel(&mut tx, ORDER_JOB, app_id, now).await?;
        sni_endpoints::delete_unused_acm(&mut tx, app_id).await?;
        announce(&mut tx, app_id, "acm.destroy", "Disable Automatic Certificate Management", actor, now).await?;
        Ok(replaced)
    })
}

/// Tries at once what failed or waits.
///
/// # Errors
/// The database failed.
pub async fn refresh(store: &Store, app_id: AppId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        jobs::hasten(&mut tx, ORDER_JOB, app_id, now).await?;
        for domain in domains::list_in(&mut tx, app_id).await? {
            if domain.acm_status == Some(AcmStatus::Failed) {
                domains::set_acm(&mut tx, domain.id, &first_state(&domain), now).await?;
            }
        }
        announce(&mut tx, app_id, "acm.update", "Refresh Automatic Certificate Management", actor, now).await
    })
}

/// Writes a job for each domain that is due; how many.
///
/// # Errors
/// The database failed.
pub async fn enqueue_due(store: &Store, limit: i64, now: Millis) -> Result<usize> {
    let due = domains::due_for_certificate(store, now, limit).await?;
    if due.is_empty() {
        return Ok(0);
    }
    write!(store, tx => {
        for domain in &due {
            // What it says of an earlier certificate stays until the next one is there.
            let state = AcmState {
                status: domain.acm_status,
                reason: domain.acm_status_reason.as_deref(),
                due_at: Some(WHILE_JOB),
            };
            domains::set_acm(&mut tx, domain.id, &state, now).await?;
            let payload = OrderJob::new(domain.id).to_json();
            jobs::create(&mut tx, ORDER_JOB, Some(domain.app_id), &payload, now).await?;
        }
        Ok(due.len())
    })
}

/// Notes that a job has begun with a domain.
///
/// # Errors
/// The database failed.
pub async fn begun(store: &Store, domain: &Domain, now: Millis) -> Result<()> {
    // One that has a certificate keeps saying so while it is renewed.
    if domain.acm_status == Some(AcmStatus::Issued) {
        return Ok(());
    }
    write!(store, tx => {
        let state = AcmState {
            status: Some(AcmStatus::InProgress),
            reason: domain.acm_status_reason.as_deref(),
            due_at: Some(WHILE_JOB),
        };
        domains::set_acm(&mut tx, domain.id, &state, now).await
    })
}

/// The certificate is there: writes it and finishes the job in one transaction. `due_at`: when it is to be renewed.
///
/// # Errors
/// [`crate::StoreError::Taken`] when the name is; draw another.
pub async fn issued(
    store: &Store,
    job_id: Uuid,
    domain: &Domain,
    name: &str,
    material: &Material<'_>,
    due_at: Millis,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        if !is_wanted(&mut tx, job_id, domain.id).await? {
            return jobs::finish_in(&mut tx, job_id, now).await;
        }
        let ids = (domain.app_id, domain.id);
        sni_endpoints::put_acm(&mut tx, store.key(), ids, name, material, now).await?;
        let state = AcmState { status: Some(AcmStatus::Issued), reason: None, due_at: Some(due_at) };
        domains::set_acm(&mut tx, domain.id, &state, now).await?;
        jobs::finish_in(&mut tx, job_id, now).await
    })
}

/// An attempt failed; the job begins anew at `at`.
///
/// # Errors
/// The database failed.
pub async fn failing(
    store: &Store,
    job_id: Uuid,
    domain: &Domain,
    reason: &str,
    at: Millis,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        if !is_wanted(&mut tx, job_id, domain.id).await? {
            return jobs::finish_in(&mut tx, job_id, now).await;
        }
        let state = AcmState { status: Some(AcmStatus::Failing), reason: Some(reason), due_at: Some(WHILE_JOB) };
        domains::set_acm(&mut tx, domain.id, &state, now).await?;
        jobs::postpone(&mut tx, job_id, &OrderJob::new(domain.id).to_json(), at, now).await
    })
}

/// The last attempt failed; the domain gets another job at `at`.
///
/// # Errors
/// The database failed.
pub async fn given_up(
    store: &Store,
    job_id: Uuid,
    domain: &Domain,
    reason: &str,
    at: Millis,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        if !is_wanted(&mut tx, job_id, domain.id).await? {
            return jobs::finish_in(&mut tx, job_id, now).await;
        }
        let state = AcmState { status: Some(AcmStatus::Failed), reason: Some(reason), due_at: Some(at) };
        domains::set_acm(&mut tx, domain.id, &state, now).await?;
        jobs::finish_in(&mut tx, job_id, now).await
    })
}

/// Whether the certificate is still wanted: the job may have been cancelled, its domain removed, or given a certificate
/// of its owner's while the recipe went on. One that is not wanted any more is due anew once that changes.
async fn is_wanted(tx: &mut Connection, job_id: Uuid, domain_id: DomainId) -> Result<bool> {
    let row = sqlx::query(
        "SELECT d.id FROM job j JOIN domain d ON d.id = $1 JOIN app a ON a.id = d.app_id AND a.acm = 1 \
         LEFT JOIN sni_endpoint e ON e.id = d.sni_endpoint_id AND e.acm = 0 \
         WHERE j.id = $2 AND j.finished_at IS NULL AND e.id IS NULL",
    )
    .bind(domain_id.to_string())
    .bind(job_id.to_string())
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed("look whether a certificate is still wanted"))?;
    if row.is_none() {
        sqlx::query("UPDATE domain SET acm_due_at = NULL WHERE id = $1 AND acm_due_at = $2")
            .bind(domain_id.to_string())
            .bind(WHILE_JOB)
            .execute(&mut *tx)
            .await
            .map_err(failed("let a domain be due for a certificate"))?;
    }
    Ok(row.is_some())
}

/// What is said of a domain before its first attempt.
pub(crate) fn first_state(domain: &Domain) -> AcmState<'static> {
    match domain.is_wildcard() {
        true => AcmState { status: Some(AcmStatus::Failed), reason: Some(WILDCARD_REASON), due_at: None },
        false => AcmState::default(),
    }
}
