//! The digest of a tree, and what its archive will come to.

use super::walk::{Entry, Kind, Purpose, open_below};
use super::{SealError, io};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Read at once when hashing, in bytes.
const CHUNK_BYTES: usize = 128 * 1024;
/// One chunk in so many is compressed to estimate the archive's size.
const SAMPLE_EVERY: u64 = 8;
/// Compression level of the estimate; the archive's own is the same or better.
const SAMPLE_LEVEL: i32 = 3;
/// A sample of this size, in bytes, is compressed at once instead of growing with its file.
const MAX_PENDING_BYTES: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct Sample {
    /// Not yet compressed: the samples of neighbouring files together, as the archive has them.
    pending: Vec<u8>,
    read_bytes: u64,
    compressed_bytes: u64,
}

pub(super) type FileDigest = [u8; 32];

/// Normalises and hashes every file, by so many threads. Digests are in the order of `entries`; zeros for others.
pub(super) fn hash_files(
    top: BorrowedFd<'_>,
    entries: &[Entry],
    workers: usize,
    purpose: Purpose,
) -> Result<(Vec<FileDigest>, Sample), SealError> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<SealError>> = Mutex::new(None);
    let work = || {
        if purpose == Purpose::Reread {
            // This thread's alone, on Linux. One that is not nice hashes as well.
            let _ = rustix::process::setpriority_process(None, 19);
        }
        let mut done = Vec::new();
        let mut sample = Sample::default();
        let mut buffer = vec![0u8; CHUNK_BYTES];
        // Taken in runs of 32: neighbours are in the same folder.
        loop {
            let start = next.fetch_add(32, Ordering::Relaxed);
            if start >= entries.len() || failure.lock().is_ok_and(|failure| failure.is_some()) {
                sample.compress();
                return (done, sample);
            }
            sample.compress();
            for (index, entry) in entries.iter().enumerate().skip(start).take(32) {
                let Kind::File { .. } = entry.kind else { continue };
                match hash_file(top, entry, purpose, &mut buffer, &mut sample) {
                    Ok(digest) => done.push((index, digest)),
                    Err(error) => {
                        if let Ok(mut failure) = failure.lock() {
                            failure.get_or_insert(error);
                        }
                        return (done, sample);
                    }
                }
            }
        }
    };
    let mut digests = vec![[0u8; 32]; entries.len()];
    let mut total = Sample::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let (done, sample) = thread.join().expect("hashing does not panic");
            for (index, digest) in done {
                digests[index] = digest;
            }
            total.read_bytes += sample.read_bytes;
            total.compressed_bytes += sample.compressed_bytes;
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok((digests, total)),
    }
}

fn hash_file(
    top: BorrowedFd<'_>,
    entry: &Entry,
    purpose: Purpose,
    buffer: &mut [u8],
    sample: &mut Sample,
) -> Result<FileDigest, SealError> {
    let file = open_below(top, &entry.path, OFlags::empty()).map_err(io("open", &entry.path))?;
    let status = rustix::fs::fstat(&file).map_err(io("read", &entry.path))?;
    let size = status.st_size.cast_unsigned();
    purpose.normalise(file.as_fd(), &status, &entry.path)?;
    let mut hasher = Sha256::new();
    let mut chunk: u64 = 0;
    loop {
        let count = rustix::io::read(&file, &mut *buffer).map_err(io("read", &entry.path))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        if (size + chunk).is_multiple_of(SAMPLE_EVERY) {
            sample.add(&buffer[..count]);
        }
        chunk += 1;
        if count < buffer.len() && (chunk - 1) * CHUNK_BYTES as u64 + count as u64 >= size {
            break;
        }
    }
    Ok(hasher.finalize().into())
}

/// The tree's digest. Numbers are little-endian u64; paths and targets have their length before them.
pub(super) fn combine(entries: &[Entry], digests: &[FileDigest]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"ferroku slug 1\n");
    let text = |hasher: &mut Sha256, bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (entry, digest) in entries.iter().zip(digests) {
        let kind = match entry.kind {
            Kind::Folder => b'd',
            Kind::File { .. } => b'f',
            Kind::Link { .. } => b'l',
        };
        hasher.update([kind]);
        text(&mut hasher, entry.path.as_bytes());
        match &entry.kind {
            Kind::Folder => hasher.update(u64::from(entry.mode).to_le_bytes()),
            Kind::File { size, .. } => {
                hasher.update(u64::from(entry.mode).to_le_bytes());
                hasher.update(size.to_le_bytes());
                hasher.update(digest);
            }
            Kind::Link { target } => text(&mut hasher, target),
        }
    }
    hex::encode(hasher.finalize())
}

impl Sample {
    fn add(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() > MAX_PENDING_BYTES {
            self.compress();
        }
    }

    /// Compresses what is pending. Called at fixed places of the tree, so that a rebuild prints the same size.
    fn compress(&mut self) {
        if let Ok(compressed) = zstd::bulk::compress(&self.pending, SAMPLE_LEVEL) {
            self.read_bytes += self.pending.len() as u64;
            self.compressed_bytes += compressed.len() as u64;
        }
        self.pending.clear();
    }

    /// The sampled ratio applied to `total_bytes`; the whole where there is no sample.
    pub(super) fn scale(&self, total_bytes: u64) -> u64 {
        if self.read_bytes == 0 {
            return total_bytes;
        }
        let scaled =
            u128::from(total_bytes) * u128::from(self.compressed_bytes) / u128::from(self.read_bytes);
        u64::try_from(scaled).unwrap_or(total_bytes)
    }
}
