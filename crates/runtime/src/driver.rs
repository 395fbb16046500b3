//! The contract of what runs dynos.

use crate::{DynoHandle, DynoSpec, Environment, Result};
use ferroku_core::DynoId;
use std::future::Future;

/// Runs dynos. Two implementations: the sandbox of this node, and (later) a container engine.
pub trait Driver: Send + Sync {
    /// Starts a dyno. Returns once its dyno-init runs; `Started`, or `StartFailed`, follows as an event.
    ///
    /// # Errors
    /// The dyno could not be made; nothing of it is left.
    fn start(
        &self,
        spec: DynoSpec,
        environment: Environment,
    ) -> impl Future<Output = Result<DynoHandle>> + Send;

    /// After a restart of this process: every dyno whose dyno-init lives, and those that ended meanwhile
    /// (their handle tells the lines not yet acknowledged, then `Exited` or `Lost`). What has no owner
    /// is killed and removed. To be called once, before the first `start`.
    ///
    /// # Errors
    /// The state folder cannot be read.
    fn adopt(&self) -> impl Future<Output = Result<Vec<DynoHandle>>> + Send;

    /// Kills the dyno if it lives and removes every trace of it; what was not acknowledged is lost.
    /// Removing an unknown dyno does nothing. This is also the acknowledgement of `Exited`.
    ///
    /// # Errors
    /// Something of it could not be removed.
    fn remove(&self, dyno_id: DynoId) -> impl Future<Output = Result<()>> + Send;

    /// What the dyno has in memory, in bytes, without what the kernel can drop at once; None when it does not run.
    fn memory_bytes(&self, dyno_id: DynoId) -> impl Future<Output = Option<u64>> + Send;

    /// Moves what the processes of a frozen dyno have in memory to swap, as far as there is any. Gives how many bytes that
    /// made free.
    fn swap_out(&self, dyno_id: DynoId) -> impl Future<Output = Option<u64>> + Send;

    /// Lets go of all dynos without stopping them, and takes down what only this process needs.
    fn shutdown(&self) -> impl Future<Output = ()> + Send;
}
