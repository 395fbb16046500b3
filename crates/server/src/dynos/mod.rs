//! Dynos: keeps what runs as the formation wants it.

use ferroku_core::AppId;

/// Starts and stops dynos.
#[derive(Debug, Default)]
pub struct DynoManager {}

impl DynoManager {
    /// Says that something about the app changed that its dynos depend on.
    pub fn poke(&self, _app_id: AppId) {}

    /// Stops every dyno of an app that was destroyed. Returns once they are gone.
    pub async fn app_destroyed(&self, _app_id: AppId) {}
}
