//! What the router knows of an app beyond its table entry, kept from one table to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts of one app.
#[derive(Debug, Default)]
pub struct AppState {
    open: AtomicUsize,
    waiting: AtomicUsize,
}

/// A request that has arrived and not ended.
#[derive(Debug)]
pub struct OpenRequest(Arc<AppState>);

/// A request that no dyno can be asked about yet.
#[derive(Debug)]
pub struct Waiting(Arc<AppState>);

impl AppState {
    /// Counts a request in.
    pub fn enter(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self.clone())
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a waiting request in; `None` when `limit` of them wait already.
    pub fn wait(self: &Arc<Self>, limit: usize) -> Option<Waiting> {
        let waiting = Waiting(self.clone());
        (self.waiting.fetch_add(1, Ordering::SeqCst) < limit).then_some(waiting)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
