//! The log ring of a dyno: numbered lines in a file of fixed size, oldest overwritten first.
//!
//! Layout: a head of 4 KiB (8 bytes magic, u64 acknowledged sequence), then two halves of 2 MiB. A half is
//! filled from its start with records `u32 length | payload` (payload: as in `core::protocol::dyno`'s log
//! frame) and a zero length behind the last. A full half makes the writer go on in the other one,
//! whose lines are forgotten. So between 2 and 4 MiB of lines are kept.
//!
//! Invariant: sequences rise by one from record to record; a reader takes the first one that does not as
//! the end of a half. Nothing is kept in memory but offsets: dyno-init has to stay small.

use ferroku_core::protocol::dyno::FromDynoInit;
use ferroku_core::protocol::dyno::{LOG_HEAD_BYTES, decode_log};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const MAGIC: &[u8; 8] = b"FKRING01";
const HEAD_BYTES: u64 = 4096;
/// Half of the 4 MiB that a dyno may have in unacknowledged lines: minutes of a busy app while control restarts.
const HALF_BYTES: u64 = 2 * 1024 * 1024;
const LENGTH_BYTES: usize = 4;

/// A ring open for writing, with one reader's place.
#[derive(Debug)]
pub struct Ring {
    file: File,
    half_bytes: u64,
    current: usize,
    /// Where the current half ends.
    offset: u64,
    /// First sequence of each half; 0: nothing in it.
    first: [u64; 2],
    next_sequence: u64,
    acknowledged: u64,
    reader: Reader,
    dropped: u64,
    /// Lines that found no room on the disk, and the first line that came after them: once that is acknowledged, so is
    /// their number, which was told before it.
    unwritten: u64,
    after_unwritten: u64,
    /// No line will be appended any more.
    finished: bool,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    half: usize,
    offset: u64,
    next_sequence: u64,
}

/// What the reader gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many lines were overwritten before they were read.
    Dropped(u64),
    /// Whole records, one after the other, each behind its length.
    Records(Vec<u8>),
    /// Nothing new.
    End,
}

impl Ring {
    /// Makes an empty ring.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::create_sized(path, HALF_BYTES)
    }

    fn create_sized(path: &Path, half_bytes: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all_at(MAGIC, 0)?;
        file.write_all_at(&0u64.to_le_bytes(), 8)?;
        Ok(Self {
            file,
            half_bytes,
            current: 0,
            offset: 0,
            first: [0; 2],
            next_sequence: 1,
            acknowledged: 0,
            reader: Reader { half: 0, offset: 0, next_sequence: 1 },
            dropped: 0,
            unwritten: 0,
            after_unwritten: 0,
            finished: false,
        })
    }

    /// Adds a line. When the disk is full, the line is dropped and counted: the dyno must not wait.
    pub fn append(&mut self, at_us: i64, stream: u8, line: &[u8]) {
        let length = LOG_HEAD_BYTES + line.len();
        let mut record = Vec::with_capacity(LENGTH_BYTES + length + LENGTH_BYTES);
        record.extend_from_slice(&(length as u32).to_le_bytes());
        record.extend_from_slice(&self.next_sequence.to_le_bytes());
        record.extend_from_slice(&at_us.to_le_bytes());
        record.push(stream);
        record.extend_from_slice(line);
        record.extend_from_slice(&0u32.to_le_bytes());
        if self.offset + record.len() as u64 > self.half_bytes {
            self.switch();
        }
        if self.file.write_all_at(&record, self.position(self.current, self.offset)).is_err() {
            self.dropped += 1;
            self.unwritten += 1;
            self.after_unwritten = self.next_sequence;
            return;
        }
        if self.first[self.current] == 0 {
            self.first[self.current] = self.next_sequence;
        }
        self.offset += (record.len() - LENGTH_BYTES) as u64;
        self.next_sequence += 1;
    }

    /// The dyno has ended: what was not told yet is told now.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether the number of lines that are lost is to be told now. While the disk is full it rises with each line, and
    /// is told once there is room again.
    fn tells_dropped(&self) -> bool {
        let disk_is_full = self.unwritten > 0 && self.after_unwritten == self.next_sequence;
        self.dropped > 0 && (!disk_is_full || self.finished)
    }

    fn switch(&mut self) {
        let full = self.current;
        self.current = 1 - full;
        if self.reader.half == self.current {
            // The reader had not even finished the half that is overwritten now.
            self.dropped += self.first[full].saturating_sub(self.reader.next_sequence);
            self.reader = Reader { half: full, offset: 0, next_sequence: self.first[full] };
        }
        self.first[self.current] = 0;
        self.offset = 0;
    }

    fn position(&self, half: usize, offset: u64) -> u64 {
        HEAD_BYTES + half as u64 * self.half_bytes + offset
    }

    /// Everything up to `sequence` need not be read again after [`Ring::rewind`].
    pub fn acknowledge(&mut self, sequence: u64) {
        if sequence > self.acknowledged && sequence < self.next_sequence {
            self.acknowledged = sequence;
            if sequence >= self.after_unwritten {
                self.unwritten = 0;
            }
            // A later acknowledgement, or a line sent twice, makes up for a failure here.
            let _ = self.file.write_all_at(&sequence.to_le_bytes(), 8);
        }
    }

    /// Puts the reader behind the last acknowledged line, or at the oldest that is left.
    pub fn rewind(&mut self) {
        let other = 1 - self.current;
        let oldest = if self.first[other] != 0 { other } else { self.current };
        let start = if self.first[oldest] == 0 { self.next_sequence } else { self.first[oldest] };
        self.dropped = start.saturating_sub(self.acknowledged + 1) + self.unwritten;
        self.reader = Reader { half: oldest, offset: 0, next_sequence: start };
        while self.reader.next_sequence <= self.acknowledged {
            let Some(length) = self.record_length() else { return };
            self.reader.offset += (LENGTH_BYTES + length) as u64;
            self.reader.next_sequence += 1;
        }
    }

    /// Length of the record at the reader's place, moving on to the other half when one has ended.
    fn record_length(&mut self) -> Option<usize> {
        if self.reader.next_sequence >= self.next_sequence {
            return None;
        }
        let mut length = [0; LENGTH_BYTES];
        for _ in 0..2 {
            let ended = self.reader.half != self.current
                && self.first[self.current] != 0
                && self.reader.next_sequence >= self.first[self.current];
            if ended {
                self.reader.half = self.current;
                self.reader.offset = 0;
            }
            self.file.read_exact_at(&mut length, self.position(self.reader.half, self.reader.offset)).ok()?;
            if length != [0; LENGTH_BYTES] {
                return Some(u32::from_le_bytes(length) as usize);
            }
        }
        None
    }

    /// What comes next, about `limit_bytes` of it.
    pub fn read(&mut self, limit_bytes: usize) -> Read {
        if self.tells_dropped() {
            return Read::Dropped(std::mem::take(&mut self.dropped));
        }
        let mut records = Vec::new();
        while records.len() < limit_bytes {
            let Some(length) = self.record_length() else { break };
            let start = records.len();
            records.resize(start + LENGTH_BYTES + length, 0);
            let position = self.position(self.reader.half, self.reader.offset);
            if self.file.read_exact_at(&mut records[start..], position).is_err() {
                records.truncate(start);
                break;
            }
            self.reader.offset += (LENGTH_BYTES + length) as u64;
            self.reader.next_sequence += 1;
        }
        if records.is_empty() { Read::End } else { Read::Records(records) }
    }

    /// Whether the reader has everything.
    pub fn is_read(&self) -> bool {
        !self.tells_dropped() && self.reader.next_sequence == self.next_sequence
    }
}

/// The lines after the acknowledged ones in the ring of a dyno-init that is no more, oldest first.
///
/// # Errors
/// The file cannot be read.
pub fn salvage(path: &Path) -> io::Result<Vec<FromDynoInit>> {
    let bytes = std::fs::read(path)?;
    Ok(salvage_bytes(&bytes, HALF_BYTES as usize))
}

fn salvage_bytes(bytes: &[u8], half_bytes: usize) -> Vec<FromDynoInit> {
    let Some((head, body)) = bytes.split_at_checked(HEAD_BYTES as usize) else { return Vec::new() };
    if &head[..8] != MAGIC {
        return Vec::new();
    }
    let acknowledged = head[8..16].try_into().map_or(0, u64::from_le_bytes);
    let sequence_of = |line: &FromDynoInit| match line {
        FromDynoInit::Log { sequence, .. } => *sequence,
        _ => 0,
    };
    let mut halves: Vec<Vec<FromDynoInit>> = body
        .chunks(half_bytes)
        .map(|mut half| {
            let mut lines: Vec<FromDynoInit> = Vec::new();
            while let Some((length, rest)) = half.split_first_chunk::<LENGTH_BYTES>() {
                let Some((record, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
                    break;
                };
                let Some(line) = decode_log(record) else { break };
                if lines.last().is_some_and(|last| sequence_of(&line) != sequence_of(last) + 1) {
                    break;
                }
                lines.push(line);
                half = rest;
            }
            lines
        })
        .collect();
    halves.sort_by_key(|half| half.first().map_or(0, sequence_of));
    halves.into_iter().flatten().filter(|line| sequence_of(line) > acknowledged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(ring: &mut Ring) -> (u64, Vec<u64>) {
        let (mut dropped, mut found) = (0, Vec::new());
        loop {
            match ring.read(64) {
                Read::Dropped(count) => dropped += count,
                Read::Records(bytes) => {
                    let mut rest = &bytes[..];
                    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                        let (record, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
                        found.push(u64::from_le_bytes(record[..8].try_into().expect("8 bytes")));
                        rest = tail;
                    }
                }
                Read::End => return (dropped, found),
            }
        }
    }

    fn numbers(lines: &[FromDynoInit]) -> Vec<u64> {
        lines
            .iter()
            .map(|line| match line {
                FromDynoInit::Log { sequence, line, .. } => {
                    assert_eq!(line, format!("line {sequence}").as_bytes());
                    *sequence
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// Whatever the mix of writing, reading, acknowledging and reconnecting: lines come in order, none twice
    /// without a rewind, and lines read + lines told as dropped = lines written.
    #[test]
    fn nothing_is_lost_without_being_counted() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for half_bytes in [100, 256, 1000] {
            for read_every in [1, 3, 7, 50] {
                let path = folder.path().join("ring");
                let mut ring = Ring::create_sized(&path, half_bytes).expect("creates");
                let (mut dropped, mut read) = (0, Vec::new());
                for number in 1..=200u64 {
                    ring.append(number as i64, 1, format!("line {number}").as_bytes());
                    if number % read_every == 0 {
                        let (lost, found) = sequences(&mut ring);
                        dropped += lost;
                        read.extend(found);
                    }
                }
                let (lost, found) = sequences(&mut ring);
                read.extend(found);
                assert_eq!(dropped + lost + read.len() as u64, 200, "half {half_bytes}, every {read_every}");
                assert!(read.is_sorted_by(|a, b| a < b));
                assert_eq!(read.last(), Some(&200));
                assert!(ring.is_read());
            }
        }
    }

    #[test]
    fn lines_without_room_on_the_disk_are_counted_until_that_is_acknowledged() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("ring");
        let mut ring = Ring::create_sized(&path, 1000).expect("creates");
        ring.append(0, 1, b"line 1");
        let writable = std::mem::replace(&mut ring.file, File::open(&path).expect("opens"));
        ring.append(0, 1, b"lost");
        ring.append(0, 1, b"lost");
        assert_eq!(sequences(&mut ring), (0, vec![1]), "more may follow");
        assert!(ring.is_read());
        ring.file = writable;
        ring.append(0, 1, b"line 2");
        assert!(!ring.is_read());
        assert_eq!(sequences(&mut ring), (2, vec![2]));
        ring.acknowledge(1);
        ring.rewind();
        assert_eq!(sequences(&mut ring), (2, vec![2]), "whoever was told may have died of it");
        ring.acknowledge(2);
        ring.rewind();
        assert_eq!(sequences(&mut ring), (0, vec![]));
        ring.file = File::open(&path).expect("opens");
        ring.append(0, 1, b"lost");
        ring.finish();
        assert_eq!(sequences(&mut ring), (1, vec![]), "nothing follows");
        assert!(ring.is_read());
    }

    #[test]
    fn a_new_reader_gets_what_was_not_acknowledged() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("ring");
        let mut ring = Ring::create_sized(&path, 400).expect("creates");
        for number in 1..=20u64 {
            ring.append(0, 1, format!("line {number}").as_bytes());
        }
        sequences(&mut ring);
        ring.acknowledge(15);
        ring.rewind();
        assert_eq!(sequences(&mut ring), (0, vec![16, 17, 18, 19, 20]));
        let kept = salvage_bytes(&std::fs::read(&path).expect("reads"), 400);
        assert_eq!(numbers(&kept), [16, 17, 18, 19, 20]);
        ring.acknowledge(20);
        ring.rewind();
        assert_eq!(sequences(&mut ring), (0, vec![]));
        assert!(salvage_bytes(&std::fs::read(&path).expect("reads"), 400).is_empty());
        // Nobody reads for long: the oldest go, and a new reader is told how many.
        for number in 21..=100u64 {
            ring.append(0, 1, format!("line {number}").as_bytes());
        }
        ring.rewind();
        let (dropped, found) = sequences(&mut ring);
        assert_eq!(dropped + found.len() as u64, 80);
        assert_eq!(found.last(), Some(&100));
        let kept = salvage_bytes(&std::fs::read(&path).expect("reads"), 400);
        assert_eq!(numbers(&kept), found);
    }
}
