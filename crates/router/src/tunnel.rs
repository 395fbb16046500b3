//! Upgraded connections: after a 101 bytes go both ways until both sides have ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::limits::TUNNEL_BUFFER_BYTES;

/// Copies both ways until the end, or until no byte moved for the idle limit. The request counts as in
/// flight all the while; its record is written at the end.
pub async fn run(client: OnUpgrade, dyno: OnUpgrade, mut exchange: Box<Exchange>) {
    let Ok((client, dyno)) = tokio::try_join!(client, dyno) else {
        exchange.finish(Some(Failure::ServerInterrupted));
        return;
    };
    let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
    let (dyno_read, dyno_write) = tokio::io::split(TokioIo::new(dyno));
    let activity = Activity { started: Instant::now(), last_ms: AtomicU64::new(0), bytes: AtomicU64::new(0) };
    let mut phase = exchange.shared.phase.subscribe();
    let result = tokio::select! {
        result = async {
            tokio::try_join!(
                copy(client_read, dyno_write, &activity, false),
                copy(dyno_read, client_write, &activity, true),
            )
        } => result.map(|_| ()),
        () = activity.idle(exchange.shared.timeouts.idle) => Err(Failure::IdleConnection),
        _ = phase.wait_for(|phase| *phase == crate::shared::Phase::Forced) => Err(Failure::ForcedClose),
    };
    exchange.bytes = Some(activity.bytes.load(Ordering::Relaxed));
    // A peer that goes away is how many of these connections end; only our own closing is a failure.
    exchange.finish(result.err().filter(|failure| *failure != Failure::ServerInterrupted));
}

struct Activity {
    started: Instant,
    last_ms: AtomicU64,
    /// From the dyno to the client.
    bytes: AtomicU64,
}

impl Activity {
    fn touch(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed, Ordering::Relaxed);
    }

    async fn idle(&self, limit: Duration) {
        loop {
            let idle = self
                .started
                .elapsed()
                .saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)));
            if idle >= limit {
                return;
            }
            tokio::time::sleep(limit - idle).await;
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: &Activity,
    counted: bool,
) -> Result<(), Failure> {
    let broken = |_: io::Error| Failure::ServerInterrupted;
    let mut buffer = vec![0; TUNNEL_BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await.map_err(broken)?;
        if count == 0 {
            return to.shutdown().await.map_err(broken);
        }
        activity.touch();
        to.write_all(&buffer[..count]).await.map_err(broken)?;
        to.flush().await.map_err(broken)?;
        activity.touch();
        if counted {
            activity.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}
