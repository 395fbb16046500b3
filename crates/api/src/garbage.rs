//! `/admin/garbage`: what no release needs any more, and how much of the disk it takes. Ours.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was freed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Slugs that are too old: no release goes back to them any more.
    pub expired_slugs: u64,
    /// By the folder of the data folder that they were in.
    pub removed: BTreeMap<String, Amount>,
    pub bytes: u64,
    /// Not all was done, or looked at: ask again.
    pub unfinished: bool,
    pub disk: Disk,
}

/// Entries of a folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub entries: u64,
    pub bytes: u64,
}

/// The disk that the data folder is on. `null`: it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub free_bytes: Option<u64>,
    pub free_files: Option<u64>,
}
