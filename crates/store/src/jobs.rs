//! Jobs: their rows.
