//! How a SQLite file is opened: WAL, full durability, foreign keys.

use crate::{Result, StoreError};
use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, Executor};
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::time::Duration;

/// What a pool's connections may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// A statement that writes is refused: it would be in no transaction of `write!`, and nothing would count it.
    Read,
    Write,
}

/// A pool on the file in `url`, which is made when it does not exist.
pub(crate) async fn pool(
    url: &str,
    access: Access,
    connections: u32,
    lock_wait: Duration,
) -> Result<AnyPool> {
    let separator = if url.contains('?') { '&' } else { '?' };
    keep_private(url).map_err(|source| StoreError::Open { url: url.to_owned(), source: source.into() })?;
    let create_url = format!("{url}{separator}mode=rwc");
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(lock_wait)
        // A file does not go away; asking would double the time of every query.
        .test_before_acquire(false)
        .before_acquire(crate::keep_if_idle)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection
                    .execute(
                        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                         PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 15000;",
                    )
                    .await?;
                if access == Access::Read {
                    connection.execute("PRAGMA query_only = ON;").await?;
                }
                Ok(())
            })
        })
        .connect(&create_url)
        .await
        .map_err(|source| StoreError::Open { url: url.to_owned(), source })
}

/// Makes the file, readable by its owner only, before SQLite does: the files beside it take over its mode.
fn keep_private(url: &str) -> std::io::Result<()> {
    let Some(path) = url.strip_prefix("sqlite://").and_then(|rest| rest.split('?').next()) else {
        return Ok(());
    };
    if path.is_empty() || path.starts_with(':') {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}
