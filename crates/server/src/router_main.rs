//! The router process: what `ferrokud router` runs.
