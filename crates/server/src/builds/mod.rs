//! Builds: from a pushed commit to a slug and a release.

use ferroku_store::apps::Destroyed;

/// Runs builds.
#[derive(Debug, Default)]
pub struct Builds {}

impl Builds {
    /// Ends the builds of an app that was destroyed and removes its repository, caches, build folders, and those
    /// of its slugs that no other app has. May be called any number of times.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub async fn app_destroyed(&self, _destroyed: &Destroyed) -> anyhow::Result<()> {
        Ok(())
    }
}
