//! The control process: what `ferrokud control` runs.
