//! Named points at which a test may kill this process.
