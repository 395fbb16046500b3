//! Wakes a frozen dyno by the socket of its dyno-init, without control.
//!
//! Invariant: a dyno that has a request in flight runs. A request that finds its dyno asleep wakes it before it is sent;
//! one that is in flight when a table says that its dyno is to sleep ends that sleep before it has begun, because
//! dyno-init does not freeze under a number that was woken.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ferroku_core::protocol::router::Asleep;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::socket;
use crate::table::Target;

/// Wakes the dyno. False: it cannot be woken, for it has ended or the table is older than it knows.
pub async fn wake(target: &Arc<Target>, limit: Duration) -> bool {
    let Some(asleep) = target.asleep() else { return true };
    let called = tokio::time::timeout(limit, call(&asleep)).await;
    match called.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(()) => {
            target.woke(asleep.sleep_id);
            true
        }
        Err(error) => {
            tracing::warn!(dyno_id = %target.dyno_id, %error, "cannot wake a dyno; control is asked to");
            false
        }
    }
}

/// Returns once the dyno runs.
async fn call(asleep: &Asleep) -> io::Result<()> {
    let mut stream = socket::connect_async(&asleep.wake_socket).await?;
    stream.write_all(&asleep.sleep_id.to_le_bytes()).await?;
    stream.read_u8().await?;
    Ok(())
}
