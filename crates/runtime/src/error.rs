//! What can go wrong with dynos.

use ferroku_core::DynoId;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a dyno could not be started, adopted or removed.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The kernel, or what this process may do, lacks something that the sandbox needs.
    #[error("this machine lacks {feature}, without which no dyno is started; {remedy}")]
    MissingFeature { feature: &'static str, remedy: &'static str },
    #[error("{action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{program} failed: {message}")]
    Program { program: String, message: String },
    #[error("network: {action}: {message}")]
    Network { action: &'static str, message: String },
    #[error("all addresses of {subnet} are in use; stop some dynos, or give the node a larger subnet")]
    NoAddress { subnet: String },
    #[error("dyno {dyno_id} cannot be started: {message}")]
    Spec { dyno_id: DynoId, message: String },
    #[error("dyno {dyno_id} is running already")]
    AlreadyRunning { dyno_id: DynoId },
    #[error("dyno {dyno_id} is gone")]
    DynoGone { dyno_id: DynoId },
    #[error("dyno-init of dyno {dyno_id}: {action}")]
    DynoInit { dyno_id: DynoId, action: &'static str, source: io::Error },
    #[error(
        "dyno {dyno_id} was started by an older release of Ferroku, in which nothing more can be run in a dyno; \
         restart it (`heroku ps:restart`)"
    )]
    ExecTooOld { dyno_id: DynoId },
    #[error("dyno {dyno_id} is just being taken over; try again in a moment")]
    ExecTooEarly { dyno_id: DynoId },
    #[error("the driver has been shut down")]
    ShutDown,
}

impl RuntimeError {
    /// For `map_err`: what was done to which path.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
