//! Slugs: their rows.
