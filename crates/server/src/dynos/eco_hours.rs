//! Eco hours: counts them while dynos run, and tells how an account stands.

use super::{Result, Shared};
use crate::node::now_ms;
use ferroku_core::app::App;
use ferroku_core::dyno::Dyno;
use ferroku_core::eco_hours::{COUNT_EVERY_MS, Standing};
use ferroku_core::formation::Formation;
use ferroku_core::{AccountId, dyno_size};
use ferroku_store::{Store, eco_hours};
use std::sync::Arc;
use std::time::Duration;

impl Shared {
    /// How the app's account stands; `None` where that does not matter to the app.
    pub async fn eco_standing(
        &self,
        app: &App,
        formation: &[Formation],
        dynos: &[Dyno],
    ) -> Result<Option<Standing>> {
        let mut sizes = formation.iter().map(|one| &one.size).chain(dynos.iter().map(|one| &one.size));
        if !sizes.any(|size| dyno_size::sleeps(size)) {
            return Ok(None);
        }
        self.eco_hours_of(app.owner_id).await
    }

    /// How an account stands; `None` without a quota.
    pub async fn eco_hours_of(&self, account_id: AccountId) -> Result<Option<Standing>> {
        let Some(quota_ms) = self.parts.settings.eco_quota_ms() else { return Ok(None) };
        let used = eco_hours::used(&self.parts.store, account_id, now_ms()).await?;
        Ok(Some(used.standing(quota_ms)))
    }
}

/// Counts, for ever.
pub(super) async fn count(shared: Arc<Shared>) {
    let pause = Duration::from_millis(COUNT_EVERY_MS.unsigned_abs());
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = count_once(&shared.parts.store).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot count eco hours; trying again");
        }
    }
}

async fn count_once(store: &Store) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => { eco_hours::count_all(&mut tx, now_ms()).await })
}
