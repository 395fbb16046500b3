//! Access that outlives the request which asked for it: log tails, streams of output, attached commands, SSH.
//!
//! In: the authorization that asked, the app, and what is done to it. Out: whether it still may, and a future that is
//! ready once it may not any more.
//!
//! Invariant: nothing goes on, or begins later, by an authorization that is gone or expired, of an account that is gone or
//! suspended, or by a role, an app or a feature that is not there any more.

use crate::api::conventions::RequestContext;
use crate::api::exec;
use crate::auth::{by_authorization, find_app, principal};
use crate::error::ApiError;
use crate::node::Node;
use axum::body::Body as HttpBody;
use ferroku_core::account::Account;
use ferroku_core::app_feature::EXEC;
use ferroku_core::authorize::Verb;
use ferroku_core::{AccountId, AppId, AuthorizationId};
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often access is looked at when nothing is known to have changed: an expiry is no event.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Shortest time between two looks of one holder: whoever makes events makes no more of them than this.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Streams of text (log tails, output of builds and releases) that one account reads at once: a twentieth of the node's
/// tails, and more than anybody looks at.
const MAX_READERS_OF_ACCOUNT: usize = 50;

/// What an authorization does to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    pub authorization_id: AuthorizationId,
    pub app_id: AppId,
    pub verb: Verb,
    /// Whether it is by SSH, which the app can switch off.
    pub by_ssh: bool,
}

/// Access that was there when it was taken.
pub struct Held {
    access: Access,
    changes: watch::Receiver<i64>,
    looked: Instant,
    _place: Option<Place>,
}

impl Access {
    /// To do `verb` to the app.
    pub fn new(authorization_id: AuthorizationId, app_id: AppId, verb: Verb) -> Self {
        Self { authorization_id, app_id, verb, by_ssh: false }
    }

    /// To run commands in the app's dynos by SSH.
    pub fn by_ssh(authorization_id: AuthorizationId, app_id: AppId) -> Self {
        Self { by_ssh: true, ..Self::new(authorization_id, app_id, Verb::Run) }
    }

    /// Whether it is there still.
    ///
    /// # Errors
    /// 403 or 404: not any more. 5xx: nobody can say.
    pub async fn check(self, node: &Node) -> Result<Account, ApiError> {
        let ended = || ApiError::forbidden("The access that this was asked for with has ended.");
        let found = by_authorization(node, self.authorization_id).await?;
        let (account, authorization) = found.ok_or_else(ended)?;
        let who = principal(&account, &authorization);
        // By its id: names move from app to app.
        let app = find_app(node, who, &self.app_id.to_string(), self.verb).await?;
        match !self.by_ssh || exec::is_enabled(node, &app).await? {
            true => Ok(account),
            false => Err(ApiError::forbidden(format!("{EXEC} is off for this app."))),
        }
    }

    /// Takes it, for [`Held::ended`].
    ///
    /// # Errors
    /// As [`Access::check`].
    pub async fn hold(self, node: &Node) -> Result<Held, ApiError> {
        self.look(node).await.map(|(held, _)| held)
    }

    /// The same for a reader of a stream, who has no credentials but a sealed link. It costs the account that the link was
    /// made for what a request costs, and one of its places.
    ///
    /// # Errors
    /// As [`Access::check`]; 429.
    pub async fn read(self, node: &Node, context: &RequestContext) -> Result<Held, ApiError> {
        let (held, account) = self.look(node).await?;
        context.spend(node, &account)?;
        let place = node.readers.enter(account.id).ok_or_else(|| {
            let message =
                format!("Your account reads {MAX_READERS_OF_ACCOUNT} streams already. End one of them");
            ApiError::rate_limit(message)
        })?;
        Ok(Held { _place: Some(place), ..held })
    }

    async fn look(self, node: &Node) -> Result<(Held, Account), ApiError> {
        // Before the look, so that nothing that changes during it is missed.
        let changes = node.events.access_changes();
        let looked = Instant::now();
        let account = self.check(node).await?;
        Ok((Held { access: self, changes, looked, _place: None }, account))
    }
}

impl Held {
    /// Returns once the access has ended.
    pub async fn ended(mut self, node: Arc<Node>) {
        loop {
            tokio::select! {
                _ = self.changes.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            tokio::time::sleep_until(self.looked + LOOK_PAUSE).await;
            self.looked = Instant::now();
            self.changes.mark_unchanged();
            // A store that is away takes nobody's access.
            if self.access.check(&node).await.is_err_and(|error| error.status.is_client_error()) {
                return;
            }
        }
    }

    /// The body for as long as the access is there.
    pub fn limit(self, node: Arc<Node>, body: HttpBody) -> HttpBody {
        HttpBody::from_stream(body.into_data_stream().take_until(Box::pin(self.ended(node))))
    }
}

/// Who reads how many streams. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<HashMap<AccountId, usize>>>);

/// One stream of an account; dropped with it.
struct Place {
    readers: Readers,
    account_id: AccountId,
}

impl Readers {
    /// A place for one stream more; `None` when the account has no more.
    fn enter(&self, account_id: AccountId) -> Option<Place> {
        let mut counts = self.counts();
        let count = counts.entry(account_id).or_default();
        if *count >= MAX_READERS_OF_ACCOUNT {
            return None;
        }
        *count += 1;
        Some(Place { readers: self.clone(), account_id })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<AccountId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.readers.counts();
        if let Some(count) = counts.get_mut(&self.account_id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.account_id);
            }
        }
    }
}
