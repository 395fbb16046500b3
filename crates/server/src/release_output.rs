//! What a release's command prints: the lines of its dyno in the app's log, while they come and for as long as they are
//! kept there.
//!
//! Invariants: it ends when the release is no longer pending, with every line that the command printed, because a dyno's
//! end is told only after its last line was written.

use ferroku_core::release::{Release, ReleaseStatus};
use ferroku_logplex::{Filter, Logplex, LogplexError, Tail, TailEvent, TailFrom};
use ferroku_store::{Store, StoreError, releases};
use futures::FutureExt;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Lines of one command that are shown to who comes late: the last ones, as many as are kept of an app's log.
const LATE_LINES: usize = 1_500;
/// Who may read at once, whoever they are: the URL needs no key. Tails of logs have places of their own beside these.
const READERS: usize = 200;
/// How often a quiet command's release is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// A line this much younger than the release's end is another dyno's, with the same number by chance; in microseconds.
const CLOCK_SLACK_US: i64 = 5_000_000;

/// Why there is nothing to read.
#[derive(Debug, Error)]
pub enum OutputError {
    #[error(transparent)]
    Log(#[from] LogplexError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the node is being restarted while the release's command runs")]
    Restarting,
    #[error("too many clients read the output of release commands")]
    TooManyReaders,
}

static PLACES: Semaphore = Semaphore::const_new(READERS);

/// Reads what one release's command prints.
pub struct ReleaseOutput {
    store: Store,
    release: Release,
    tail: Tail,
    _place: SemaphorePermit<'static>,
}

impl ReleaseOutput {
    /// None for a release without a command.
    ///
    /// # Errors
    /// The log cannot be read, or has too many readers.
    pub async fn open(
        store: &Store,
        logplex: &Logplex,
        release: Release,
    ) -> Result<Option<Self>, OutputError> {
        let Some(process) = release.command_dyno.clone() else { return Ok(None) };
        let place = PLACES.try_acquire().map_err(|_| OutputError::TooManyReaders)?;
        let filter = Filter { source: Some("app".to_owned()), process: Some(process) };
        let tail = logplex.tail(release.app_id, filter, TailFrom::Last(LATE_LINES)).await?;
        Ok(Some(Self { store: store.clone(), release, tail, _place: place }))
    }

    /// How the release has come out; pending until [`Self::next`] gave None.
    pub fn status(&self) -> ReleaseStatus {
        self.release.status
    }

    /// The next lines, each with its end; None when the command has ended, or the app is gone.
    ///
    /// # Errors
    /// The store failed, or this process ends before the command does.
    pub async fn next(&mut self) -> Result<Option<String>, OutputError> {
        loop {
            let pending = self.release.status == ReleaseStatus::Pending;
            let event = match pending {
                true => tokio::time::timeout(LOOK, self.tail.next()).await,
                false => Ok(self.tail.next().now_or_never().flatten()),
            };
            match event {
                Ok(Some(TailEvent::Line(line))) if self.is_own(line.at_us) => {
                    return Ok(Some(format!("{}\n", line.message)));
                }
                Ok(Some(TailEvent::Line(_))) => {}
                Ok(Some(TailEvent::Dropped(dropped))) => return Ok(Some(format!("{dropped}\n"))),
                Ok(None) if pending => return Err(OutputError::Restarting),
                Ok(None) => return Ok(None),
                Err(_) => match releases::by_id(&self.store, self.release.id).await? {
                    Some(release) => self.release = release,
                    None => return Ok(None),
                },
            }
        }
    }

    fn is_own(&self, at_us: i64) -> bool {
        let ended = self.release.status != ReleaseStatus::Pending;
        at_us >= self.release.created_at * 1000
            && !(ended && at_us > self.release.updated_at * 1000 + CLOCK_SLACK_US)
    }
}
