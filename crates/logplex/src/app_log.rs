//! One app's log: what came in and is not written yet, its files, its live readers.
//!
//! Locks, always taken in this order and never held over an await: `files`,
//! then `intake` or `readers`, and the writer's queue under `intake`.

use crate::error::{LogplexError, Result};
use crate::line::{Filter, Key, LogLine, MAX_NAME_BYTES, normalise, split};
use crate::record::{self, Message, Seen};
use crate::segment::{self, Block, Segments};
use crate::tail::Subscriber;
use crate::writer::Work;
use ferroku_core::AppId;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Encoded bytes after which a new block is begun: also how far a segment may grow over its size.
const BLOCK_BYTES: usize = 64 * 1024;

/// Encoded bytes of one app that may wait for the writer. An app that prints faster than the disk takes
/// is held up at its intake (its dynos' rings then hold the lines); while nothing can be written, lines over it are lost and counted.
pub const MAX_PENDING_BYTES: usize = 8 * 1024 * 1024;

/// How long intake waits for the writer when so much is pending; more means that the disk hangs.
const MAX_HELD_UP: Duration = Duration::from_secs(1);

/// Lines that have come in.
#[derive(Debug, Default)]
pub struct Intake {
    pub blocks: VecDeque<Block>,
    pending_bytes: usize,
    next_cursor: u64,
    seen: HashMap<Key, Seen>,
    /// The writer knows that there is something.
    pub queued: bool,
    /// The last write failed.
    pub failing: bool,
    /// Lines that were lost since the last time that the loss was told, and the time of the first.
    pub lost: u64,
    pub lost_since_us: i64,
    pub removed: bool,
}

/// Readers, and up to where they were served.
#[derive(Debug, Default)]
pub struct Readers {
    pub published_through: u64,
    pub subscribers: Vec<Weak<Subscriber>>,
}

/// One app's log.
#[derive(Debug)]
pub struct AppLog {
    pub app_id: AppId,
    pub folder: PathBuf,
    files: Mutex<Segments>,
    intake: Mutex<Intake>,
    room: Condvar,
    readers: Mutex<Readers>,
}

/// What became of an appended line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It waits for the writer.
    New,
    /// It is there already, or its app is gone.
    Known,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AppLog {
    /// Opens what there is in `folder`; makes nothing.
    ///
    /// # Errors
    /// The folder or a segment cannot be read.
    pub fn open(app_id: AppId, folder: PathBuf) -> Result<Self> {
        let segments = Segments::open(folder.clone())?;
        let intake = Intake {
            next_cursor: segments.first_free_cursor(),
            seen: segments.seen().clone(),
            ..Intake::default()
        };
        let readers = Readers { published_through: segments.last_cursor(), ..Readers::default() };
        Ok(Self {
            app_id,
            folder,
            files: Mutex::new(segments),
            intake: Mutex::new(intake),
            room: Condvar::new(),
            readers: Mutex::new(readers),
        })
    }

    /// Takes in a line; with a key, only when its sequence is higher than the key's last.
    pub fn append(self: &Arc<Self>, work: &Work, key: Option<(&Key, u64)>, line: &LogLine) -> Appended {
        let mut intake = lock(&self.intake);
        if intake.pending_bytes > MAX_PENDING_BYTES && !intake.failing {
            let waited = self.room.wait_timeout_while(intake, MAX_HELD_UP, |intake| {
                intake.pending_bytes > MAX_PENDING_BYTES && !intake.failing && !intake.removed
            });
            intake = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if intake.removed {
            return Appended::Known;
        }
        if let Some((key, sequence)) = key
            && intake.seen.get(key).is_some_and(|seen| seen.sequence >= sequence)
        {
            return Appended::Known;
        }
        if intake.pending_bytes > MAX_PENDING_BYTES {
            if intake.lost == 0 {
                intake.lost_since_us = line.at_us;
            }
            intake.lost += 1;
        } else {
            intake.take_in(key, line);
        }
        // Under the lock: who sees `queued` set may rely on it that the writer knows.
        if !intake.queued && !intake.blocks.is_empty() {
            intake.queued = true;
            work.wake(self.clone());
        }
        Appended::New
    }

    /// Writes what is pending and gives it to the readers. The writer's thread only.
    ///
    /// # Errors
    /// What could not be written waits for the next try.
    pub fn write_pending(&self) -> Result<()> {
        let mut files = lock(&self.files);
        let mut blocks = {
            let mut intake = lock(&self.intake);
            intake.queued = false;
            std::mem::take(&mut intake.blocks)
        };
        while let Some(block) = blocks.pop_front() {
            if let Err(error) = files.append(&block) {
                blocks.push_front(block);
                let mut intake = lock(&self.intake);
                blocks.append(&mut intake.blocks);
                intake.blocks = blocks;
                intake.failing = true;
                self.room.notify_all();
                return Err(error);
            }
            self.publish(&block);
            let mut intake = lock(&self.intake);
            intake.pending_bytes -= block.bytes.len();
            intake.failing = false;
            self.room.notify_all();
        }
        Ok(())
    }

    fn publish(&self, block: &Block) {
        let mut readers = lock(&self.readers);
        readers.published_through = block.last_cursor;
        readers.subscribers.retain(|subscriber| {
            let Some(subscriber) = subscriber.upgrade() else { return false };
            let mut lines = Vec::new();
            segment::for_each_message(&block.bytes, |message| {
                segment::push_lines(&mut lines, message, 0, u64::MAX, &subscriber.filter);
            });
            if !lines.is_empty() {
                subscriber.push(lines);
            }
            true
        });
    }

    /// Adds a reader; it gets every line behind the returned cursor, and those up to it are in the files.
    ///
    /// # Errors
    /// The app is gone.
    pub fn subscribe(&self, filter: Filter) -> Result<(Arc<Subscriber>, u64)> {
        let subscriber = Arc::new(Subscriber::new(filter));
        let through = {
            let mut readers = lock(&self.readers);
            readers.subscribers.push(Arc::downgrade(&subscriber));
            readers.published_through
        };
        // Looked at last: whoever removes the app from here on finds the reader and closes it.
        if lock(&self.intake).removed {
            return Err(LogplexError::Removed { app_id: self.app_id });
        }
        Ok((subscriber, through))
    }

    /// Cursor of the last line that readers may see.
    pub fn published_through(&self) -> u64 {
        lock(&self.readers).published_through
    }

    /// The last sequence that came in under a key.
    pub fn last_sequence(&self, key: &Key) -> Option<u64> {
        lock(&self.intake).seen.get(key).map(|seen| seen.sequence)
    }

    /// Lines that were lost and not told of yet, and the time of the first; none while writes fail.
    pub fn take_lost(&self) -> Option<(u64, i64)> {
        let mut intake = lock(&self.intake);
        (!intake.failing && intake.lost > 0).then(|| (std::mem::take(&mut intake.lost), intake.lost_since_us))
    }

    /// Puts what is written on the disk, then deletes segments that are too old. May take long; holds up no intake.
    ///
    /// # Errors
    /// It is tried again at the next call.
    pub fn sync(&self) -> std::io::Result<()> {
        let unsynced = lock(&self.files).take_unsynced();
        match unsynced.sync() {
            Ok(()) => lock(&self.files).prune(),
            Err(error) => {
                lock(&self.files).still_unsynced(unsynced);
                if lock(&self.intake).removed {
                    return Ok(());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends every session of a reader.
    pub fn close_readers(&self) {
        for subscriber in std::mem::take(&mut lock(&self.readers).subscribers) {
            if let Some(subscriber) = subscriber.upgrade() {
                subscriber.close();
            }
        }
    }

    /// Forgets what is pending, ends the readers and deletes the files.
    ///
    /// # Errors
    /// The files cannot be deleted.
    pub fn remove(&self) -> Result<()> {
        let _files = lock(&self.files);
        {
            let mut intake = lock(&self.intake);
            intake.removed = true;
            intake.blocks.clear();
            intake.pending_bytes = 0;
            self.room.notify_all();
        }
        self.close_readers();
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LogplexError::Remove { path: self.folder.clone(), source: error })
            }
            _ => Ok(()),
        }
    }
}

impl Intake {
    fn take_in(&mut self, key: Option<(&Key, u64)>, line: &LogLine) {
        let text = normalise(&line.message);
        let lines = split(&text).count() as u64;
        let cursor = self.next_cursor;
        let last_cursor = cursor + lines - 1;
        self.next_cursor += lines;
        if self.blocks.back().is_none_or(|block| block.bytes.len() >= BLOCK_BYTES) {
            self.blocks.push_back(Block { first_cursor: cursor, ..Block::default() });
        }
        let block = self.blocks.back_mut().expect("there is one, or it was just made");
        let before = block.bytes.len();
        let message = Message {
            cursor,
            at_us: line.at_us,
            key: key.map(|(key, sequence)| (key.as_bytes(), sequence)),
            source: cut(&line.source),
            process: cut(&line.process),
            text: &text,
        };
        record::encode_message(&mut block.bytes, &message);
        self.pending_bytes += block.bytes.len() - before;
        block.lines += lines;
        block.last_cursor = last_cursor;
        if let Some((key, sequence)) = key {
            let now = Seen { sequence, cursor: last_cursor };
            match block.seen.iter_mut().find(|(seen, _)| seen == key) {
                Some((_, seen)) => *seen = now,
                None => block.seen.push((key.clone(), now)),
            }
            match self.seen.get_mut(key) {
                Some(seen) => *seen = now,
                None => {
                    self.seen.insert(key.clone(), now);
                    self.forget_old_dynos();
                }
            }
        }
    }

    /// The same rule as in the files, applied with some slack so that it is seldom work.
    fn forget_old_dynos(&mut self) {
        if self.seen.len() > 2 * segment::MAX_DYNO_KEYS + 64 {
            segment::forget_old_dynos(&mut self.seen);
        }
    }
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME_BYTES)]
}
