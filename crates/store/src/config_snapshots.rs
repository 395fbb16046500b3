//! Config snapshots: their rows.
