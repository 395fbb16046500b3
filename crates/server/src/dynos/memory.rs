//! Watches what dynos have in memory, and says so in their logs when that is more than their size gives them (R14).
//!
//! A dyno goes on above its quota, as on Heroku; at [`HARD_LIMIT_FACTOR`] times the quota the kernel kills it (R15).
//!
//! Source: Heroku's "Error Codes", R14 and R15; heroku-behaviour reference, sections 6.3 and 6.4.

use super::{Result, Shared, log_text};
use ferroku_core::dyno::{Dyno, DynoState};
use ferroku_core::dyno_size;
use ferroku_runtime::Driver;
use ferroku_store::dynos;
use std::sync::Arc;
use std::time::Duration;

/// The memory limit of a dyno's cgroup, in quotas. Heroku kills at about twice the quota.
pub(super) const HARD_LIMIT_FACTOR: u64 = 2;
/// How often R14 is repeated while it lasts: as on Heroku.
const LOOK: Duration = Duration::from_secs(20);

/// Looks at every dyno for as long as the node lives.
pub(super) async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = look(&shared).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look at the memory of dynos");
        }
    }
}

async fn look(shared: &Shared) -> Result<()> {
    for dyno in dynos::list_living(&shared.parts.store).await? {
        if !matches!(dyno.state, DynoState::Starting | DynoState::Up) {
            continue;
        }
        let (Some(used), Some(quota)) = (shared.parts.driver.memory_bytes(dyno.id).await, quota(&dyno))
        else {
            continue;
        };
        if used > quota {
            shared.log(dyno.app_id, &dyno.name(), log_text::running_memory(used, quota));
            shared.log(dyno.app_id, &dyno.name(), log_text::MEMORY_EXCEEDED);
        }
    }
    Ok(())
}

/// What the dyno's size gives it, in bytes.
pub(super) fn quota(dyno: &Dyno) -> Option<u64> {
    dyno_size::find(&dyno.size).map(|size| size.memory_bytes)
}
