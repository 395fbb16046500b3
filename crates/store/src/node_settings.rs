//! Settings of the node: their rows.
