//! Request records until control has them on disk.
//!
//! In: what the workers recorded. Out: frames, sent again after every reconnect until acknowledged. What a
//! router leaves behind unacknowledged lies in `records-INSTANCE.json` in its state folder, and whichever
//! router runs then sends it on under the same instance and sequences.
//!
//! Invariant: a record is forgotten only when acknowledged, or when the limit is reached, which is counted.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ferroku_core::protocol::router::{Acknowledge, RequestLog, RequestRecord};

use crate::disk;
use crate::exchange::PendingRecord;
use crate::limits::{REQUEST_RECORDS_LIMIT_BYTES, REQUEST_RECORDS_PER_FRAME};

/// What the id and the numbers of one record take in memory beside its text, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// The records of this router, and of those before it.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    next_sequence: u64,
    /// This router's own first.
    queues: Vec<Queue>,
}

#[derive(Debug)]
struct Queue {
    instance: u64,
    records: VecDeque<RequestRecord>,
    /// How many at the front are on their way to control.
    sent: usize,
    bytes: usize,
    dropped: u64,
    file: Option<PathBuf>,
}

impl Outbox {
    /// For the router run `instance`. Sequences start there too, so that they rise over restarts.
    pub fn new(folder: PathBuf, instance: u64) -> Self {
        Self { folder, next_sequence: instance, queues: vec![Queue::new(instance, None)] }
    }

    /// Takes in what the workers recorded.
    pub fn push(&mut self, records: Vec<PendingRecord>) {
        let queue = &mut self.queues[0];
        for PendingRecord { app_id, at_us, line, .. } in records {
            self.next_sequence += 1;
            queue.bytes += line.capacity() + RECORD_OVERHEAD_BYTES;
            queue.records.push_back(RequestRecord { sequence: self.next_sequence, app_id, at_us, line });
            while queue.bytes > REQUEST_RECORDS_LIMIT_BYTES {
                queue.pop();
                queue.dropped += 1;
            }
        }
    }

    /// Adds what routers before this one left behind.
    pub fn adopt_leftovers(&mut self) {
        for (path, log) in disk::leftover_records(&self.folder) {
            if self.queues.iter().any(|queue| queue.instance == log.instance) {
                continue;
            }
            let mut queue = Queue::new(log.instance, Some(path));
            queue.dropped = log.dropped;
            queue.bytes =
                log.records.iter().map(|record| record.line.capacity() + RECORD_OVERHEAD_BYTES).sum();
            queue.records = log.records.into();
            self.queues.push(queue);
        }
    }

    /// The next records that are not on their way yet.
    pub fn next_batch(&mut self) -> Option<RequestLog> {
        let queue = self.queues.iter_mut().find(|queue| queue.sent < queue.records.len())?;
        let records: Vec<_> =
            queue.records.iter().skip(queue.sent).take(REQUEST_RECORDS_PER_FRAME).cloned().collect();
        queue.sent += records.len();
        Some(RequestLog { instance: queue.instance, records, dropped: queue.dropped })
    }

    pub fn has_unsent(&self) -> bool {
        self.queues.iter().any(|queue| queue.sent < queue.records.len())
    }

    pub fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.records.is_empty())
    }

    /// Everything is to be sent again: there is a new connection.
    pub fn start_over(&mut self) {
        for queue in &mut self.queues {
            queue.sent = 0;
        }
    }

    /// Forgets what control has on disk.
    pub fn acknowledge(&mut self, acknowledge: Acknowledge) {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.instance == acknowledge.instance) else {
            return;
        };
        while queue.records.front().is_some_and(|record| record.sequence <= acknowledge.sequence) {
            queue.pop();
        }
        self.queues.retain(|queue| match &queue.file {
            Some(file) if queue.records.is_empty() => {
                let _ = fs::remove_file(file);
                false
            }
            _ => true,
        });
    }

    /// Leaves this router's own records on disk for the next one.
    ///
    /// # Errors
    /// The state folder cannot be written; the records are lost.
    pub fn leave_behind(&mut self) -> io::Result<()> {
        let queue = &mut self.queues[0];
        if queue.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut queue.records).into();
        let log = RequestLog { instance: queue.instance, records, dropped: queue.dropped };
        disk::write_records(&self.folder, &log)
    }
}

impl Queue {
    fn new(instance: u64, file: Option<PathBuf>) -> Self {
        Self { instance, records: VecDeque::new(), sent: 0, bytes: 0, dropped: 0, file }
    }

    fn pop(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.line.capacity() + RECORD_OVERHEAD_BYTES;
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

/// Where the folder's records of `instance` lie.
pub fn records_path(folder: &Path, instance: u64) -> PathBuf {
    folder.join(format!("records-{instance}.json"))
}

#[cfg(test)]
mod tests {
    use ferroku_core::AppId;
    use uuid::Uuid;

    use super::*;

    fn pending(line: &str) -> PendingRecord {
        PendingRecord {
            app_id: AppId(Uuid::nil()),
            at_us: 1,
            line: line.into(),
            sample: crate::metrics::Sample::default(),
        }
    }

    fn lines(log: Option<RequestLog>) -> Vec<String> {
        log.map(|log| log.records.into_iter().map(|record| record.line).collect()).unwrap_or_default()
    }

    #[test]
    fn records_are_sent_again_until_acknowledged_and_survive_the_router() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::new(folder.path().into(), 100);
        outbox.push(vec![pending("a"), pending("b"), pending("c")]);
        assert_eq!(lines(outbox.next_batch()), ["a", "b", "c"]);
        assert!(outbox.next_batch().is_none());
        outbox.acknowledge(Acknowledge { instance: 100, sequence: 101 });
        outbox.push(vec![pending("d")]);
        assert_eq!(lines(outbox.next_batch()), ["d"], "what is on its way is not sent twice");
        outbox.start_over();
        assert_eq!(lines(outbox.next_batch()), ["b", "c", "d"]);
        outbox.leave_behind().unwrap();

        let mut next = Outbox::new(folder.path().into(), 200);
        next.push(vec![pending("e")]);
        next.adopt_leftovers();
        next.adopt_leftovers();
        assert_eq!(lines(next.next_batch()), ["e"]);
        let leftover = next.next_batch().unwrap();
        assert_eq!((leftover.instance, leftover.records[0].sequence), (100, 102));
        next.acknowledge(Acknowledge { instance: 100, sequence: 104 });
        next.acknowledge(Acknowledge { instance: 200, sequence: 201 });
        assert!(next.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "acknowledged files are removed");
    }

    #[test]
    fn over_the_limit_the_oldest_are_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::new(folder.path().into(), 1);
        let line = "x".repeat(1024 * 1024 - RECORD_OVERHEAD_BYTES);
        outbox.push((0..10).map(|_| pending(&line)).collect());
        let batch = outbox.next_batch().unwrap();
        assert_eq!((batch.dropped, batch.records.len(), batch.records[0].sequence), (2, 8, 4));
    }
}
