//! What a router keeps in its state folder: the last table, and records that nobody acknowledged. No private
//! keys. Both are written beside and renamed, so that the next router reads a whole file or none.
//!
//! Only records are synced. The table is not: it must be there at once for a router that starts a moment later,
//! and after a power cut control sends a new one before any dyno runs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ferroku_core::protocol::router::{RequestLog, RouteTable};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::outbox::records_path;

const TABLE_FILE: &str = "table.json";

/// The last table; `None` when there is none or it cannot be read, which is logged.
pub fn last_table(folder: &Path) -> Option<RouteTable> {
    read(&folder.join(TABLE_FILE))
}

/// Replaces the last table.
///
/// # Errors
/// The folder cannot be written.
pub fn write_table(folder: &Path, table: &RouteTable) -> io::Result<()> {
    write(&folder.join(TABLE_FILE), table, false)
}

/// Leaves records for the next router.
///
/// # Errors
/// The folder cannot be written.
pub fn write_records(folder: &Path, log: &RequestLog) -> io::Result<()> {
    write(&records_path(folder, log.instance), log, true)
}

/// What routers left behind.
pub fn leftover_records(folder: &Path) -> Vec<(PathBuf, RequestLog)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("records-") && name.ends_with(".json") {
            let path = entry.path();
            match read(&path) {
                Some(log) => found.push((path, log)),
                None => drop(fs::rename(&path, path.with_extension("unreadable"))),
            }
        }
    }
    found
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read the router's state; going on without");
            return None;
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the router's state is damaged; going on without");
            None
        }
    }
}

fn write<T: Serialize>(path: &Path, value: &T, synced: bool) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if synced {
        file.sync_all()?;
    }
    fs::rename(&beside, path)
}
