//! Automatic certificate management: an app's switch, and the jobs that order certificates.
//!
//! A domain whose time has come ([`enqueue_due`]) gets one job, and no other while that is open: its `acm_due_at` is
//! then [`WHILE_JOB`]. The job is taken ([`take`]) and ends with the certificate or by giving up ([`conclude`]), and each
//! sets when the domain is due again.

use crate::domains::AcmState;
use crate::events::announce;
use crate::jobs::Job;
use crate::row::{Columns, failed};
use crate::sni_endpoints::Material;
use crate::{Connection, Result, Store, StoreError, apps, domains, jobs, sni_endpoints, write};
use ferroku_core::acm::{DueOrder, ORDERS_WINDOW_MS, choose, when_asked_for};
use ferroku_core::app::App;
use ferroku_core::domain::{AcmStatus, Domain};
use ferroku_core::event::Actor;
use ferroku_core::sni_endpoint::SniEndpoint;
use ferroku_core::{AppId, DomainId, Millis};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use std::collections::HashMap;
use uuid::Uuid;

/// Kind of the job that gets one domain's certificate.
pub const ORDER_JOB: &str = "acm.order";
/// Why a wildcard gets none.
pub const WILDCARD_REASON: &str =
    "A wildcard cannot be proven over HTTP. Add a certificate for it with certs:add";

/// The step of a job whose order the authority has taken.
const ORDERED: &str = "ordered";
/// Jobs of an app that are looked at to find whose turn it is: more than are ever worked on at once.
const LOOKED_AT_OF_APP: i64 = 20;

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
        jobs::cancel(&mut tx, ORDER_JOB, app_id).await?;
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
        jobs::cancel(&mut tx, ORDER_JOB, app_id).await?;
        sni_endpoints::delete_unused_acm(&mut tx, app_id).await?;
        announce(&mut tx, app_id, "acm.destroy", "Disable Automatic Certificate Management", actor, now).await?;
        Ok(replaced)
    })
}

/// Tries what failed or waits as soon as the authority's limits allow, which is at once at first.
///
/// # Errors
/// The database failed.
pub async fn refresh(store: &Store, app_id: AppId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        for job in jobs::of_app(&mut tx, ORDER_JOB, app_id).await? {
            jobs::hasten(&mut tx, job.id, when_asked_for(job.attempts, job.updated_at, now)).await?;
        }
        for domain in domains::list_in(&mut tx, app_id).await? {
            let has_job = domain.acm_due_at == Some(WHILE_JOB);
            if domain.acm_status == Some(AcmStatus::Failed) && !has_job && !domain.is_wildcard() {
                let due_at = Some(when_asked_for(Millis::MAX, domain.updated_at, now));
                domains::set_acm(&mut tx, domain.id, &AcmState { due_at, ..AcmState::default() }, now).await?;
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

/// Leases the jobs whose turn it is, at most `free`. `running`: the jobs that this process works on, and their apps.
///
/// # Errors
/// The database failed.
pub async fn take(
    store: &Store,
    running: &HashMap<Uuid, AppId>,
    free: usize,
    lease_until: Millis,
    now: Millis,
) -> Result<Vec<Job>> {
    let due = jobs::due(store, ORDER_JOB, LOOKED_AT_OF_APP, now).await?;
    let due = due.into_iter().filter(|job| !running.contains_key(&job.id)).filter_map(|job| {
        Some(DueOrder { job_id: job.id, app_id: job.app_id?, is_begun: job.step == ORDERED })
    });
    let due: Vec<DueOrder> = due.collect();
    if due.is_empty() || free == 0 {
        return Ok(Vec::new());
    }
    let mut running_of_app: HashMap<AppId, usize> = HashMap::new();
    for app_id in running.values() {
        *running_of_app.entry(*app_id).or_default() += 1;
    }
    write!(store, tx => {
        let mut recent = recent_orders(&mut tx, now).await?;
        for (app_id, running) in &running_of_app {
            // They may be about to order.
            *recent.entry(*app_id).or_default() += running;
        }
        let mut taken = Vec::new();
        for id in choose(&due, &recent, &running_of_app, free) {
            taken.extend(jobs::lease(&mut tx, id, lease_until, now).await?);
        }
        Ok(taken)
    })
}

/// Notes that the authority has taken a job's order, which counts from then on, whatever becomes of it.
///
/// # Errors
/// The database failed.
pub async fn ordered(
    store: &Store,
    (job_id, app_id): (Uuid, AppId),
    payload: &OrderJob,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        jobs::advance(&mut tx, job_id, ORDERED, &payload.to_json(), now).await?;
        note_order(&mut tx, app_id, now).await
    })
}

/// Notes that a job has begun with a domain; false when its certificate is not wanted any more.
///
/// # Errors
/// The database failed.
pub async fn begun(store: &Store, job_id: Uuid, domain: &Domain, now: Millis) -> Result<bool> {
    write!(store, tx => {
        if !is_wanted(&mut tx, job_id, domain.id, now).await? {
            return Ok(false);
        }
        // One that has a certificate keeps saying so while it is renewed.
        if domain.acm_status != Some(AcmStatus::Issued) {
            let state = AcmState {
                status: Some(AcmStatus::InProgress),
                reason: domain.acm_status_reason.as_deref(),
                due_at: Some(WHILE_JOB),
            };
            domains::set_acm(&mut tx, domain.id, &state, now).await?;
        }
        Ok(true)
    })
}

/// How an attempt went.
pub enum Outcome<'a> {
    /// The certificate is there, to be kept under `name` when it is the domain's first, and renewed at `due_at`.
    Issued { name: &'a str, material: &'a Material<'a>, due_at: Millis },
    /// The job begins anew at `at`.
    Failing { reason: &'a str, at: Millis },
    /// That was the last attempt; the domain gets another job at `at`.
    GivenUp { reason: &'a str, at: Millis },
}

/// Writes how an attempt went, and what follows for the domain and the job, in one transaction; nothing, when the
/// certificate is not wanted any more.
///
/// # Errors
/// [`crate::StoreError::Taken`] when the certificate's name is; draw another.
pub async fn conclude(
    store: &Store,
    job_id: Uuid,
    domain: &Domain,
    outcome: &Outcome<'_>,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        if !is_wanted(&mut tx, job_id, domain.id, now).await? {
            return Ok(());
        }
        let state = match *outcome {
            Outcome::Issued { name, material, due_at } => {
                let ids = (domain.app_id, domain.id);
                sni_endpoints::put_acm(&mut tx, store.key(), ids, name, material, now).await?;
                AcmState { status: Some(AcmStatus::Issued), reason: None, due_at: Some(due_at) }
            }
            Outcome::Failing { reason, .. } => {
                AcmState { status: Some(AcmStatus::Failing), reason: Some(reason), due_at: Some(WHILE_JOB) }
            }
            Outcome::GivenUp { reason, at } => {
                AcmState { status: Some(AcmStatus::Failed), reason: Some(reason), due_at: Some(at) }
            }
        };
        domains::set_acm(&mut tx, domain.id, &state, now).await?;
        match *outcome {
            Outcome::Failing { at, .. } => {
                jobs::postpone(&mut tx, job_id, &OrderJob::new(domain.id).to_json(), at, now).await
            }
            Outcome::Issued { .. } | Outcome::GivenUp { .. } => jobs::finish_in(&mut tx, job_id).await,
        }
    })
}

/// Whether the certificate is still wanted: the job may have been cancelled, its domain removed, or given a certificate
/// of its owner's while the recipe went on. A job that nobody wants is removed; its domain is due anew once that
/// changes.
async fn is_wanted(tx: &mut Connection, job_id: Uuid, domain_id: DomainId, now: Millis) -> Result<bool> {
    // Who cancelled it has said what becomes of the domain, which may have another job by now.
    if !jobs::is_open(tx, job_id).await? {
        return Ok(false);
    }
    let row = sqlx::query(
        "SELECT d.id FROM domain d JOIN app a ON a.id = d.app_id AND a.acm = 1 \
         LEFT JOIN sni_endpoint e ON e.id = d.sni_endpoint_id AND e.acm = 0 WHERE d.id = $1 AND e.id IS NULL",
    )
    .bind(domain_id.to_string())
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed("look whether a certificate is still wanted"))?;
    if row.is_none() {
        jobs::finish_in(tx, job_id).await?;
        domains::set_acm(tx, domain_id, &AcmState::default(), now).await?;
    }
    Ok(row.is_some())
}

/// Orders of each app within the time that counts.
async fn recent_orders(tx: &mut Connection, now: Millis) -> Result<HashMap<AppId, usize>> {
    let rows =
        sqlx::query("SELECT app_id, COUNT(*) AS orders FROM acme_order WHERE begun_at > $1 GROUP BY app_id")
            .bind(now - ORDERS_WINDOW_MS)
            .fetch_all(&mut *tx)
            .await
            .map_err(failed("count orders of certificates"))?;
    let count = |row: &AnyRow| {
        let orders = usize::try_from(row.integer("orders")?).unwrap_or(usize::MAX);
        Ok((row.parsed("app_id")?, orders))
    };
    rows.iter().map(count).collect()
}

async fn note_order(tx: &mut Connection, app_id: AppId, now: Millis) -> Result<()> {
    sqlx::query("DELETE FROM acme_order WHERE begun_at <= $1")
        .bind(now - ORDERS_WINDOW_MS)
        .execute(&mut *tx)
        .await
        .map_err(failed("forget old orders of certificates"))?;
    sqlx::query("INSERT INTO acme_order (app_id, begun_at) VALUES ($1, $2)")
        .bind(app_id.to_string())
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(failed("note an order of a certificate"))?;
    Ok(())
}

/// What is said of a domain before its first attempt.
pub(crate) fn first_state(domain: &Domain) -> AcmState<'static> {
    match domain.is_wildcard() {
        true => AcmState { status: Some(AcmStatus::Failed), reason: Some(WILDCARD_REASON), due_at: None },
        false => AcmState::default(),
    }
}
