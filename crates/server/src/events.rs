//! The event feed: tails the event table and writes what happened into the apps' logs.

use tokio::sync::Notify;

/// Wakes the task that reads new events.
#[derive(Debug, Default)]
pub struct EventFeed {
    wake: Notify,
}

impl EventFeed {
    /// Says that events may have been committed.
    pub fn poke(&self) {
        self.wake.notify_one();
    }
}
