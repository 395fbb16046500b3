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
