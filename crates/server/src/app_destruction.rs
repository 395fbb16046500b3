//! Destroying an app, the part behind the transaction: dynos, repository, slugs, caches, logs.
//!
//! `DELETE /apps/X` removes the app's rows and writes a job in one transaction; from then on the app is gone for
//! every client and its name is free. This task takes the job up at once, and again after a crash: each
//! step may run any number of times. What a crash leaves running is found by dynos having no row.
//!
//! In: open jobs of the kind `app.destroy`. Out: nothing of the app on disk or in memory.

use crate::crash_point;
use crate::node::{Node, now_ms};
use ferroku_store::apps::{DESTROY_JOB, Destroyed};
use ferroku_store::jobs::{self, Job};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long a job that failed waits for its next attempt.
const RETRY: Duration = Duration::from_secs(30);

/// Wakes the task that finishes destructions.
#[derive(Debug, Default)]
pub struct Destructions {
    wake: Notify,
}

impl Destructions {
    /// Says that an app was destroyed.
    pub fn poke(&self) {
        self.wake.notify_one();
    }
}

/// Finishes destructions for as long as the node lives.
pub async fn run(node: Arc<Node>) {
    loop {
        if let Err(error) = finish_open(&node).await {
            tracing::error!("cannot read the open destructions, trying again: {error:#}");
        }
        let _ = tokio::time::timeout(RETRY, node.destructions.wake.notified()).await;
    }
}

/// Finishes every open destruction, side by side: one whose dynos take their 30 seconds to stop holds up no other.
///
/// # Errors
/// The jobs cannot be read.
async fn finish_open(node: &Arc<Node>) -> anyhow::Result<()> {
    let open = jobs::open(&node.store, DESTROY_JOB).await?;
    let each = open.into_iter().map(|job| async move {
        if let Err(error) = finish(node, &job).await {
            tracing::error!(app_id = ?job.app_id, "cannot finish an app's destruction, trying again: {error:#}");
        }
    });
    futures::future::join_all(each).await;
    Ok(())
}

async fn finish(node: &Node, job: &Job) -> anyhow::Result<()> {
    let destroyed: Destroyed = serde_json::from_str(&job.payload)?;
    jobs::attempt(&node.store, job.id, now_ms()).await?;
    crash_point::hit("app_destruction.started");
    node.dynos.app_destroyed(destroyed.app_id).await;
    crash_point::hit("app_destruction.dynos_gone");
    node.builds.app_destroyed(&destroyed).await?;
    crash_point::hit("app_destruction.builds_gone");
    node.logplex.remove(destroyed.app_id).await?;
    crash_point::hit("app_destruction.before_finish");
    jobs::finish(&node.store, job.id).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_core::AppId;
    use ferroku_core::app::{DEFAULT_REGION, DEFAULT_STACK};
    use ferroku_core::event::Actor;
    use ferroku_logplex::LogLine;
    use ferroku_store::accounts;
    use ferroku_store::apps::{self, NewApp};
    use uuid::Uuid;

    #[tokio::test]
    async fn a_destruction_left_open_by_a_crash_is_finished_at_the_next_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::for_tests(folder.path()).await;
        let owner =
            accounts::find_by_email(&node.store, "owner@example.com").await.expect("read").expect("made");
        let actor =
            Actor { account_id: owner.id, email: owner.email, remote_address: None, request_id: None };
        let id = AppId(Uuid::new_v4());
        let new = NewApp { id, name: "doomed", stack: DEFAULT_STACK, region: DEFAULT_REGION };
        apps::create(&node.store, &new, &actor, 1).await.expect("made");
        node.logplex.append(id, LogLine::new(1, "app", "web.1", "text"));
        node.logplex.flush().await.expect("written");
        let logs = folder.path().join("logs").join(id.to_string());
        assert!(logs.exists());
        apps::destroy(&node.store, id, &actor, 2).await.expect("destroyed");
        // Twice, as when the process dies right before the job is marked as finished.
        let job = jobs::open(&node.store, DESTROY_JOB).await.expect("read").remove(0);
        finish(&node, &job).await.expect("finished");
        finish(&node, &job).await.expect("finished again");
        finish_open(&node).await.expect("nothing left");
        assert!(!logs.exists());
        assert!(jobs::open(&node.store, DESTROY_JOB).await.expect("read").is_empty());
    }
}
