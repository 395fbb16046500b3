//! A new, empty store on each database that Ferroku runs on.
//!
//! PostgreSQL: a database of its own in the server that `FERROKU_TEST_POSTGRES_URL` names, else in a temporary
//! cluster that lives as long as this test program, however it ends. Where PostgreSQL is not installed the test
//! says so on stderr and goes on without it; with `FERROKU_TEST_POSTGRES=required` that is a failure.

#![allow(dead_code)]

use ferroku_core::account::Role;
use ferroku_core::app::{App, DEFAULT_REGION, DEFAULT_STACK};
use ferroku_core::event::Actor;
use ferroku_core::{AccountId, AppId};
use ferroku_store::accounts::{self, NewAccount};
use ferroku_store::apps::{self, NewApp};
use ferroku_store::{MasterKey, Result, Store, sqlx, write};
use sqlx::{AssertSqlSafe, Connection, Executor};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a temporary cluster may take to come up: initdb alone takes seconds on a busy machine.
const CLUSTER_START: Duration = Duration::from_secs(60);

/// Runs `test` with a new store on SQLite, then with one on PostgreSQL.
pub async fn each_database<F: Future<Output = ()>>(test: impl Fn(Store) -> F) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/test.sqlite", folder.path().display());
    eprintln!("on SQLite");
    run(&url, &test).await;
    match postgres_url() {
        Ok(server) => {
            let url = new_database(server).await;
            eprintln!("on PostgreSQL");
            run(&url, &test).await;
        }
        Err(why) => {
            let required = std::env::var("FERROKU_TEST_POSTGRES").is_ok_and(|value| value == "required");
            assert!(!required, "PostgreSQL is required but {why}");
            eprintln!("skipped on PostgreSQL: {why}");
        }
    }
}

async fn run<F: Future<Output = ()>>(url: &str, test: impl Fn(Store) -> F) {
    let store = Store::open(url, key()).await.expect("a new store opens");
    test(store.clone()).await;
    store.close().await;
}

/// The key that every test store is sealed with.
pub fn key() -> MasterKey {
    MasterKey::new("test", [7; 32])
}

/// An account with this address.
pub async fn account(store: &Store, email: &str) -> Actor {
    let id = AccountId(Uuid::new_v4());
    let new = NewAccount { id, email, name: None, password_hash: "hash", role: Role::Member };
    let made: Result<_> =
        async { write!(store, tx => { accounts::create(&mut tx, &new, 1).await.map(|_| ()) }) }.await;
    made.expect("an account");
    Actor { account_id: id, email: email.to_owned(), remote_address: None, request_id: None }
}

/// An app with this name.
pub async fn app(store: &Store, name: &str, actor: &Actor) -> App {
    let new = NewApp { id: AppId(Uuid::new_v4()), name, stack: DEFAULT_STACK, region: DEFAULT_REGION };
    apps::create(store, &new, actor, 1000).await.expect("an app")
}

/// Runs a statement past the store's functions, as only tests do.
pub async fn execute(store: &Store, sql: String) {
    let done: Result<()> = async {
        write!(store, tx => {
            sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut *tx).await.expect("a statement");
            Ok(())
        })
    }
    .await;
    done.expect("written");
}

async fn new_database(server: &str) -> String {
    sqlx::any::install_default_drivers();
    let name = format!("ferroku_test_{}", Uuid::new_v4().simple());
    let mut connection = sqlx::AnyConnection::connect(server).await.expect("the server answers");
    let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
    connection.execute(create).await.expect("a database can be made");
    connection.close().await.expect("closed");
    let (base, _) = server.rsplit_once('/').expect("the URL names a database");
    format!("{base}/{name}")
}

/// The server's URL, or why there is none.
fn postgres_url() -> std::result::Result<&'static str, &'static str> {
    static SERVER: OnceLock<std::result::Result<(String, Option<Child>), String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| match std::env::var("FERROKU_TEST_POSTGRES_URL") {
        Ok(url) => Ok((url, None)),
        Err(_) => start_cluster().map(|(url, child)| (url, Some(child))),
    });
    server.as_ref().map(|(url, _)| url.as_str()).map_err(String::as_str)
}

fn start_cluster() -> std::result::Result<(String, Child), String> {
    let programs = programs().ok_or("PostgreSQL is not installed (apt-get install postgresql)")?;
    let folder =
        tempfile::Builder::new().prefix("ferroku-postgres-").tempdir_in("/tmp").expect("a folder").keep();
    // The shell ends with this program, because its standard input does; then it stops the server and cleans up.
    let script = r#"
        set -e
        trap 'rm -rf "$1"' EXIT
        chown postgres "$1"
        cd "$1"
        runuser -u postgres -- "$2/initdb" -D "$1/data" -A trust -U postgres --no-sync --no-instructions >"$1/log" 2>&1
        runuser -u postgres -- "$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off \
            -c max_connections=200 </dev/null >>"$1/log" 2>&1 &
        read -r _ || true
        runuser -u postgres -- "$2/pg_ctl" -D "$1/data" stop -m immediate
    "#;
    let child = Command::new("bash")
        .args(["-c", script, "cluster"])
        .args([&folder, &programs])
        .stdin(Stdio::piped())
        // Whoever reads this program's output must not have to wait for the server's end.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start a cluster: {error}"))?;
    let deadline = Instant::now() + CLUSTER_START;
    while !is_ready(&programs, &folder) {
        if Instant::now() > deadline || !folder.exists() {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(format!("the temporary cluster did not start: {log}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let host = folder.display().to_string().replace('/', "%2F");
    Ok((format!("postgres://postgres@{host}/postgres"), child))
}

fn is_ready(programs: &Path, folder: &Path) -> bool {
    let ready = Command::new(programs.join("pg_isready")).arg("-q").arg("-h").arg(folder).status();
    ready.is_ok_and(|status| status.success())
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    folders.retain(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    folders.sort();
    folders.pop()
}
