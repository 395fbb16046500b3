//! What can go wrong in the store.

use thiserror::Error;

/// A store call failed. Display says which step; the source says why.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot open the database {url}")]
    Open { url: String, source: sqlx::Error },
    #[error(
        "the database's schema is at version {found}, this ferrokud knows only up to {known}: \
         start the newer ferrokud that last used this data folder, or restore a backup made before it"
    )]
    SchemaTooNew { found: i64, known: i64 },
    #[error("cannot bring the database's schema up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("database: cannot {action}")]
    Query { action: &'static str, source: sqlx::Error },
    #[error("a {what} in the database cannot be read: {detail}")]
    Corrupt { what: &'static str, detail: String },
    #[error("cannot unseal a {what}: it was sealed with another master key, or was altered")]
    Unseal { what: String },
    /// A rule kept by a unique index was about to be broken: `what` names the thing that is taken.
    #[error("{what} is already taken")]
    Taken { what: &'static str },
    #[error("no such {what}")]
    NotFound { what: &'static str },
    /// A rule of the domain refused the change; the message is for the user.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the database's disk, or the folder of its files, has no room.
    pub fn is_disk_full(&self) -> bool {
        match self.code().as_deref() {
            // PostgreSQL: disk_full.
            Some("53100") => true,
            // SQLITE_FULL; SQLITE_IOERR_WRITE and SQLITE_IOERR_SHMSIZE: no room for the log or its index.
            Some("13" | "778" | "4874") => true,
            _ => false,
        }
    }

    /// Whether the database does not answer in time, or not at all, and may do so later.
    pub fn is_unavailable(&self) -> bool {
        let (Self::Query { source, .. } | Self::Open { source, .. }) = self else { return false };
        match source {
            sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) => true,
            _ => match self.code().as_deref() {
                // PostgreSQL: classes 08 (connection), 53 (resources), 57P (it stops or starts), 55P03 (lock).
                Some(code) if code.len() == 5 => {
                    ["08", "53", "57P", "55P03"].iter().any(|class| code.starts_with(class))
                }
                // SQLITE_BUSY, SQLITE_LOCKED and SQLITE_IOERR with what their second byte adds.
                Some(code) => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10)),
                None => false,
            },
        }
    }

    /// The database's own code: five characters on PostgreSQL, a number of at most four on SQLite.
    fn code(&self) -> Option<String> {
        let (Self::Query { source, .. } | Self::Open { source, .. }) = self else { return None };
        let sqlx::Error::Database(error) = source else { return None };
        Some(error.code()?.into_owned())
    }

    /// Whether the same transaction may succeed when tried again.
    pub fn is_retryable(&self) -> bool {
        let Self::Query { source, .. } = self else { return false };
        let sqlx::Error::Database(error) = source else { return false };
        // PostgreSQL: 40001 serialization_failure, 40P01 deadlock_detected.
        matches!(error.code().as_deref(), Some("40001" | "40P01"))
    }
}
