//! Live tail sessions: what a reader waits on, and the queue between it and the writer.
//!
//! Invariant: the writer never waits for a reader. A reader that is slower than
//! its app loses the oldest lines of its own queue, and is told how many.

use crate::line::{Filter, Line, timestamp};
use ferroku_core::AppId;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Lines that wait for one reader; Heroku's Logplex holds 1,024, but drops far more often.
pub const MAX_QUEUED_LINES: usize = 4_096;

/// Bytes of text that wait for one reader: a few readers of an app that prints the longest
/// lines must not cost the control process its memory.
pub const MAX_QUEUED_BYTES: usize = 2 * 1024 * 1024;

/// Live sessions of the whole node; each costs a connection and up to [`MAX_QUEUED_BYTES`].
pub const MAX_TAILS: usize = 1_000;

/// Where a tail session begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailFrom {
    /// With the last so many lines that pass the filter.
    Last(usize),
    /// With the first line behind this cursor: what a reader that was cut off asks for.
    After(u64),
}

/// What a tail session gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailEvent {
    Line(Line),
    /// Lines were dropped here. No cursor: a reader that comes back asks for what was behind its last line.
    Dropped(Dropped),
}

/// How many lines a reader did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// None when it is not known.
    pub lines: Option<u64>,
    /// Time of the first of them; of the line behind them when they are gone.
    pub since_us: i64,
}

impl fmt::Display for Dropped {
    /// Heroku's L11 line.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = timestamp(self.since_us);
        write!(
            formatter,
            "{since} heroku[logplex]: Error L11 (Tail buffer overflow) -> This tail session dropped "
        )?;
        match self.lines {
            Some(lines) => write!(formatter, "{lines} messages since {since}."),
            None => write!(formatter, "messages since {since}."),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Line>,
    bytes: usize,
    dropped: u64,
    dropped_since_us: i64,
    closed: bool,
}

/// The writer's end of a tail session.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub filter: Filter,
    queue: Mutex<Queue>,
    changed: Notify,
}

impl Subscriber {
    pub fn new(filter: Filter) -> Self {
        Self { filter, queue: Mutex::default(), changed: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over lines that have passed the filter.
    pub fn push(&self, lines: Vec<Line>) {
        let mut queue = self.queue();
        for line in lines {
            queue.bytes += line.message.len();
            queue.events.push_back(line);
            while queue.events.len() > MAX_QUEUED_LINES || queue.bytes > MAX_QUEUED_BYTES {
                let Some(oldest) = queue.events.pop_front() else { break };
                queue.bytes -= oldest.message.len();
                if queue.dropped == 0 {
                    queue.dropped_since_us = oldest.at_us;
                }
                queue.dropped += 1;
            }
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Ends the session once its queue is empty.
    pub fn close(&self) {
        self.queue().closed = true;
        self.changed.notify_one();
    }
}

/// A session: lines as they come, until the app is removed or the log is closed.
///
/// Dropping it ends it.
#[derive(Debug)]
pub struct Tail {
    pub(crate) app_id: AppId,
    /// What was there at the start.
    pub(crate) first: VecDeque<TailEvent>,
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) _permit: TailPermit,
}

impl Tail {
    /// The app whose lines these are.
    pub fn app_id(&self) -> AppId {
        self.app_id
    }

    /// The next event; waits for one. `None` at the end. Safe to cancel.
    pub async fn next(&mut self) -> Option<TailEvent> {
        loop {
            if let Some(event) = self.first.pop_front() {
                return Some(event);
            }
            let changed = self.subscriber.changed.notified();
            {
                let mut queue = self.subscriber.queue();
                let dropped = std::mem::take(&mut queue.dropped);
                if dropped > 0 {
                    let since_us = queue.dropped_since_us;
                    return Some(TailEvent::Dropped(Dropped { lines: Some(dropped), since_us }));
                }
                if let Some(line) = queue.events.pop_front() {
                    queue.bytes -= line.message.len();
                    return Some(TailEvent::Line(line));
                }
                if queue.closed {
                    return None;
                }
            }
            changed.await;
        }
    }
}

/// The right to one of the node's [`MAX_TAILS`] sessions.
#[derive(Debug)]
pub(crate) struct TailPermit(Arc<AtomicUsize>);

impl TailPermit {
    pub fn take(count: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < MAX_TAILS).then_some(count + 1)
        });
        taken.ok().map(|_| Self(count.clone()))
    }
}

impl Drop for TailPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
