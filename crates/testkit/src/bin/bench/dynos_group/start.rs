//! From "start" to a command's first instruction and to the first byte of a tiny server, beside what else starts
//! containers, in turns. The command is one program (an example of crates/runtime) that prints the machine's clock.
//!
//! Ours has everything on: overlay over a loop image, network with packet filter and DNS, cgroups, seccomp, log ring.
//! The others have the same namespaces and mounts of their own; of the network only an empty namespace. "libcontainer"
//! is the library that Ferroku starts dynos with and nothing around it; "fork+exec" has no isolation at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::Figure;
use crate::median;
use ferroku_testkit::node::program;

/// How often ours and the peers take turns.
const ROUNDS: usize = 6;
/// Starts of each in one turn; a figure is the median of all turns.
const STARTS: usize = 5;
/// Dynos of one release, at once.
const MANY: usize = 100;
/// Ids that no user of this machine has.
const FIRST_UID: u32 = 1_900_000_000;

/// Measures ours and the peers side by side.
pub fn measure() -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    let program = program().with_file_name("examples").join("start_times");
    let peers = Peer::all(folder.path(), &program);
    let mut ours = Vec::new();
    let mut first_bytes = Vec::new();
    let mut theirs = vec![Vec::new(); peers.len()];
    let mut bare_first_bytes = Vec::new();
    for _ in 0..ROUNDS {
        let times = numbers(&output(Command::new(&program).args(["one", &STARTS.to_string()])));
        for pair in times.chunks(2) {
            ours.push(pair[0] / 1000.0);
            first_bytes.push(pair[1] / 1000.0);
        }
        for (peer, times) in peers.iter().zip(&mut theirs) {
            times.extend((0..STARTS).map(|_| peer.start_ms()));
        }
        bare_first_bytes.extend((0..STARTS).map(|_| bare_first_byte_ms(&program)));
    }
    let exec = median(ours);
    let mut figures: Vec<Figure> = peers
        .iter()
        .zip(theirs)
        .map(|(peer, times)| {
            let figure =
                Figure::against("start of a dyno to its command", "ms", exec, peer.name, median(times));
            figure.ratio_at_most(peer.target)
        })
        .collect();
    let [first_byte, bare] = [first_bytes, bare_first_bytes].map(median);
    figures.push(Figure::against(
        "start to the first byte of a tiny server",
        "ms",
        first_byte,
        "fork+exec",
        bare,
    ));
    figures.extend(many(&program));
    figures
}

fn many(program: &Path) -> [Figure; 3] {
    let many = numbers(&output(Command::new(program).args(["many", &MANY.to_string()])));
    [
        Figure::new(format!("{MANY} dynos of one release, until all answer"), "s", many[0]).at_most(6.0),
        Figure::new("  dyno-init and pid 1, proportional, each of them", "MB", many[1]).at_most(0.5),
        Figure::new("  all that they take beside the app, kernel too", "MB", many[2]).at_most(1.5),
    ]
}

/// What else starts a command.
struct Peer {
    name: &'static str,
    /// Ours divided by theirs, at most.
    target: Option<f64>,
    /// The program and its arguments; `ID` stands for a name that is new each time.
    command: Vec<String>,
}

impl Peer {
    /// Those that are installed; the others are said to be absent.
    fn all(folder: &Path, program: &Path) -> Vec<Self> {
        let bundle = bundle(folder, program);
        let bundle = bundle.to_str().expect("a path in UTF-8");
        let program = program.to_str().expect("a path in UTF-8");
        let root = format!("{bundle}/rootfs");
        let peer = |name, target, command: &[&str]| Self {
            name,
            target,
            command: command.iter().map(|word| (*word).to_owned()).collect(),
        };
        let peers = vec![
            peer("libcontainer", Some(1.0), &[program, "bare", bundle, "ID"]),
            peer("runc", Some(1.0), &["runc", "run", "--bundle", bundle, "ID"]),
            peer("crun", None, &["crun", "run", "--bundle", bundle, "ID"]),
            peer(
                "bubblewrap",
                None,
                &[
                    "bwrap",
                    "--unshare-all",
                    "--unshare-user",
                    "--uid",
                    "1000",
                    "--gid",
                    "1000",
                    "--bind",
                    &root,
                    "/",
                    "--ro-bind",
                    "/usr",
                    "/usr",
                    "--proc",
                    "/proc",
                    "--dev",
                    "/dev",
                    "--tmpfs",
                    "/tmp",
                    "--die-with-parent",
                    "/app/start_times",
                    "clock",
                ],
            ),
            peer("fork+exec", None, &[program, "clock"]),
        ];
        peers.into_iter().filter(Self::starts).collect()
    }

    fn starts(&self) -> bool {
        let tried = self.invocation().output();
        let starts = tried.as_ref().is_ok_and(|output| output.status.success());
        if !starts {
            let why = match tried {
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            eprintln!("SKIPPED: {} does not start here: {why}", self.name);
        }
        starts
    }

    fn start_ms(&self) -> f64 {
        let began = clock_us();
        (numbers(&output(&mut self.invocation()))[0] - began) / 1000.0
    }

    fn invocation(&self) -> Command {
        let id = format!("bench-{}", uuid::Uuid::new_v4().simple());
        let mut words = self.command.iter().map(|word| if word == "ID" { &id } else { word });
        let mut command = Command::new(words.next().expect("a command has a program"));
        command.args(words).stdin(Stdio::null());
        command
    }
}

/// An OCI bundle with the namespaces of a dyno and the machine's `/usr`.
fn bundle(folder: &Path, program: &Path) -> PathBuf {
    let bundle = folder.join("bundle");
    let root = bundle.join("rootfs");
    for name in ["app", "usr", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(name)).expect("our own folder");
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name)).expect("our own folder");
    }
    fs::copy(program, root.join("app/start_times")).expect("built by make bench");
    let ids = json!([{ "containerID": 0, "hostID": FIRST_UID, "size": 65_536 }]);
    let kinds = ["user", "pid", "mount", "uts", "ipc", "cgroup", "network"];
    let namespaces: Vec<_> = kinds.map(|kind| json!({ "type": kind })).to_vec();
    let configuration = json!({
        "ociVersion": "1.0.2",
        "hostname": "bench",
        "root": { "path": root, "readonly": true },
        "process": {
            "terminal": false,
            "user": { "uid": 1000, "gid": 1000 },
            "args": ["/app/start_times", "clock"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
            "noNewPrivileges": true
        },
        "mounts": [
            { "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] },
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"] }
        ],
        "linux": { "uidMappings": ids, "gidMappings": ids, "namespaces": namespaces }
    });
    let text = serde_json::to_string(&configuration).expect("plain values");
    fs::write(bundle.join("config.json"), text).expect("our own folder");
    bundle
}

/// The tiny server without any isolation.
fn bare_first_byte_ms(program: &Path) -> f64 {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.expect("a free port").port();
    let began = clock_us();
    let mut server = Ended(
        Command::new(program)
            .arg("serve")
            .env("PORT", port.to_string())
            .process_group(0)
            .spawn()
            .expect("built by make bench"),
    );
    let at = numbers(&output(Command::new(program).args(["fetch", &format!("127.0.0.1:{port}")])))[0];
    let _ = server.0.kill();
    (at - began) / 1000.0
}

/// A child that ends with the measurement.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::piped()).output().expect("it is installed by scripts/setup.sh bench");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

/// The clock that the command prints.
fn clock_us() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}
