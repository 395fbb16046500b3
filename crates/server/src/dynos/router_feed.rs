//! What the router tells: drained dynos become pokes, request records become log lines.

use super::Shared;
use super::app_loop::Message;
use crate::router_link::{RequestBatch, RouterEvent};
use ferroku_logplex::LogLine;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// When the log cannot be written (disk full), how long until the next try.
const FLUSH_RETRY: Duration = Duration::from_millis(500);

/// Listens for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let router = shared.parts.router.clone();
    if let Some(mut batches) = router.take_request_batches() {
        let shared = shared.clone();
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                store(&shared, batch).await;
            }
        });
    }
    let mut events = router.subscribe();
    loop {
        match events.recv().await {
            Ok(RouterEvent::Drained { dyno_id }) => {
                if let Some(app_id) = shared.routes.app_of(dyno_id) {
                    shared.send(app_id, Message::Look);
                }
            }
            Ok(RouterEvent::Probed(probed)) => {
                if let Some(app_id) = shared.routes.app_of(probed.dyno_id) {
                    shared.send(app_id, Message::Probed(Box::new(probed)));
                }
            }
            Ok(RouterEvent::Wake { app_id }) => {
                shared.requests.note(app_id);
                shared.send(app_id, Message::Look);
            }
            Ok(RouterEvent::Applied { .. }) => {}
            // Which ones were missed is not known; asking every app is cheap and rare.
            Err(RecvError::Lagged(_)) => {
                let apps: Vec<_> = shared.lock().senders.keys().copied().collect();
                apps.into_iter().for_each(|app_id| shared.send(app_id, Message::Look));
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Puts request records into their apps' logs and acknowledges them once they are written.
async fn store(shared: &Shared, batch: RequestBatch) {
    let logplex = &shared.parts.logplex;
    let key = batch.key();
    for record in &batch.log.records {
        let line = LogLine::new(record.at_us, "heroku", "router", record.line.as_str());
        logplex.append_keyed(record.app_id, &key, record.sequence, line);
        if record.reached_a_dyno() {
            shared.requests.note(record.app_id);
        }
    }
    while logplex.flush().await.is_err() {
        tokio::time::sleep(FLUSH_RETRY).await;
    }
    batch.acknowledge();
}
