//! The store: every SQL statement of Ferroku, one text for SQLite and PostgreSQL.
//!
//! One module a noun; functions take the [`Store`] (or, to be combined in one
//! transaction, a connection) and give domain types of `ferroku-core`.
//!
//! Invariants:
//! - Only the control process opens the store.
//! - All writes go through [`write!`], which is the only place that begins a
//!   transaction, on the single writer connection: `BEGIN IMMEDIATE` on SQLite,
//!   `SERIALIZABLE` on PostgreSQL, with retry, for others may write there.
//!   No I/O happens inside one.
//! - What a transaction acknowledges is on disk: WAL with `synchronous=FULL`.
//! - Secrets are sealed before they reach a statement ([`seal`]).

pub mod account_changes;
pub mod accounts;
pub mod acm;
pub mod acme_accounts;
pub mod app_features;
pub mod app_transfers;
pub mod apps;
pub mod browser_sessions;
pub mod buildpack_installations;
pub mod builds;
pub mod collaborators;
pub mod config_snapshots;
pub mod domains;
pub mod dyno_crashes;
pub mod dynos;
pub mod eco_hours;
mod error;
pub mod events;
pub mod formations;
pub mod jobs;
pub mod limits;
pub mod mailed_tokens;
pub mod node_settings;
pub mod oauth_authorizations;
pub mod oauth_clients;
pub mod pipelines;
mod recent;
pub mod releases;
mod row;
pub mod seal;
pub mod slug_uploads;
pub mod slugs;
pub mod sni_endpoints;
mod sqlite;
pub mod ssh_keys;
pub mod team_members;
pub mod teams;
pub mod two_factor;

pub use error::StoreError;
pub use seal::MasterKey;

use ferroku_core::account::Account;
use ferroku_core::app::App;
use ferroku_core::oauth_authorization::OauthAuthorization;
use recent::{Recent, Writes};
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyConnection, AnyPool, Transaction};
use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use sqlx;

/// Result of a store call.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Connections for reading, on PostgreSQL twice as many: each waits for its server. There is one for writing, in whose
/// queue writers wait for each other: side by side on PostgreSQL most would fail to serialize, some for good.
const READ_CONNECTIONS: u32 = 4;
/// How long a statement waits for a lock held by another connection before it fails.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// A connection that nobody used for longer is asked whether it lives before it is used again.
const ASK_AFTER_IDLE: Duration = Duration::from_secs(1);
/// How often a PostgreSQL transaction is tried again after a serialization failure.
pub const WRITE_ATTEMPTS: u32 = 20;

/// Every migration, oldest first. Never edit one that has been released.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("../migrations/0001_initial.sql")),
    (2, "domains and certificates", include_str!("../migrations/0002_domains_and_certificates.sql")),
    (3, "orders and jobs", include_str!("../migrations/0003_orders_and_jobs.sql")),
    (4, "release command", include_str!("../migrations/0004_release_command.sql")),
    (5, "limits", include_str!("../migrations/0005_limits.sql")),
    (6, "people", include_str!("../migrations/0006_people.sql")),
    (7, "keys and clients", include_str!("../migrations/0007_keys_and_clients.sql")),
    (8, "teams", include_str!("../migrations/0008_teams.sql")),
    (9, "eco hours", include_str!("../migrations/0009_eco_hours.sql")),
    (10, "build sources", include_str!("../migrations/0010_build_sources.sql")),
    (11, "pipelines", include_str!("../migrations/0011_pipelines.sql")),
    (12, "slug uploads", include_str!("../migrations/0012_slug_uploads.sql")),
];

/// Which database is behind a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// A handle to the database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    read: AnyPool,
    write: AnyPool,
    key: Arc<MasterKey>,
    recent: Arc<RecentReads>,
}

/// What nearly every request asks for: whose token it has, and the app that it names.
#[derive(Default)]
struct RecentReads {
    writes: Writes,
    /// By the token's hash.
    holders: Recent<String, (Account, OauthAuthorization)>,
    /// By what it was asked for: its id or its name.
    apps: Recent<String, App>,
}

impl Store {
    /// Opens the database at `url` (`sqlite:///path/to/file` or `postgres://...`), makes it where
    /// it is a SQLite file that does not exist, and brings its schema up to this binary's.
    ///
    /// # Errors
    /// The database cannot be reached or written, or its schema is newer than this binary.
    pub async fn open(url: &str, key: MasterKey) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let engine = if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Engine::Postgres
        } else {
            Engine::Sqlite
        };
        let (read, write) = match engine {
            Engine::Sqlite => {
                let write = sqlite::pool(url, sqlite::Access::Write, 1, LOCK_WAIT).await?;
                (sqlite::pool(url, sqlite::Access::Read, READ_CONNECTIONS, LOCK_WAIT).await?, write)
            }
            Engine::Postgres => {
                (postgres_pool(url, READ_CONNECTIONS * 2).await?, postgres_pool(url, 1).await?)
            }
        };
        let store = Self { engine, read, write, key: Arc::new(key), recent: Arc::default() };
        store.migrate().await?;
        Ok(store)
    }

    /// Which database this is.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// How many transactions this process has committed, or tried to.
    pub fn writes(&self) -> u64 {
        self.recent.writes.so_far()
    }

    /// The pool to read from, outside any transaction.
    pub fn reader(&self) -> &AnyPool {
        &self.read
    }

    /// The key that seals secrets.
    pub fn key(&self) -> &MasterKey {
        &self.key
    }

    /// Closes every connection; waits for those in use.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    /// Begins a writing transaction. Use [`write!`] instead: it also commits and retries.
    #[doc(hidden)]
    pub async fn begin_write(&self) -> Result<Transaction<'static, Any>> {
        let statement = match self.engine {
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        };
        self.write.begin_with(statement).await.map_err(|source| StoreError::Query { action: "begin", source })
    }

    /// Commits on success and rolls back on failure; `None` means: try again.
    #[doc(hidden)]
    pub async fn finish_write<T>(
        &self,
        transaction: Transaction<'static, Any>,
        result: Result<T>,
        attempt: u32,
    ) -> Option<Result<T>> {
        let result = match result {
            Ok(value) => {
                // A task of its own: a client that leaves drops this future, but not the commit that it has begun.
                let recent = Arc::clone(&self.recent);
                let commit = tokio::spawn(async move {
                    let committed = transaction.commit().await;
                    recent.writes.one_more();
                    committed
                });
                let committed = commit.await.unwrap_or(Err(sqlx::Error::WorkerCrashed));
                committed.map(|()| value).map_err(|source| StoreError::Query { action: "commit", source })
            }
            Err(error) => {
                // A rollback that fails leaves a broken connection, which the pool drops.
                let _ = transaction.rollback().await;
                Err(error)
            }
        };
        match result {
            Err(error) if error.is_retryable() && attempt < WRITE_ATTEMPTS => {
                tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
                None
            }
            result => Some(result),
        }
    }

    async fn migrate(&self) -> Result<()> {
        let migrations: Vec<Migration> = MIGRATIONS
            .iter()
            .map(|(version, name, sql)| {
                Migration::new(
                    *version,
                    Cow::Borrowed(*name),
                    MigrationType::Simple,
                    sqlx::SqlStr::from_static(sql),
                    false,
                )
            })
            .collect();
        let migrator = Migrator::with_migrations(migrations);
        migrator.run(&self.write).await.map_err(|source| match source {
            sqlx::migrate::MigrateError::VersionMissing(found) => StoreError::SchemaTooNew {
                found,
                known: MIGRATIONS.last().map_or(0, |(version, _, _)| *version),
            },
            source => StoreError::Migrate(source),
        })
    }
}

/// Runs a block in one writing transaction and gives its result.
///
/// `write!(store, tx => { ...; Ok(value) })`: inside, `&mut *tx` is the connection. The block may
/// run several times (serialization failures on PostgreSQL), so it must only touch the database.
#[macro_export]
macro_rules! write {
    ($store:expr, $tx:ident => $body:block) => {{
        let store: &$crate::Store = $store;
        let mut attempt: u32 = 0;
        loop {
            attempt += 1;
            let mut $tx = store.begin_write().await?;
            let result: $crate::Result<_> = async { $body }.await;
            if let Some(result) = store.finish_write($tx, result, attempt).await {
                break result;
            }
        }
    }};
}

async fn postgres_pool(url: &str, connections: u32) -> Result<AnyPool> {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(LOCK_WAIT)
        .test_before_acquire(false)
        .before_acquire(keep_if_alive)
        .connect(url)
        .await
        .map_err(|source| StoreError::Open { url: redact(url), source })
}

/// Whether a connection of a pool may be used again; else it is closed and another is made. When the disk is full,
/// SQLite ends a transaction by itself, and the connection would count as inside one for ever.
fn keep_if_idle<'a>(
    connection: &'a mut AnyConnection,
    _: sqlx::pool::PoolConnectionMetadata,
) -> Pin<Box<dyn Future<Output = sqlx::Result<bool>> + Send + 'a>> {
    use sqlx::Connection;
    Box::pin(async move { Ok(!connection.is_in_transaction()) })
}

/// The same for a database that may have gone away since. A connection that was used just now is not asked: that would
/// double the time of every query.
fn keep_if_alive<'a>(
    connection: &'a mut AnyConnection,
    metadata: sqlx::pool::PoolConnectionMetadata,
) -> Pin<Box<dyn Future<Output = sqlx::Result<bool>> + Send + 'a>> {
    use sqlx::Connection;
    Box::pin(async move {
        if metadata.idle_for > ASK_AFTER_IDLE {
            connection.ping().await?;
        }
        Ok(!connection.is_in_transaction())
    })
}

/// A connection inside a transaction, as the composable functions take it.
pub type Connection = AnyConnection;

/// `url` without its password, for messages.
fn redact(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://***{}", &url[..scheme], &url[at..]),
        _ => url.to_owned(),
    }
}
