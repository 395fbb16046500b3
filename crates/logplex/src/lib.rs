//! Logplex: the log lines of every app. Takes them in, keeps the last of them in files, gives them to readers.
//!
//! ```text
//! append_dyno, append_keyed, append -> intake (memory, one mutex an app)
//!     -> writer thread -> DIR/logs/<app-id>/*.seg -> fsync thread, twice a second
//!                      -> live tail sessions (a bounded queue each)
//! history, the start of a tail <- the files
//! ```
//!
//! Invariants:
//! - What [`Logplex::flush`] has confirmed survives a kill of this process, and, a second later, a power cut.
//!   So: append, flush, and only then acknowledge to whoever sent the line.
//! - A line that is sent twice under the same key and sequence is kept once, over restarts too. A key's
//!   sequences must come in ascending order, gaps are allowed.
//! - A reader sees a line only once it is written, with a cursor that never stands for another line: a tail that
//!   goes on behind its last cursor neither loses nor repeats a line.
//! - Intake never waits for a reader.
//! - The last 1,500 lines of an app are kept; its files take 17 MB at most, usually 2 MB.

mod app_log;
mod error;
mod line;
mod record;
mod segment;
mod tail;
mod writer;

pub use error::{LogplexError, Result};
pub use line::{Filter, Key, Line, LogLine, MAX_LINE_BYTES, MAX_MESSAGE_BYTES, timestamp};
pub use segment::{HISTORY_LINES, SEGMENT_BYTES};
pub use tail::{Dropped, MAX_QUEUED_BYTES, MAX_QUEUED_LINES, MAX_TAILS, Tail, TailEvent, TailFrom};

use app_log::{AppLog, Appended};
use ferroku_core::{AppId, DynoId};
use segment::Missed;
use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tail::TailPermit;
use writer::Work;

/// How long opening waits for the lock of a process that is just ending.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The logs of a node. Cheap to clone; the last clone to go writes and syncs what is left.
#[derive(Debug, Clone)]
pub struct Logplex(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    apps: RwLock<HashMap<AppId, Slot>>,
    tails: Arc<AtomicUsize>,
    tails_closed: AtomicBool,
    work: Arc<Work>,
    threads: Vec<JoinHandle<()>>,
    _lock: File,
}

#[derive(Debug, Clone)]
enum Slot {
    Open(Arc<AppLog>),
    /// Lines of a dyno that is still dying must not bring the folder back.
    Removed,
}

impl Logplex {
    /// Opens the logs in `folder` (`DIR/logs`), making it when it is missing. An app's files are read at its first use.
    ///
    /// # Errors
    /// The folder cannot be made, or another process has it open.
    pub fn open(folder: PathBuf) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| LogplexError::MakeFolder { path: folder.clone(), source })?;
        let lock = lock_folder(&folder)?;
        let work = Arc::new(Work::new());
        let start = |name: &str, run: fn(&Work)| {
            let work = work.clone();
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || run(&work))
                .map_err(|source| LogplexError::StartThread { source })
        };
        let threads =
            vec![start("logplex-write", Work::write_loop)?, start("logplex-sync", Work::sync_loop)?];
        Ok(Self(Arc::new(Inner {
            folder,
            apps: RwLock::default(),
            tails: Arc::default(),
            tails_closed: AtomicBool::new(false),
            work,
            threads,
            _lock: lock,
        })))
    }

    /// Takes in a line that nobody sends twice.
    pub fn append(&self, app_id: AppId, line: LogLine) {
        self.take_in(app_id, None, &line);
    }

    /// Takes in a line of a dyno. False when it was there already.
    pub fn append_dyno(&self, app_id: AppId, dyno_id: DynoId, sequence: u64, line: LogLine) -> bool {
        self.take_in(app_id, Some((&Key::dyno(dyno_id), sequence)), &line)
    }

    /// Takes in a line of a named feed such as `event` or `router`. False when it was there already.
    pub fn append_keyed(&self, app_id: AppId, key: impl AsRef<str>, sequence: u64, line: LogLine) -> bool {
        self.take_in(app_id, Some((&Key::named(key.as_ref()), sequence)), &line)
    }

    fn take_in(&self, app_id: AppId, key: Option<(&Key, u64)>, line: &LogLine) -> bool {
        let app = match self.app(app_id) {
            Ok(app) => app,
            Err(LogplexError::Removed { .. }) => return false,
            Err(error) => {
                tracing::error!(%app_id, %error, "a log line is lost: the app's log files cannot be opened");
                return false;
            }
        };
        app.append(&self.0.work, key, line) == Appended::New
    }

    /// The last sequence that came in under a dyno's key: where to go on after a restart.
    ///
    /// # Errors
    /// The app's files cannot be read.
    pub fn last_dyno_sequence(&self, app_id: AppId, dyno_id: DynoId) -> Result<Option<u64>> {
        Ok(self.app(app_id)?.last_sequence(&Key::dyno(dyno_id)))
    }

    /// The last sequence that came in under a named key.
    ///
    /// # Errors
    /// The app's files cannot be read.
    pub fn last_keyed_sequence(&self, app_id: AppId, key: &str) -> Result<Option<u64>> {
        Ok(self.app(app_id)?.last_sequence(&Key::named(key)))
    }

    /// Waits until all lines that came in before are written: from here on a kill of this process does not lose them.
    ///
    /// # Errors
    /// Lines cannot be written (disk full?). They stay in memory and are tried again twice a second: do not
    /// acknowledge them yet, flush again later.
    pub async fn flush(&self) -> Result<()> {
        let (target, mut done) = self.0.work.target();
        let done = *done
            .wait_for(|done| done.round >= target)
            .await
            .expect("the sender lives in `work`, which `self` holds");
        if done.failing { Err(LogplexError::NotWritten) } else { Ok(()) }
    }

    /// The last `lines` lines that pass the filter, oldest first. Includes all that came in before the call.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn history(&self, app_id: AppId, lines: usize, filter: Filter) -> Result<Vec<Line>> {
        let app = self.app(app_id)?;
        self.flush_for_reading().await;
        read(move || segment::read_last(&app.folder, app.published_through(), lines, &filter)).await
    }

    /// The lines behind cursor `after` that pass the filter, oldest first, with a word on those that are gone.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn history_after(&self, app_id: AppId, after: u64, filter: Filter) -> Result<Vec<TailEvent>> {
        let app = self.app(app_id)?;
        self.flush_for_reading().await;
        read(move || events_after(&app, after, app.published_through(), &filter)).await
    }

    /// A live session: the lines that `from` asks for, then every line as it comes, none lost or repeated between.
    ///
    /// # Errors
    /// Too many sessions; the app was removed; the files cannot be read.
    pub async fn tail(&self, app_id: AppId, filter: Filter, from: TailFrom) -> Result<Tail> {
        let permit =
            TailPermit::take(&self.0.tails).ok_or(LogplexError::TooManyTails { limit: MAX_TAILS })?;
        let app = self.app(app_id)?;
        self.flush_for_reading().await;
        let (subscriber, through) = app.subscribe(filter.clone())?;
        // Looked at last: who closes from here on finds the session.
        if self.0.tails_closed.load(Ordering::SeqCst) {
            subscriber.close();
        }
        let first = read(move || match from {
            TailFrom::Last(lines) => {
                let lines = segment::read_last(&app.folder, through, lines, &filter)?;
                Ok(lines.into_iter().map(TailEvent::Line).collect::<Vec<_>>())
            }
            TailFrom::After(after) => events_after(&app, after, through, &filter),
        });
        Ok(Tail { app_id, first: first.await?.into(), subscriber, _permit: permit })
    }

    /// Ends all live sessions, and those that still begin end at once: their readers come back with their last
    /// cursor when a new process listens.
    pub fn close_tails(&self) {
        self.0.tails_closed.store(true, Ordering::SeqCst);
        for slot in self.apps_map_values() {
            slot.close_readers();
        }
    }

    /// Deletes an app's lines for good; lines of it that still come in are dropped.
    ///
    /// # Errors
    /// The files cannot be deleted.
    pub async fn remove(&self, app_id: AppId) -> Result<()> {
        let slot = {
            let mut apps = self.0.apps.write().unwrap_or_else(PoisonError::into_inner);
            apps.insert(app_id, Slot::Removed)
        };
        let app = match slot {
            Some(Slot::Open(app)) => app,
            _ => Arc::new(AppLog::open(app_id, self.0.folder.join(app_id.to_string()))?),
        };
        read(move || app.remove()).await
    }

    /// Deletes the lines of all apps but these: what a crash between destroying an app and removing its logs left.
    ///
    /// # Errors
    /// The folder cannot be read, or files cannot be deleted.
    pub async fn remove_all_but(&self, keep: &HashSet<AppId>) -> Result<()> {
        for app_id in segment::apps(&self.0.folder)? {
            if !keep.contains(&app_id) {
                self.remove(app_id).await?;
            }
        }
        Ok(())
    }

    fn apps_map_values(&self) -> Vec<Arc<AppLog>> {
        let apps = self.0.apps.read().unwrap_or_else(PoisonError::into_inner);
        let open = apps.values().filter_map(|slot| match slot {
            Slot::Open(app) => Some(app.clone()),
            Slot::Removed => None,
        });
        open.collect()
    }

    fn app(&self, app_id: AppId) -> Result<Arc<AppLog>> {
        let known = |slot: &Slot| match slot {
            Slot::Open(app) => Ok(app.clone()),
            Slot::Removed => Err(LogplexError::Removed { app_id }),
        };
        if let Some(slot) = self.0.apps.read().unwrap_or_else(PoisonError::into_inner).get(&app_id) {
            return known(slot);
        }
        let mut apps = self.0.apps.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = apps.get(&app_id) {
            return known(slot);
        }
        let app = Arc::new(AppLog::open(app_id, self.0.folder.join(app_id.to_string()))?);
        apps.insert(app_id, Slot::Open(app.clone()));
        Ok(app)
    }

    /// Reading shows what is written; when the disk is full that is still worth showing.
    async fn flush_for_reading(&self) {
        if let Err(error) = self.flush().await {
            tracing::warn!(%error, "the last log lines are not shown");
        }
    }
}

fn events_after(app: &AppLog, after: u64, through: u64, filter: &Filter) -> Result<Vec<TailEvent>> {
    let (lines, missed) = segment::read_after(&app.folder, after, through, filter)?;
    let mut events = Vec::with_capacity(lines.len() + 1);
    let count = match missed {
        Missed::None => None,
        // Which of them the filter would have let through is not known any more.
        Missed::Lines(count) if filter.is_empty() => Some(Some(count)),
        Missed::Lines(_) | Missed::Some => Some(None),
    };
    if let Some(count) = count {
        let since_us = lines.first().map_or(0, |line| line.at_us);
        events.push(TailEvent::Dropped(Dropped { lines: count, since_us }));
    }
    events.extend(lines.into_iter().map(TailEvent::Line));
    Ok(events)
}

async fn read<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.expect("reading log files does not panic")
}

/// Two writers would tear each other's records; the lock goes with the process, however it ends.
fn lock_folder(folder: &std::path::Path) -> Result<File> {
    let path = folder.join("lock");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(|source| LogplexError::OpenSegment { path: path.clone(), source })?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(LogplexError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(LogplexError::OpenSegment { path, source }),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.work.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the log files has panicked");
            }
        }
    }
}
