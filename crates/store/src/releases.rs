//! Releases: their rows.
