//! The formation: their rows.
