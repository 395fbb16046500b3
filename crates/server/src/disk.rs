//! What is free on a disk: bytes, and files that can still be made.

use std::path::Path;

/// Room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub bytes: u64,
    pub files: u64,
}

impl Room {
    /// What is free on the disk that `folder` is on. `None`: it cannot be asked, which is no reason to refuse anything.
    pub fn on(folder: &Path) -> Option<Self> {
        let status = rustix::fs::statvfs(folder).ok()?;
        // File systems that make files as long as there are bytes have no number of them.
        let files = if status.f_files == 0 { u64::MAX } else { status.f_favail };
        Some(Self { bytes: status.f_bavail.saturating_mul(status.f_frsize), files })
    }

    /// Whether it holds `wanted`.
    pub fn holds(self, wanted: Self) -> bool {
        self.bytes >= wanted.bytes && self.files >= wanted.files
    }
}

/// Below a tenth of the disk, old slugs and caches go sooner ...
const SCARCE_SHARE: u64 = 10;
/// ... but on a large one only below this, in bytes.
const SCARCE_BYTES: u64 = 20 * 1024 * 1024 * 1024;

/// Whether the disk that `folder` is on is about to fill.
pub fn is_scarce(folder: &Path) -> bool {
    let Ok(status) = rustix::fs::statvfs(folder) else { return false };
    let [free, total] =
        [status.f_bavail, status.f_blocks].map(|blocks| blocks.saturating_mul(status.f_frsize));
    free < (total / SCARCE_SHARE).min(SCARCE_BYTES)
}
