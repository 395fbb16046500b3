//! Dynos: their rows.
