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
    /// Whether the same transaction may succeed when tried again.
    pub fn is_retryable(&self) -> bool {
        let Self::Query { source, .. } = self else { return false };
        let sqlx::Error::Database(error) = source else { return false };
        // PostgreSQL: 40001 serialization_failure, 40P01 deadlock_detected.
        matches!(error.code().as_deref(), Some("40001" | "40P01"))
    }
}
