//! Builds: from a pushed commit to a slug and a release.

pub mod seal;

/// Runs builds.
#[derive(Debug, Default)]
pub struct Builds {}
