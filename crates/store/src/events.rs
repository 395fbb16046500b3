//! Events: their rows.
