//! The supervisor: what `ferrokud server` runs.
