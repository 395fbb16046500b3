//! A node of its own for each test: a data folder, a driver, dynos, and the check that nothing is left.

#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part")]

use ferroku_core::uids::{FIRST_APP_UID, SLUG_UID};
use ferroku_core::{AppId, DynoId};
use ferroku_runtime::{
    Attach, Command, Driver, DynoEvent, DynoHandle, DynoSpec, Environment, ExecEvent, ExecOutput, Limits,
    NetworkPolicy, SandboxConfig, SandboxDriver, leaks,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

/// Long enough for a busy machine; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct TestNode {
    /// `None` while control is dead.
    pub driver: Option<SandboxDriver>,
    pub folder: TempDir,
}

/// Where the programs were built along with this test.
pub fn programs() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_dyno-init")).with_file_name("")
}

impl TestNode {
    pub async fn open() -> Self {
        let folder = tempfile::Builder::new().prefix("ferroku-run-").tempdir().expect("temporary folder");
        // As private as a home folder: dynos must not depend on who may enter it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("sets mode");
        let driver = open(folder.path()).await;
        Self { driver: Some(driver), folder }
    }

    pub fn driver(&self) -> &SandboxDriver {
        self.driver.as_ref().expect("control lives")
    }

    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    /// A slug with these files; returns its digest.
    pub fn slug(&self, files: &[(&str, &str)]) -> String {
        let digest = Uuid::new_v4().simple().to_string();
        let root = self.data().join("slugs").join(&digest);
        fs::create_dir_all(&root).expect("makes slug");
        for (name, content) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("makes folder");
            fs::write(&path, content).expect("writes");
        }
        self.own(&root);
        digest
    }

    /// Gives a tree to the user that slugs and build folders belong to on disk.
    pub fn own(&self, root: &Path) {
        let status = std::process::Command::new("chown")
            .args(["-R", &format!("{SLUG_UID}:{SLUG_UID}")])
            .arg(root)
            .status()
            .expect("chown runs");
        assert!(status.success());
    }

    pub async fn start(&self, spec: DynoSpec) -> DynoHandle {
        self.driver().start(spec, environment(&[])).await.expect("starts")
    }

    /// Runs a line of shell to its end: its output, and how it ended.
    pub async fn run(&self, line: &str) -> (String, DynoEvent) {
        let mut handle = self.start(spec(line)).await;
        let result = finish(&mut handle).await;
        self.driver().remove(handle.dyno_id).await.expect("removes");
        result
    }

    /// Ends the test: no dyno may be left, and nothing else.
    pub async fn close(self) {
        self.driver().shutdown().await;
        expect_no_leaks(self.data()).await;
    }
}

/// A failed test leaves nothing behind either, so that the next one starts on a clean machine.
impl Drop for TestNode {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let runtime = tokio::runtime::Handle::current();
        let (Some(driver), data) = (&self.driver, self.folder.path()) else { return };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                runtime.block_on(async {
                    for entry in fs::read_dir(data.join("dynos")).into_iter().flatten().flatten() {
                        if let Ok(dyno_id) = entry.file_name().to_string_lossy().parse() {
                            let _ = driver.adopt().await;
                            let _ = driver.remove(dyno_id).await;
                        }
                    }
                    driver.shutdown().await;
                });
            });
        });
    }
}

/// The OCI runtime that all dynos of a run are to be made by, if one is named.
pub const OCI_RUNTIME: &str = "FERROKU_TEST_OCI_RUNTIME";

pub fn oci_runtime() -> Option<PathBuf> {
    std::env::var_os(OCI_RUNTIME).map(PathBuf::from)
}

pub async fn open(data: &Path) -> SandboxDriver {
    let config = SandboxConfig {
        data: data.to_path_buf(),
        programs: programs(),
        allowed_networks: vec![],
        oci_runtime: oci_runtime(),
    };
    SandboxDriver::open(config).await.expect("driver opens")
}

pub async fn expect_no_leaks(data: &Path) {
    let begun = Instant::now();
    loop {
        let found = leaks(data);
        if found.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "left on the host: {found:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn environment(variables: &[(&str, &str)]) -> Environment {
    let mut all: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    all.entry("HOME".into()).or_insert("/app".into());
    Environment::from(all)
}

pub fn spec(line: &str) -> DynoSpec {
    DynoSpec {
        dyno_id: DynoId(Uuid::new_v4()),
        app_id: AppId(Uuid::nil()),
        name: "web.1".into(),
        uid_base: FIRST_APP_UID,
        slug_digest: None,
        command: Command::Shell(line.into()),
        port: None,
        limits: Limits { memory_bytes: 256 << 20, cpu_shares: 256, pids: 128, disk_bytes: 256 << 20 },
        attach: None,
        boot_timeout_ms: None,
        network: NetworkPolicy::Internet,
        volumes: vec![],
        host_name: "web-1".into(),
    }
}

pub fn web(line: &str, boot_timeout_ms: u64) -> DynoSpec {
    DynoSpec { port: Some(5006), boot_timeout_ms: Some(boot_timeout_ms), ..spec(line) }
}

pub fn attached(line: &str, attach: Attach) -> DynoSpec {
    DynoSpec { attach: Some(attach), ..spec(line) }
}

pub async fn next(handle: &mut DynoHandle) -> DynoEvent {
    tokio::time::timeout(PATIENCE, handle.next_event()).await.expect("an event in time").expect("not the end")
}

/// The first event that `wanted` takes; lines on the way are returned too.
pub async fn until(handle: &mut DynoHandle, wanted: impl Fn(&DynoEvent) -> bool) -> (String, DynoEvent) {
    let mut lines = String::new();
    loop {
        let event = next(handle).await;
        if let DynoEvent::Log { line, .. } = &event {
            lines.push_str(&String::from_utf8_lossy(line));
            lines.push('\n');
        }
        if let DynoEvent::Output(bytes) = &event {
            lines.push_str(&String::from_utf8_lossy(bytes));
        }
        if wanted(&event) {
            return (lines, event);
        }
        let ends =
            matches!(event, DynoEvent::Exited { .. } | DynoEvent::StartFailed { .. } | DynoEvent::Lost);
        assert!(!ends, "{event:?} came first, after {lines:?}");
    }
}

pub async fn finish(handle: &mut DynoHandle) -> (String, DynoEvent) {
    until(handle, |event| {
        matches!(event, DynoEvent::Exited { .. } | DynoEvent::StartFailed { .. } | DynoEvent::Lost)
    })
    .await
}

/// Freezes it. On a busy machine that may take several attempts, as control makes them.
pub async fn frozen(handle: &mut DynoHandle, sleep_id: u64) {
    let is_answer = |event: &DynoEvent| {
        matches!(event, DynoEvent::FreezeFailed { .. }) || *event == DynoEvent::Frozen { sleep_id }
    };
    loop {
        handle.control.freeze(sleep_id).await.unwrap();
        if until(handle, is_answer).await.1 == (DynoEvent::Frozen { sleep_id }) {
            return;
        }
    }
}

/// All output of a further command, both streams together, and its end.
pub async fn finish_exec(output: &mut ExecOutput) -> (String, Option<i32>) {
    let mut text = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, output.next()).await.expect("an event in time") {
            Some(ExecEvent::Output { bytes, .. }) => text.extend(bytes),
            Some(ExecEvent::Ended { status }) => {
                return (String::from_utf8_lossy(&text).into_owned(), Some(status));
            }
            Some(ExecEvent::Failed { message }) => return (message, None),
            None => return (String::from_utf8_lossy(&text).into_owned(), None),
        }
    }
}

pub async fn until_line(handle: &mut DynoHandle, text: &str) -> String {
    let wanted = |event: &DynoEvent| matches!(event, DynoEvent::Log { line, .. } if String::from_utf8_lossy(line).contains(text));
    until(handle, wanted).await.0
}

pub fn status(event: &DynoEvent) -> i32 {
    match event {
        DynoEvent::Exited { status, .. } => *status,
        other => panic!("no exit: {other:?}"),
    }
}

/// The dyno-init of a dyno, by the file it holds locked.
pub fn dyno_init_of(data: &Path, dyno_id: DynoId) -> Option<i32> {
    let folder = format!("{}/run/dynos/{dyno_id}", data.display());
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let wanted = command.contains("\0supervise\0") && command.contains(&folder);
        wanted.then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

pub fn kill_nine(pid: i32) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}
