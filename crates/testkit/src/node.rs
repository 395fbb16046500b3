//! A whole node in a folder of its own, on free ports, and the clients that speak to it.
//!
//! ```no_run
//! let node = ferroku_testkit::TestNode::start();
//! node.run("heroku apps").succeeded();
//! node.stop(); // and fails if anything is left on the machine
//! ```
//!
//! Every command goes through a forwarder on another port, and every answer of the API that passes it is checked
//! against the Platform API's schema.

use crate::command::{self, CommandOutput};
use crate::disk::SmallDisk;
use crate::tunnel::Tunnel;
use crate::{leak, mask, ports, schema, traffic};
use serde::Deserialize;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A node starts in about a second, and what is waited for comes soon; a machine that does much else is given minutes.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Dynos have 30 s to drain.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// One command line: the longest is a first push, which installs an app's dependencies.
const COMMAND_LIMIT: Duration = Duration::from_secs(240);

/// The example apps of this repository.
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
/// Scripts for other clients than the Heroku CLI.
const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../server/tests/clients");
/// Where `scripts/setup.sh test` installs what Debian does not have.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools");

/// Commands for the lines of tables.
const TOOLS_OF_OURS: [(&str, &str); 3] = [
    ("terminal", include_str!("terminal.py")),
    ("soon", include_str!("soon.py")),
    ("port80", include_str!("port80.py")),
];

/// The node's first account, as DIR/owner.json has it.
#[derive(Debug, Clone, Deserialize)]
pub struct Owner {
    pub email: String,
    pub password: String,
    pub api_key: String,
}

/// How a node is to be started.
#[derive(Debug, Default, Clone)]
pub struct NodeOptions {
    /// More arguments of `ferrokud server`.
    pub arguments: Vec<String>,
    /// Environment of its processes: crash points and the like.
    pub environment: Vec<(String, String)>,
    /// None for SQLite in the data folder.
    pub database_url: Option<String>,
    /// A disk of its own of this size for the data folder, to be filled; none for a folder on the machine's.
    pub disk_bytes: Option<u64>,
}

/// A running node.
#[derive(Debug)]
pub struct TestNode {
    /// With [`NodeOptions::disk_bytes`]. First, because it is mounted in the folder, which goes after it.
    pub disk: Option<SmallDisk>,
    folder: TempDir,
    pub data: PathBuf,
    /// Where commands run.
    pub work: PathBuf,
    options: NodeOptions,
    supervisor: Option<Child>,
    pub api: SocketAddr,
    pub router: SocketAddr,
    pub owner: Owner,
    pub tunnel: Tunnel,
}

impl TestNode {
    /// A node on SQLite.
    pub fn start() -> Self {
        Self::start_with(NodeOptions::default())
    }

    /// A node started in this way.
    ///
    /// # Panics
    /// When it does not come up; with what it said.
    pub fn start_with(options: NodeOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("ferroku-test-").tempdir().expect("a temporary folder");
        // Dynos and the router reach their folders through it.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("our own folder");
        let disk = options.disk_bytes.map(|bytes| SmallDisk::mount(folder.path(), bytes));
        let data = disk.as_ref().map_or(folder.path(), |disk| &disk.folder).join("data");
        let [api, router] = ports::free().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (supervisor, api, router) = spawn(&data, folder.path(), &options, api, router);
        let owner = fs::read(data.join("owner.json")).expect("the node writes it at its first start");
        let owner: Owner = serde_json::from_slice(&owner).expect("owner.json is valid");
        let work = folder.path().join("work");
        fs::create_dir_all(&work).expect("our own folder");
        fs::create_dir_all(folder.path().join("home")).expect("our own folder");
        let tools = folder.path().join("bin");
        fs::create_dir_all(&tools).expect("our own folder");
        for (name, script) in TOOLS_OF_OURS {
            let path = tools.join(name);
            fs::write(&path, format!("#!/usr/bin/env python3\n{script}"))
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
                .expect("our own folder");
        }
        let tunnel = Tunnel::to(api);
        let node = Self {
            data,
            work,
            options,
            supervisor: Some(supervisor),
            api,
            router,
            owner,
            tunnel,
            disk,
            folder,
        };
        node.write_environment();
        node
    }

    /// Starts it again after [`TestNode::kill`] or [`TestNode::stop_supervisor`], on the same ports.
    pub fn start_again(&mut self) {
        let (supervisor, ..) = spawn(&self.data, self.folder.path(), &self.options, self.api, self.router);
        self.supervisor = Some(supervisor);
    }

    /// For the next start.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.options.environment = environment;
    }

    /// Creates the app `name` and, in the folder of that name, a clone of the smallest example that can be pushed to it.
    ///
    /// # Panics
    /// When a command fails.
    pub fn make_app(&self, name: &str) {
        self.run(&format!("heroku create {name} --no-remote")).succeeded();
        self.run(&format!(
            "cp -r \"$EXAMPLES/procfile-only\" {name} && cd {name} && git init -q -b main && git add . && \
             git commit -qm first && heroku git:remote -a {name}"
        ))
        .succeeded();
    }

    /// Runs a shell command line with the real clients, as a person whose shell did `eval "$(ferrokud env)"`.
    ///
    /// # Panics
    /// When it prints what only a missing field prints, or an answer of the API breaks the schema.
    pub fn run(&self, line: &str) -> CommandOutput {
        let output = self.run_unchecked(line);
        if let Some(nonsense) = mask::nonsense(&output.text) {
            panic!("`{line}` printed {nonsense:?} in:\n{}", output.text);
        }
        output
    }

    /// The same for commands whose output may hold `null`, such as JSON.
    ///
    /// # Panics
    /// When an answer of the API breaks the schema.
    pub fn run_unchecked(&self, line: &str) -> CommandOutput {
        let mut command = self.shell(line);
        let output = command::run(&mut command, COMMAND_LIMIT);
        let violations = self.violations();
        assert!(violations.is_empty(), "`{line}`: the API broke its schema:\n{}", violations.join("\n"));
        output
    }

    /// The shell command that [`TestNode::run`] runs, not started yet.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        let script = format!(
            ". ../environment\nPASSWORD='{}' ROUTER_PORT={} EXAMPLES='{EXAMPLES}' CLIENTS='{CLIENTS}' TOOLS='{TOOLS}'\n{line}",
            self.owner.password,
            self.router.port()
        );
        command.args(["-c", &script]).current_dir(&self.work).env_clear();
        command.env("HOME", self.folder.path().join("home")).env("LANG", "C.UTF-8").env("TERM", "dumb");
        command.env("COLUMNS", "120").env("PATH", self.path_of_commands());
        for name in ["GIT_AUTHOR", "GIT_COMMITTER"] {
            command.env(format!("{name}_NAME"), "Ada").env(format!("{name}_EMAIL"), "ada@example.com");
        }
        command
    }

    /// What broke the schema in the traffic since the last look.
    pub fn violations(&self) -> Vec<String> {
        let recordings = self.tunnel.take();
        let exchanges = recordings.iter().flat_map(traffic::exchanges);
        exchanges.flat_map(|exchange| schema::violations(&exchange)).collect()
    }

    /// `text` with this node's own ports, paths and secrets replaced, and all that differs between runs.
    pub fn mask(&self, text: &str) -> String {
        let literals = [
            (self.owner.api_key.clone(), "[API KEY]".to_owned()),
            (self.owner.password.clone(), "[PASSWORD]".to_owned()),
            (self.data.display().to_string(), "[DATA]".to_owned()),
            (self.work.display().to_string(), "[WORK]".to_owned()),
            (self.folder.path().join("home").display().to_string(), "[HOME]".to_owned()),
            (format!(":{}", self.tunnel.address.port()), ":[API]".to_owned()),
            (format!(":{}", self.api.port()), ":[NODE'S OWN API PORT]".to_owned()),
            (format!(":{}", self.router.port()), ":[ROUTER]".to_owned()),
        ];
        mask::mask(text, &literals)
    }

    /// What the node said on stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("node.log")).unwrap_or_default()
    }

    /// Process id of `control` or `router`, by its pid file.
    pub fn pid_of(&self, name: &str) -> Option<i32> {
        let text = fs::read_to_string(self.data.join("run").join(format!("{name}.pid"))).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// `kill -9` of `control` or `router`; returns when another one serves in its place.
    ///
    /// # Panics
    /// When none comes.
    pub fn kill_process(&self, name: &str) {
        // At a crash point it may be between two lives.
        self.wait_for(name, || self.pid_of(name).is_some());
        let old = self.pid_of(name);
        kill(old.expect("it was there a moment ago"));
        self.wait_for_another(name, old);
    }

    /// Waits until `control` or `router` serves with another process id than `old`.
    ///
    /// # Panics
    /// It does not in time.
    pub fn wait_for_another(&self, name: &str, old: Option<i32>) {
        self.wait_for(&format!("another {name}"), || {
            let path = self.data.join("run").join(format!("{name}.pid"));
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut lines = text.lines();
            let pid = lines.next().and_then(|pid| pid.parse().ok());
            pid.is_some() && pid != old && lines.next() == Some("ready")
        });
    }

    /// Process id of the supervisor.
    ///
    /// # Panics
    /// It does not run.
    pub fn supervisor_pid(&self) -> u32 {
        self.supervisor.as_ref().expect("it runs").id()
    }

    /// `kill -9` of the supervisor; control, router and dynos go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_supervisor(&mut self) {
        let mut supervisor = self.supervisor.take().expect("it runs");
        supervisor.kill().expect("our own child");
        supervisor.wait().expect("our own child");
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// After a minute.
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + START_LIMIT;
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain for {what}; the node said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the node as Ctrl-C does, and looks for leaks.
    ///
    /// # Panics
    /// When it does not stop, says that it failed, or left something behind.
    pub fn stop(mut self) {
        self.stop_supervisor();
        let leaks = leak::leaks(&self.data);
        assert!(leaks.is_empty(), "the node left behind:\n{}\nit said:\n{}", leaks.join("\n"), self.log());
    }

    /// SIGTERM to the supervisor, and its end.
    ///
    /// # Panics
    /// When it does not end in time or fails.
    pub fn stop_supervisor(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        signal(supervisor.id(), rustix::process::Signal::TERM);
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = supervisor.try_wait().expect("our own child") {
                assert!(status.success(), "the supervisor ended with {status}:\n{}", self.log());
                return;
            }
            assert!(Instant::now() < deadline, "the node does not stop; it said:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The clients, `terminal`, `soon` and `port80` (see `terminal.py`, `soon.py`, `port80.py`).
    fn path_of_commands(&self) -> String {
        format!("{}:{}", self.folder.path().join("bin").display(), path_of_clients())
    }

    fn write_environment(&self) {
        let output = Command::new(program())
            .arg("env")
            .arg("--data")
            .arg(&self.data)
            .env_clear()
            .output()
            .expect("ferrokud runs");
        assert!(output.status.success(), "ferrokud env: {}", String::from_utf8_lossy(&output.stderr));
        let exports = String::from_utf8_lossy(&output.stdout);
        // Through the forwarder, as through an SSH tunnel.
        let exports =
            exports.replace(&format!(":{}", self.api.port()), &format!(":{}", self.tunnel.address.port()));
        fs::write(self.folder.path().join("environment"), exports).expect("our own folder");
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // A test that failed must not leave its node running.
        if let Some(mut supervisor) = self.supervisor.take() {
            signal(supervisor.id(), rustix::process::Signal::TERM);
            let deadline = Instant::now() + STOP_LIMIT;
            while Instant::now() < deadline && !matches!(supervisor.try_wait(), Ok(Some(_))) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = supervisor.kill();
        }
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- the node's own messages ---\n{}", self.log());
        }
    }
}

/// The program under test: beside the folder of the running test.
///
/// # Panics
/// When it was not built.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let folder = test.parent().and_then(Path::parent).expect("target/release/deps");
    let beside = [folder.join("ferrokud"), test.with_file_name("ferrokud")];
    beside.into_iter().find(|path| path.exists()).expect("ferrokud is built: run `make build`")
}

/// A PATH with the Heroku CLI, wherever `make` or the caller put it.
fn path_of_clients() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let test = std::env::current_exe().expect("this test's path");
    let tools =
        test.ancestors().map(|folder| folder.join("tools/node_modules/.bin")).find(|folder| folder.exists());
    match tools {
        Some(tools) => format!("{}:{path}", tools.display()),
        None => path,
    }
}

fn spawn(
    data: &Path,
    folder: &Path,
    options: &NodeOptions,
    api: SocketAddr,
    router: SocketAddr,
) -> (Child, SocketAddr, SocketAddr) {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("node.log"))
        .expect("our own folder");
    let mut command = Command::new(program());
    command.arg("server").arg("--data").arg(data);
    command.arg("--listen").arg(api.to_string()).arg("--router").arg(router.to_string());
    command.args(["--owner", "owner@example.com"]).args(&options.arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    if let Some(url) = &options.database_url {
        command.env("FERROKU_DATABASE_URL", url);
    }
    let mut child = command.spawn().expect("ferrokud runs");
    let stdout = child.stdout.take().expect("piped");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let line = lines.recv_timeout(START_LIMIT);
    let Ok(line) = line else {
        signal(child.id(), rustix::process::Signal::TERM);
        let said = fs::read_to_string(folder.join("node.log")).unwrap_or_default();
        panic!("the node did not become ready; it said:\n{said}");
    };
    assert!(line.starts_with("ready"), "the first line on stdout is {line:?}");
    let api = fs::read_to_string(data.join("run/endpoint")).expect("the node writes it");
    let api = api.trim().parse().expect("an address");
    let port = line.split(" apps on http://").nth(1).and_then(|rest| rest.split([':', ',']).nth(1));
    let port: u16 = port.and_then(|port| port.parse().ok()).expect("the ready line names the router's port");
    (child, api, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// What ended by itself meanwhile is as dead as it was to be.
pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid is not 0");
    match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("{pid:?} cannot be killed: {error}"),
    }
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}
