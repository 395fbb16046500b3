//! A PostgreSQL cluster of a test's own: made in a temporary folder, gone with it.

use crate::ports;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A running cluster on a free port of 127.0.0.1.
#[derive(Debug)]
pub struct TestPostgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
}

impl TestPostgres {
    /// Starts one; None when this machine has no PostgreSQL.
    ///
    /// # Panics
    /// When there is one and it does not start.
    pub fn start() -> Option<Self> {
        let programs = newest_programs()?;
        let folder =
            tempfile::Builder::new().prefix("ferroku-postgres-").tempdir().expect("a temporary folder");
        // initdb and postgres refuse to run as root.
        run_as_postgres("chown", |command| command.args(["-R", "postgres:"]).arg(folder.path()), false);
        let data = folder.path().join("data");
        run_as_postgres(
            &programs.join("initdb").display().to_string(),
            |command| command.args(["--auth=trust", "--no-sync", "--username=postgres", "-D"]).arg(&data),
            true,
        );
        let [port] = ports::free();
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c max_connections=100"
        );
        run_as_postgres(
            &programs.join("pg_ctl").display().to_string(),
            |command| {
                let log = folder.path().join("log");
                command.arg("-D").arg(&data).arg("-l").arg(log).args(["-w", "-o", &options, "start"])
            },
            true,
        );
        Some(Self { folder, programs, port })
    }

    /// A new, empty database; its URL.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn database(&self, name: &str) -> String {
        let status = Command::new(self.programs.join("createdb"))
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", name])
            .status()
            .expect("createdb runs");
        assert!(status.success(), "createdb {name}: {status}");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        let _ = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(self.programs.join("pg_ctl"))
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn newest_programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin")).collect();
    versions.retain(|folder: &PathBuf| Path::exists(&folder.join("initdb")));
    versions.sort();
    versions.pop()
}

fn run_as_postgres(program: &str, build: impl FnOnce(&mut Command) -> &mut Command, drop_root: bool) {
    let mut command = if drop_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", program]);
        command
    } else {
        Command::new(program)
    };
    let output =
        build(&mut command).current_dir("/").stdin(Stdio::null()).output().expect("util-linux has setpriv");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}\n{said}", output.status);
}
