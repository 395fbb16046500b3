//! Builds: their rows.
