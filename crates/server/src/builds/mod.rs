//! Builds: from a pushed commit to a slug and a release.

/// Runs builds.
#[derive(Debug, Default)]
pub struct Builds {}
