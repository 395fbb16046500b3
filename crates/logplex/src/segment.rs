//! The segment files of one app: `DIR/logs/<app-id>/<cursor of the first line>.seg`.
//!
//! In: [`Block`]s of encoded records, appended in one `write` each; what is written survives a kill of this
//! process. Out: lines, read from the files. Only the newest segment is written to.
//!
//! Invariants: the records of all segments in the order of their names are the
//! app's lines in the order of their cursors; a segment's header says all that
//! the deleted segments before it would be needed for (the number of lines, the
//! last sequence of each key). A segment is deleted only once the newer ones
//! are on the disk, not merely written.

use crate::error::{LogplexError, Result};
use crate::line::{Filter, Key, Line, split};
use crate::record::{self, Header, Message, Record, Seen};
use ferroku_core::AppId;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines of an app that are always kept, as on Heroku; older ones go with their segment.
pub const HISTORY_LINES: u64 = 1_500;

/// Size in bytes at which a new segment is begun. An app's logs take at most
/// [`HISTORY_LINES`] of the longest lines and two segments: 17 MB; usually 2 MB.
pub const SEGMENT_BYTES: u64 = 1024 * 1024;

/// Dynos whose last sequence is remembered: the most recent ones. A dyno can only
/// resend what it printed since the last acknowledgement, so it is among them.
pub const MAX_DYNO_KEYS: usize = 1_024;

/// Bits of a cursor that count lines; those above count the times that the app's
/// log was opened. So no cursor is given out twice, even when a power cut took the last lines.
const COUNT_BITS: u32 = 40;

const SUFFIX: &str = "seg";

/// Records on their way to the disk.
#[derive(Debug, Default)]
pub struct Block {
    pub bytes: Vec<u8>,
    pub lines: u64,
    pub first_cursor: u64,
    pub last_cursor: u64,
    /// The last sequence of each key in it.
    pub seen: Vec<(Key, Seen)>,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    first_cursor: u64,
    lines_before: u64,
}

#[derive(Debug)]
struct Active {
    file: Arc<File>,
    path: PathBuf,
    /// Length up to which the records are whole.
    length: u64,
    /// A failed write may have left bytes behind `length`.
    torn: bool,
}

/// The files of one app, as their one writer sees them.
#[derive(Debug)]
pub struct Segments {
    folder: PathBuf,
    list: VecDeque<Segment>,
    active: Option<Active>,
    lines_total: u64,
    last_cursor: u64,
    seen: HashMap<Key, Seen>,
    unsynced: Vec<Arc<File>>,
    folder_unsynced: bool,
}

/// Files with bytes that are written but perhaps not on the disk.
#[derive(Debug)]
pub struct Unsynced {
    files: Vec<Arc<File>>,
    folder: Option<PathBuf>,
}

impl Unsynced {
    /// Puts them on the disk.
    ///
    /// # Errors
    /// The first that failed.
    pub fn sync(&self) -> std::io::Result<()> {
        for file in &self.files {
            file.sync_data()?;
        }
        if let Some(folder) = &self.folder {
            File::open(folder)?.sync_all()?;
            if let Some(parent) = folder.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(())
    }
}

impl Segments {
    /// Finds what an earlier process left in `folder` (which need not exist), and cuts off a torn end.
    ///
    /// # Errors
    /// The folder or a segment cannot be read or cut.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let mut segments = Self {
            list: VecDeque::new(),
            active: None,
            lines_total: 0,
            last_cursor: 0,
            seen: HashMap::new(),
            unsynced: Vec::new(),
            folder_unsynced: false,
            folder,
        };
        for first_cursor in list(&segments.folder)?.into_iter().rev() {
            let path = path_of(&segments.folder, first_cursor);
            let bytes = read(&path)?;
            let Some((Record::Header(header), header_length)) = record::decode(&bytes) else {
                // Made, but nothing in it was acknowledged: the crash came before its header was whole.
                tracing::warn!(path = %path.display(), "removing a log segment without a whole header");
                fs::remove_file(&path).map_err(|source| LogplexError::Remove { path, source })?;
                continue;
            };
            segments.list.push_front(Segment { first_cursor, lines_before: header.lines_before });
            if segments.active.is_none() {
                segments.recover(path, &bytes, header, header_length)?;
            }
        }
        Ok(segments)
    }

    fn recover(&mut self, path: PathBuf, bytes: &[u8], header: Header, header_length: usize) -> Result<()> {
        self.lines_total = header.lines_before;
        self.last_cursor = header.last_cursor;
        self.seen = header.keys.into_iter().collect();
        let mut length = header_length;
        while let Some((Record::Message(message), record_length)) = record::decode(&bytes[length..]) {
            length += record_length;
            let lines = split(message.text).count() as u64;
            self.lines_total += lines;
            self.last_cursor = message.cursor + lines - 1;
            if let Some((key, sequence)) = message.key {
                self.seen.insert(Key::from_bytes(key), Seen { sequence, cursor: self.last_cursor });
            }
        }
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(|source| LogplexError::OpenSegment { path: path.clone(), source })?;
        if length < bytes.len() {
            tracing::info!(path = %path.display(), bytes = bytes.len() - length, "cutting off the torn end of a log segment");
            file.set_len(length as u64)
                .map_err(|source| LogplexError::WriteSegment { path: path.clone(), source })?;
        }
        self.active = Some(Active { file: Arc::new(file), path, length: length as u64, torn: false });
        Ok(())
    }

    /// The last sequence of each key that is written.
    pub fn seen(&self) -> &HashMap<Key, Seen> {
        &self.seen
    }

    /// Cursor of the last line that is written, 0 when there is none.
    pub fn last_cursor(&self) -> u64 {
        self.last_cursor
    }

    /// The first cursor that a process which opens these files now may give out.
    pub fn first_free_cursor(&self) -> u64 {
        (((self.last_cursor >> COUNT_BITS) + 1) << COUNT_BITS) + 1
    }

    /// Writes a block behind all others, in a new segment when the newest is full.
    ///
    /// # Errors
    /// Nothing of it is written; the same block may be tried again.
    pub fn append(&mut self, block: &Block) -> Result<()> {
        if self.active.as_ref().is_none_or(|active| active.length >= SEGMENT_BYTES) {
            self.begin_segment(block.first_cursor)?;
        }
        let active = self.active.as_mut().expect("a segment was just begun");
        let path = &active.path;
        let failed = |source| LogplexError::WriteSegment { path: path.clone(), source };
        if active.torn {
            active.file.set_len(active.length).map_err(failed)?;
            active.torn = false;
        }
        active.torn = true;
        (&*active.file).write_all(&block.bytes).map_err(failed)?;
        active.torn = false;
        active.length += block.bytes.len() as u64;
        if !self.unsynced.iter().any(|file| Arc::ptr_eq(file, &active.file)) {
            self.unsynced.push(active.file.clone());
        }
        self.lines_total += block.lines;
        self.last_cursor = block.last_cursor;
        self.seen.extend(block.seen.iter().cloned());
        Ok(())
    }

    fn begin_segment(&mut self, first_cursor: u64) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|source| LogplexError::MakeFolder { path: self.folder.clone(), source })?;
        let path = path_of(&self.folder, first_cursor);
        let open = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = open.map_err(|source| LogplexError::OpenSegment { path: path.clone(), source })?;
        forget_old_dynos(&mut self.seen);
        let header = Header {
            lines_before: self.lines_total,
            last_cursor: self.last_cursor,
            keys: self.seen.iter().map(|(key, seen)| (key.clone(), *seen)).collect(),
        };
        let mut bytes = Vec::new();
        record::encode_header(&mut bytes, &header);
        // A header that failed half-way is still there at the next try.
        if let Err(source) = file.set_len(0).and_then(|()| (&file).write_all(&bytes)) {
            return Err(LogplexError::WriteSegment { path, source });
        }
        self.list.push_back(Segment { first_cursor, lines_before: self.lines_total });
        self.folder_unsynced = true;
        self.active = Some(Active { file: Arc::new(file), path, length: bytes.len() as u64, torn: false });
        Ok(())
    }

    /// What is to be put on the disk; call [`Segments::prune`] once it is.
    pub fn take_unsynced(&mut self) -> Unsynced {
        let folder = std::mem::take(&mut self.folder_unsynced).then(|| self.folder.clone());
        Unsynced { files: std::mem::take(&mut self.unsynced), folder }
    }

    /// Gives back what could not be put on the disk.
    pub fn still_unsynced(&mut self, unsynced: Unsynced) {
        self.unsynced.extend(unsynced.files);
        self.folder_unsynced |= unsynced.folder.is_some();
    }

    /// Deletes the oldest segments that are not needed for the last [`HISTORY_LINES`]. Call it only
    /// once all segments are on the disk.
    pub fn prune(&mut self) {
        while let (Some(oldest), Some(next)) = (self.list.front(), self.list.get(1)) {
            if self.lines_total - next.lines_before < HISTORY_LINES {
                break;
            }
            let path = path_of(&self.folder, oldest.first_cursor);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot delete an old log segment");
                    break;
                }
                _ => self.list.pop_front(),
            };
        }
    }
}

/// Forgets the dynos beyond the [`MAX_DYNO_KEYS`] most recent.
pub fn forget_old_dynos(seen: &mut HashMap<Key, Seen>) {
    let mut cursors: Vec<u64> =
        seen.iter().filter(|(key, _)| key.is_dyno()).map(|(_, seen)| seen.cursor).collect();
    if cursors.len() > MAX_DYNO_KEYS {
        let first_kept = cursors.len() - MAX_DYNO_KEYS;
        let oldest_kept = *cursors.select_nth_unstable(first_kept).1;
        seen.retain(|key, seen| !key.is_dyno() || seen.cursor >= oldest_kept);
    }
}

/// The last `lines` lines in `folder` up to cursor `through` that pass the filter, oldest first.
///
/// # Errors
/// The folder or a segment cannot be read.
pub fn read_last(folder: &Path, through: u64, lines: usize, filter: &Filter) -> Result<Vec<Line>> {
    let mut parts: Vec<Vec<Line>> = Vec::new();
    let mut found = 0;
    for first_cursor in list(folder)?.into_iter().rev() {
        if found >= lines {
            break;
        }
        let bytes = read(&path_of(folder, first_cursor))?;
        let mut part = Vec::new();
        for_each_message(&bytes, |message| push_lines(&mut part, message, 0, through, filter));
        found += part.len();
        parts.push(part);
    }
    let mut all: Vec<Line> = parts.into_iter().rev().flatten().collect();
    all.drain(..all.len().saturating_sub(lines));
    Ok(all)
}

/// Lines between a cursor and the oldest that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    None,
    Lines(u64),
    /// Some, but the log was reopened since, so that their number is not known.
    Some,
}

/// All lines in `folder` behind cursor `after` and up to `through` that pass the filter, oldest first.
///
/// # Errors
/// The folder or a segment cannot be read.
pub fn read_after(folder: &Path, after: u64, through: u64, filter: &Filter) -> Result<(Vec<Line>, Missed)> {
    let mut lines = Vec::new();
    let names = list(folder)?;
    let mut missed = Missed::None;
    // The last segment that starts at or before the cursor is the first that can hold more.
    let start = names.iter().rposition(|first| *first <= after).unwrap_or(0);
    for (index, first_cursor) in names.iter().enumerate().skip(start) {
        let bytes = read(&path_of(folder, *first_cursor))?;
        if index == 0
            && let Some((Record::Header(header), _)) = record::decode(&bytes)
            && after < header.last_cursor
        {
            let same_run = after >> COUNT_BITS == header.last_cursor >> COUNT_BITS;
            missed = if same_run { Missed::Lines(header.last_cursor - after) } else { Missed::Some };
        }
        for_each_message(&bytes, |message| push_lines(&mut lines, message, after, through, filter));
    }
    Ok((lines, missed))
}

/// Calls `visit` with each message of a segment, or of a block, which has no header.
pub fn for_each_message<'a>(bytes: &'a [u8], mut visit: impl FnMut(Message<'a>)) {
    let mut rest = bytes;
    while let Some((decoded, length)) = record::decode(rest) {
        if let Record::Message(message) = decoded {
            visit(message);
        }
        rest = &rest[length..];
    }
}

/// Appends the lines of a message that are behind `after`, not behind `through`, and pass the filter.
pub fn push_lines(out: &mut Vec<Line>, message: Message<'_>, after: u64, through: u64, filter: &Filter) {
    if message.cursor > through || !filter.matches(message.source, message.process) {
        return;
    }
    for (cursor, text) in (message.cursor..).zip(split(message.text)) {
        if cursor > after {
            out.push(Line {
                cursor,
                at_us: message.at_us,
                source: message.source.to_owned(),
                process: message.process.to_owned(),
                message: text.to_owned(),
            });
        }
    }
}

/// Apps that have a folder in `logs`.
///
/// # Errors
/// The folder cannot be read.
pub fn apps(logs: &Path) -> Result<Vec<AppId>> {
    let failed = |source| LogplexError::ReadFolder { path: logs.to_owned(), source };
    let mut apps = Vec::new();
    for entry in fs::read_dir(logs).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        apps.extend(name.to_str().and_then(|name| name.parse::<AppId>().ok()));
    }
    Ok(apps)
}

fn path_of(folder: &Path, first_cursor: u64) -> PathBuf {
    folder.join(format!("{first_cursor:020}.{SUFFIX}"))
}

/// The cursors that the segments are named by, in order; none when there is no folder.
fn list(folder: &Path) -> Result<Vec<u64>> {
    let failed = |source| LogplexError::ReadFolder { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = PathBuf::from(entry.map_err(failed)?.file_name());
        if path.extension().is_some_and(|extension| extension == SUFFIX) {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok()));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A segment's bytes; none when it was deleted meanwhile.
fn read(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|source| LogplexError::ReadSegment { path: path.to_owned(), source }),
    }
}
