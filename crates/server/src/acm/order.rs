//! One order: from the authority's challenge to the certificate (RFC 8555, section 7.4).
//!
//! The order's URL and the certificate's key are kept in the job before the challenge is answered, so that a process
//! that takes the job up later goes on with the same order, wherever the authority has got with it.

use super::account::failed;
use super::{AcmeSettings, Failure};
use crate::crash_point;
use crate::node::{Node, now_ms};
use ferroku_core::domain::Domain;
use ferroku_store::acm::{self, OrderJob};
use ferroku_store::jobs::Job;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use std::time::Duration;

/// Authorities look within seconds, and again for a minute when a look fails.
const VALIDATION: RetryPolicy = RetryPolicy::new().backoff(1.5).timeout(Duration::from_secs(120));
/// Signing takes seconds.
const ISSUANCE: RetryPolicy = RetryPolicy::new().backoff(1.5).timeout(Duration::from_secs(90));
/// How long the router may take to know a challenge's answer: it is told within milliseconds, unless it is away.
const ROUTER_LIMIT: Duration = Duration::from_secs(30);
/// The authority's words for an account that it does not know.
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Carries an order through; gives the chain and the key, both as PEM.
pub(super) async fn carry_out(
    node: &Node,
    job: &Job,
    payload: OrderJob,
    domain: &Domain,
) -> Result<(String, String), Failure> {
    let settings =
        node.acm.settings.as_ref().ok_or_else(|| Failure("The node has no authority".to_owned()))?;
    let result = with_account(node, settings, job, payload, domain).await;
    if let Err(Error::Api(problem)) = &result
        && problem.r#type.as_deref() == Some(NO_ACCOUNT)
    {
        node.acm.accounts.forget(node, settings).await;
    }
    result.map_err(|error| match error {
        Error::Api(problem) => {
            Failure(problem.detail.unwrap_or_else(|| "The authority refused the order".to_owned()))
        }
        Error::Other(error) => match error.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(error) => failed("The certificate authority cannot be reached", error.as_ref()),
        },
        error => failed("The certificate authority did not answer as expected", &error),
    })
}

async fn with_account(
    node: &Node,
    settings: &AcmeSettings,
    job: &Job,
    payload: OrderJob,
    domain: &Domain,
) -> Result<(String, String), Error> {
    let account = node.acm.accounts.get(node, settings).await.map_err(other)?;
    let (mut order, key) = open(node, &account, job, payload, domain).await?;
    if order.state().status == OrderStatus::Pending {
        let answers = answer_challenges(node, &mut order).await?;
        let status = order.poll_ready(&VALIDATION).await;
        drop(answers);
        crash_point::hit("acm.validated");
        if status? != OrderStatus::Ready {
            return Err(why_invalid(&account, &order).await);
        }
    }
    if order.state().status == OrderStatus::Invalid {
        return Err(why_invalid(&account, &order).await);
    }
    if order.state().status == OrderStatus::Ready {
        let request = request(&domain.hostname, &key)
            .map_err(|error| other(failed("No request could be made", &error)))?;
        order.finalize_csr(&request).await?;
        crash_point::hit("acm.finalized");
    }
    let chain = order.poll_certificate(&ISSUANCE).await?;
    Ok((chain, key.serialize_pem()))
}

/// The job's order: the one it had made before, if it is still to be used, else a new one.
async fn open(
    node: &Node,
    account: &Account,
    job: &Job,
    payload: OrderJob,
    domain: &Domain,
) -> Result<(Order, KeyPair), Error> {
    if let OrderJob { order_url: Some(url), sealed_key: Some(sealed), .. } = &payload
        && let Ok(plain) = node.store.key().unseal(&additional_data(job), sealed)
        && let Ok(key) = KeyPair::from_pem(&String::from_utf8_lossy(&plain))
        && let Ok(mut order) = account.order(url.clone()).await
        && order.state().status != OrderStatus::Invalid
    {
        tracing::info!(domain = domain.hostname, "going on with an order for a certificate");
        return Ok((order, key));
    }
    let key = KeyPair::generate().map_err(|error| other(failed("No key could be made", &error)))?;
    let identifiers = [Identifier::Dns(domain.hostname.clone())];
    let order = account.new_order(&NewOrder::new(&identifiers)).await?;
    crash_point::hit("acm.before_ordered");
    let sealed = node.store.key().seal(&additional_data(job), key.serialize_pem().as_bytes());
    let payload =
        OrderJob { domain_id: domain.id, order_url: Some(order.url().to_owned()), sealed_key: Some(sealed) };
    acm::ordered(&node.store, (job.id, domain.app_id), &payload, now_ms())
        .await
        .map_err(|error| other(failed("The order could not be kept", &error)))?;
    crash_point::hit("acm.ordered");
    Ok((order, key))
}

/// A challenge that the router answers until this is dropped, whatever ends the order.
struct Answer<'a> {
    node: &'a Node,
    token: String,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.node.dynos.forget_acme_challenge(&self.token);
    }
}

/// Lets the router answer, and tells the authority so.
async fn answer_challenges<'a>(node: &'a Node, order: &mut Order) -> Result<Vec<Answer<'a>>, Error> {
    let mut answers = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
            return Err(other(Failure("The authority offers no HTTP challenge for this domain".to_owned())));
        };
        let key_authorization = challenge.key_authorization();
        answers.push(Answer { node, token: challenge.token.clone() });
        let told = node.dynos.answer_acme_challenge(&challenge.token, key_authorization.as_str());
        if tokio::time::timeout(ROUTER_LIMIT, told).await.is_err() {
            return Err(other(Failure("The node's router is not reachable".to_owned())));
        }
        crash_point::hit("acm.challenge_set");
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await?;
        }
    }
    Ok(answers)
}

/// The authority's reason: that of the challenge that failed.
async fn why_invalid(account: &Account, order: &Order) -> Error {
    let unknown = || other(Failure("The authority found the domain not to lead to this node".to_owned()));
    // The order's own view of its authorizations is the one from before.
    let Ok(mut order) = account.order(order.url().to_owned()).await else { return unknown() };
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        for challenge in &authorization.challenges {
            if let Some(problem) = &challenge.error {
                return Error::Api(problem.clone());
            }
        }
    }
    unknown()
}

fn request(hostname: &str, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(vec![hostname.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

fn additional_data(job: &Job) -> String {
    format!("acm_order/{}/1", job.id)
}

fn other(failure: Failure) -> Error {
    Error::Other(Box::new(failure))
}
