//! Automatic certificates: orders what is due, and tries again what failed.
//!
//! A loop writes a job for each domain that needs a certificate (`ferroku_store::acm`), takes jobs and carries each out
//! ([`order`]) by ACME with HTTP-01 challenges, which the router answers. It takes no input but pokes and the time.
//!
//! Invariants:
//! - Nothing is ordered before the administrator has named an authority (`--acme-directory`).
//! - A job is leased while it is worked on; one whose process died is taken up again, at the order it had made.
//! - No app can use up the authority's limits for the others, nor all places of orders at once (`ferroku_core::acm`).
//! - Certificate, its key, the domain's state and the job's end are written in one transaction.
//!
//! Sources: RFC 8555; Let's Encrypt's integration guide.

mod account;
mod order;

use crate::certificate::{self, Checked};
use crate::crash_point;
use crate::node::{Node, now_ms};
use account::Accounts;
use ferroku_core::AppId;
use ferroku_core::acm::{AfterFailure, after_failure, renew_at};
use ferroku_core::domain::Domain;
use ferroku_store::acm::{self, OrderJob, Outcome};
use ferroku_store::jobs::{self, Job};
use ferroku_store::{StoreError, domains};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;
use uuid::Uuid;

/// Orders at once: enough for a hundred domains in minutes.
const CONCURRENT_ORDERS: usize = 8;
/// Jobs written at once; the rest follows in the next round.
const ENQUEUE_BATCH: i64 = 50;
/// How long a job is leased, in milliseconds: after a crash it waits so long for the process that takes it up.
const LEASE_MS: i64 = 10_000;
/// How often a lease is renewed.
const RENEW_LEASE: Duration = Duration::from_secs(3);
/// How often the loop looks for what is due. Pokes make changes visible at once; times come by themselves.
const LOOK: Duration = Duration::from_secs(5);
/// One order, all in all: authorities answer within seconds, and give up after a minute or so.
const ORDER_LIMIT: Duration = Duration::from_secs(300);
/// Longest reason that is kept, in letters: what fits a table of the CLI.
const MAX_REASON: usize = 300;

/// Which authority to ask, as the administrator said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// `https://acme-v02.api.letsencrypt.org/directory`
    pub directory_url: String,
    /// PEM file with the root that vouches for the directory's own certificate; the system's roots without it.
    pub root: Option<PathBuf>,
    /// Whom the authority may write to.
    pub contact: Option<String>,
}

/// The state of this part.
#[derive(Debug, Default)]
pub struct Acm {
    settings: Option<AcmeSettings>,
    accounts: Accounts,
    wake: Notify,
    running: Mutex<HashMap<Uuid, AppId>>,
}

/// Why an attempt failed; for the user.
#[derive(Debug, Error)]
#[error("{0}")]
struct Failure(String);

impl Acm {
    /// With no settings, nothing is ever ordered.
    pub fn new(settings: Option<AcmeSettings>) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Whether the administrator has named an authority.
    pub fn is_configured(&self) -> bool {
        self.settings.is_some()
    }

    /// Says that domains changed, or that management was switched.
    pub fn poke(&self) {
        self.wake.notify_one();
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Uuid, AppId>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that this process works on, until it is dropped: also when the work panics.
struct Running {
    node: Arc<Node>,
    job_id: Uuid,
}

impl Running {
    fn begin(node: &Arc<Node>, job_id: Uuid, app_id: AppId) -> Self {
        node.acm.running().insert(job_id, app_id);
        Self { node: node.clone(), job_id }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.node.acm.running().remove(&self.job_id);
        self.node.acm.poke();
    }
}

/// Keeps certificates for as long as the node lives.
pub async fn run(node: Arc<Node>) {
    if !node.acm.is_configured() {
        return;
    }
    loop {
        if let Err(error) = look(&node).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "cannot look for certificates that are due; trying again");
        }
        let _ = tokio::time::timeout(LOOK, node.acm.wake.notified()).await;
    }
}

async fn look(node: &Arc<Node>) -> Result<(), StoreError> {
    let now = now_ms();
    acm::enqueue_due(&node.store, ENQUEUE_BATCH, now).await?;
    let running = node.acm.running().clone();
    let free = CONCURRENT_ORDERS.saturating_sub(running.len());
    for job in acm::take(&node.store, &running, free, now + LEASE_MS, now).await? {
        let Some(app_id) = job.app_id else { continue };
        let running = Running::begin(node, job.id, app_id);
        tokio::spawn(async move { work(&running.node, &job).await });
    }
    Ok(())
}

async fn work(node: &Arc<Node>, job: &Job) {
    let lease = async {
        loop {
            tokio::time::sleep(RENEW_LEASE).await;
            // A lease that cannot be renewed ends; this process still knows that the job is being worked on.
            let _ = jobs::renew(&node.store, job.id, now_ms() + LEASE_MS).await;
        }
    };
    let result = tokio::select! {
        result = carry_out(node, job) => result,
        () = lease => unreachable!("it goes on for ever"),
    };
    if let Err(error) = result {
        let error = &error as &dyn std::error::Error;
        tracing::error!(job = %job.id, error, "cannot record how an order for a certificate went");
    }
}

async fn carry_out(node: &Arc<Node>, job: &Job) -> Result<(), StoreError> {
    let store = &node.store;
    let order: Option<OrderJob> = serde_json::from_str(&job.payload).ok();
    let domain = match &order {
        Some(order) => domains::by_id(store, order.domain_id).await?,
        None => None,
    };
    let (Some(order), Some(domain)) = (order, domain) else {
        return jobs::finish(store, job.id).await;
    };
    if !acm::begun(store, job.id, &domain, now_ms()).await? {
        return Ok(());
    }
    node.dynos.poke(domain.app_id);
    let got = tokio::time::timeout(ORDER_LIMIT, order::carry_out(node, job, order, &domain)).await;
    let got =
        got.unwrap_or_else(|_| Err(Failure("The certificate authority did not answer in time".to_owned())));
    let checked = match got {
        Ok((chain, key)) => check(chain, key).await,
        Err(failure) => Err(failure),
    };
    match checked {
        Ok(checked) => keep(node, job, &domain, &checked).await,
        Err(failure) => fail(node, job, &domain, failure).await,
    }
}

/// What an authority gave is held to the same rules as what a user adds.
async fn check(chain: String, key: String) -> Result<Checked, Failure> {
    let now = now_ms();
    let checked = tokio::task::spawn_blocking(move || certificate::check(&chain, &key, now)).await;
    match checked {
        Ok(Ok(checked)) => Ok(checked),
        Ok(Err(error)) => Err(Failure(format!("The authority's certificate cannot be used: {error}"))),
        Err(error) => Err(Failure(format!("The certificate could not be checked: {error}"))),
    }
}

async fn keep(node: &Node, job: &Job, domain: &Domain, checked: &Checked) -> Result<(), StoreError> {
    let certificate = &checked.certificate;
    let due_at = renew_at(certificate.starts_at, certificate.expires_at);
    crash_point::hit("acm.before_issued");
    let mut attempts = 0;
    loop {
        attempts += 1;
        let name = crate::api::sni_endpoints::new_name();
        let issued = Outcome::Issued { name: &name, material: &checked.material(), due_at };
        match acm::conclude(&node.store, job.id, domain, &issued, now_ms()).await {
            Err(StoreError::Taken { .. }) if attempts < crate::api::sni_endpoints::NAME_ATTEMPTS => {}
            written => break written?,
        }
    }
    crash_point::hit("acm.issued");
    tracing::info!(domain = domain.hostname, "got a certificate");
    node.dynos.poke(domain.app_id);
    Ok(())
}

async fn fail(node: &Node, job: &Job, domain: &Domain, failure: Failure) -> Result<(), StoreError> {
    let now = now_ms();
    let reason = one_line(&failure.0);
    tracing::warn!(domain = domain.hostname, attempt = job.attempts, reason, "got no certificate");
    let outcome = match after_failure(job.attempts, now) {
        AfterFailure::TryAgainAt(at) => Outcome::Failing { reason: &reason, at },
        AfterFailure::GiveUpUntil(at) => Outcome::GivenUp { reason: &reason, at },
    };
    acm::conclude(&node.store, job.id, domain, &outcome, now).await
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_REASON).collect()
}
