//! Apps: their rows.
