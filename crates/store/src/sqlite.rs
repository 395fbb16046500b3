//! How a SQLite file is opened: WAL, full durability, foreign keys.

use crate::{Result, StoreError};
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, Executor};
use std::time::Duration;

/// A pool on the file in `url`, which is made when it does not exist.
pub(crate) async fn pool(url: &str, connections: u32, lock_wait: Duration) -> Result<AnyPool> {
    let separator = if url.contains('?') { '&' } else { '?' };
    let create_url = format!("{url}{separator}mode=rwc");
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(lock_wait)
        .after_connect(|connection, _| {
            Box::pin(async move {
                connection
                    .execute(
                        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                         PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 15000;",
                    )
                    .await?;
                Ok(())
            })
        })
        .connect(&create_url)
        .await
        .map_err(|source| StoreError::Open { url: url.to_owned(), source })
}
