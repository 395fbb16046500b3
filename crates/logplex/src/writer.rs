//! The two threads behind a log: one writes what came in, one puts it on the disk.
//!
//! Threads, not tasks, because a write or an fsync that hangs must hold up
//! neither the API nor the other. Both sleep when there is nothing to do.
//!
//! A round of the writer takes all apps that have something and writes each with one `write` a block; so lines
//! that come in together go out together. [`Work::target`] is the round that will have written what has come
//! in until now.

use crate::app_log::AppLog;
use crate::line::{LogLine, timestamp};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Time between two fsyncs: what a power cut may take, with the fsync itself, is under a second.
const SYNC_INTERVAL: Duration = Duration::from_millis(500);

/// Time until lines that could not be written are tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Time until it is told again that lines cannot be written: the node's own messages may go to the same full disk.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Which rounds are done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub round: u64,
    /// Some app's lines are waiting because they could not be written.
    pub failing: bool,
}

#[derive(Debug, Default)]
struct Queue {
    dirty: Vec<Arc<AppLog>>,
    round: u64,
    closing: bool,
}

#[derive(Debug, Default)]
struct ToSync {
    apps: Vec<Arc<AppLog>>,
    closing: bool,
}

/// What the threads and the callers share.
#[derive(Debug)]
pub struct Work {
    queue: Mutex<Queue>,
    queued: Condvar,
    to_sync: Mutex<ToSync>,
    sync_wanted: Condvar,
    done: watch::Sender<Done>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    pub fn new() -> Self {
        Self {
            queue: Mutex::default(),
            queued: Condvar::new(),
            to_sync: Mutex::default(),
            sync_wanted: Condvar::new(),
            done: watch::Sender::new(Done::default()),
        }
    }

    /// Tells the writer that an app has something.
    pub fn wake(&self, app: Arc<AppLog>) {
        lock(&self.queue).dirty.push(app);
        self.queued.notify_one();
    }

    /// The round that will have written all that has come in, and where to wait for it.
    pub fn target(&self) -> (u64, watch::Receiver<Done>) {
        let queue = lock(&self.queue);
        let target = if queue.dirty.is_empty() { queue.round } else { queue.round + 1 };
        (target, self.done.subscribe())
    }

    /// Lets both threads finish what there is and end.
    pub fn close(&self) {
        lock(&self.queue).closing = true;
        self.queued.notify_one();
    }

    /// The writer's thread.
    pub fn write_loop(&self) {
        let mut failing: Vec<Arc<AppLog>> = Vec::new();
        let mut told: Option<Instant> = None;
        loop {
            let (mut apps, round, closing) = self.next_round(!failing.is_empty());
            for app in failing.drain(..) {
                if !apps.iter().any(|other| Arc::ptr_eq(other, &app)) {
                    apps.push(app);
                }
            }
            for app in &apps {
                if let Err(error) = app.write_pending() {
                    if told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
                        tracing::error!(app_id = %app.app_id, error = %chain(&error), "cannot write log lines; trying again");
                        told = Some(Instant::now());
                    }
                    failing.push(app.clone());
                } else if let Some((lines, since_us)) = app.take_lost() {
                    self.tell_of_loss(app, lines, since_us);
                }
            }
            if failing.is_empty() {
                told = None;
            }
            self.done.send_replace(Done { round, failing: !failing.is_empty() });
            self.want_sync(apps, closing);
            if closing {
                return;
            }
        }
    }

    fn next_round(&self, retry: bool) -> (Vec<Arc<AppLog>>, u64, bool) {
        let mut queue = lock(&self.queue);
        if retry {
            // Lines of other apps need not wait, but a full disk is asked only so often.
            let idle = |queue: &mut Queue| !queue.closing;
            queue = self
                .queued
                .wait_timeout_while(queue, RETRY_INTERVAL, idle)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        } else {
            let idle = |queue: &mut Queue| queue.dirty.is_empty() && !queue.closing;
            queue = self.queued.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        }
        queue.round += 1;
        (std::mem::take(&mut queue.dirty), queue.round, queue.closing)
    }

    fn tell_of_loss(&self, app: &Arc<AppLog>, lines: u64, since_us: i64) {
        let since = timestamp(since_us);
        let message = format!("Error L13: {lines} messages lost since {since}.");
        let line = LogLine::new(since_us, "heroku", "logplex", message);
        app.append(self, None, &line);
    }

    fn want_sync(&self, apps: Vec<Arc<AppLog>>, closing: bool) {
        let mut to_sync = lock(&self.to_sync);
        for app in apps {
            if !to_sync.apps.iter().any(|other| Arc::ptr_eq(other, &app)) {
                to_sync.apps.push(app);
            }
        }
        to_sync.closing |= closing;
        drop(to_sync);
        self.sync_wanted.notify_one();
    }

    /// The thread that puts what is written on the disk.
    pub fn sync_loop(&self) {
        loop {
            let mut to_sync = lock(&self.to_sync);
            let idle = |to_sync: &mut ToSync| to_sync.apps.is_empty() && !to_sync.closing;
            to_sync = self.sync_wanted.wait_while(to_sync, idle).unwrap_or_else(PoisonError::into_inner);
            let waited =
                self.sync_wanted.wait_timeout_while(to_sync, SYNC_INTERVAL, |to_sync| !to_sync.closing);
            to_sync = waited.unwrap_or_else(PoisonError::into_inner).0;
            let (apps, closing) = (std::mem::take(&mut to_sync.apps), to_sync.closing);
            drop(to_sync);
            let mut again = Vec::new();
            for app in apps {
                if let Err(error) = app.sync() {
                    tracing::error!(app_id = %app.app_id, %error, "cannot put log lines on the disk; trying again");
                    again.push(app);
                }
            }
            if closing {
                return;
            }
            self.want_sync(again, false);
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
