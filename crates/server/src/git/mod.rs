//! Git over HTTP: the repositories that are pushed to.
