//! The machine that the attempts are made on: a host of its own by namespaces, a node, neighbours, and things to find.

use crate::cases::{From, Host};
use crate::network::{FarSide, Names};
use crate::protections::{self, HOST_NETWORK, HUNGRY_UID_BASE, STRANGER_UID_BASE};
use crate::support::{self, TestNode, spec};
use ferroku_core::DynoId;
use ferroku_core::uids::FIRST_APP_UID;
use ferroku_runtime::{Driver, DynoHandle, DynoSpec, ExecRequest, Limits, SandboxConfig, SandboxDriver};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

const ATTEMPTS: &str = include_str!("attempts.py");
/// The folder in the node's data folder from which the host runs them.
const ON_HOST: &str = "on-host";
const HOGS: &str = include_str!("hogs.py");
const LINKS: &str = include_str!("links.py");
const SCRIPTS: &[(&str, &str)] = &[("attempts.py", ATTEMPTS), ("hogs.py", HOGS), ("links.py", LINKS)];
/// Where the dyno listens that is to be reached.
const DYNO_PORT: u16 = 5006;
/// Set in the process that has the namespaces.
const ON_STAGE: &str = "FERROKU_ESCAPE_ON_STAGE";
const SECRET: &str = "the-secret-of-another-app";
const NOBODY: &str = "65534";
/// As dynos have it: the Python of the caller may be one that nobody else may run.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// Names of the folder in the node's data folder with the lists of removed protections, by dyno.
const REMOVED: &str = "removed";

/// A host of its own: network, host name, SysV and POSIX queues. What is done to it is done to nobody else's.
const ENTER: &str = r#"
set -e
hostname escape-host
ip link set lo up
kept=$(mktemp -d)
mount --rbind /sys/fs/cgroup "$kept"
mount -t sysfs sysfs /sys
mount --rbind "$kept" /sys/fs/cgroup
umount -l "$kept"
rmdir "$kept"
exec "$0" "$@"
"#;

/// Things of the host to find; makes them, says so, and takes them away when its input ends.
const THINGS: &str = r#"
import ctypes, json, os, socket, sys
know = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
os.umask(0)
for name in ["var_file", "run_file"]:
    with open(know[name], "w") as file:
        file.write(know["secret"])
keep = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for one, name in zip(keep, [know["socket"], "\0" + know["abstract"]]):
    one.bind(name)
    one.listen()
loopback = socket.create_server(("127.0.0.1", know["loopback_port"]))
port = socket.create_server(("::", know["node_port"]), family=socket.AF_INET6, dualstack_ipv6=True)
shm = libc.shmget(know["shm_key"], 4096, 0o1666)
assert shm >= 0
queue = libc.syscall(240, know["queue"].encode(), os.O_CREAT | os.O_RDWR, 0o666, 0)
assert queue >= 0
print("ready", flush=True)
sys.stdin.read()
libc.shmctl(shm, 0, None)
libc.syscall(241, know["queue"].encode())
for name in ["var_file", "run_file", "socket"]:
    os.unlink(know[name])
"#;

/// Whether this is the process on a host of its own.
pub fn is_entered() -> bool {
    std::env::var_os(ON_STAGE).is_some()
}

/// Runs this program again on a host of its own, with dynos that this OCI runtime makes, if one is named.
pub fn succeeds(oci_runtime: Option<PathBuf>) -> bool {
    let mut command = Command::new("unshare");
    if let Some(program) = oci_runtime {
        command.env(support::OCI_RUNTIME, program);
    }
    let status = command
        .args(["--net", "--mount", "--uts", "--ipc", "--", "bash", "-c", ENTER])
        .arg(std::env::current_exe().expect("our own program"))
        .args(std::env::args_os().skip(1))
        .env(ON_STAGE, "1")
        .status();
    status.expect("unshare runs").success()
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Works,
    Fails(String),
    /// The kernel does not have it at all.
    Absent(String),
    /// Something is wrong with the test.
    NotTried(String),
}

/// By attempt.
pub type Outcomes = BTreeMap<String, Outcome>;

pub struct Stage {
    pub node: TestNode,
    neighbours: Vec<DynoHandle>,
    things: Child,
    know: Map<String, Value>,
    slug: String,
    programs: PathBuf,
    far_side: FarSide,
    pub names: Names,
}

impl Stage {
    pub async fn set() -> Self {
        let folder = tempfile::Builder::new().prefix("ferroku-run-").tempdir().expect("temporary folder");
        // What protects here is not that nobody may pass through the folder.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let programs = folder.path().join("altered");
        fs::create_dir_all(&programs).unwrap();
        fs::create_dir_all(folder.path().join(REMOVED)).unwrap();
        symlink(support::programs().join("dyno-init"), programs.join("dyno-init")).unwrap();
        symlink(std::env::current_exe().unwrap(), programs.join("dyno-create")).unwrap();
        fs::write(folder.path().join(HOST_NETWORK), format!("/proc/{}/ns/net", std::process::id())).unwrap();
        let attempts = put_scripts(folder.path());
        let far_side = FarSide::make(&attempts, PATH);
        let config = SandboxConfig {
            data: folder.path().to_path_buf(),
            programs: programs.clone(),
            allowed_networks: vec![],
            oci_runtime: support::oci_runtime(),
        };
        let driver = SandboxDriver::open(config).await.expect("driver opens");
        let mut names = Names::read(folder.path());
        protections::check_rules(&names.comments());
        let node = TestNode { driver: Some(driver), folder };
        let slug = node.slug(SCRIPTS);
        let root = node.data().join("slugs").join(&slug);
        symlink("/", root.join("link")).unwrap();
        symlink("../../../../../../..", root.join("up")).unwrap();
        let mut neighbours = Vec::new();
        let mut know = Map::new();
        for (name, uid_base) in [("relative", FIRST_APP_UID), ("stranger", STRANGER_UID_BASE)] {
            let serve = format!("python3 /app/attempts.py serve {DYNO_PORT} {SECRET}");
            let line = format!("{serve} & exec -a {name} sleep 10000");
            let spec =
                DynoSpec { uid_base, slug_digest: Some(slug.clone()), port: Some(DYNO_PORT), ..spec(&line) };
            if name == "relative" {
                // It would answer to whoever reaches it over the bridge.
                write_list(&node, spec.dyno_id, &["link without IPv6", "one neighbour"].map(str::to_owned));
            }
            let environment = support::environment(&[("KEY", SECRET)]);
            let mut handle = node.driver().start(spec, environment).await.expect("starts");
            let said = support::until_line(&mut handle, SECRET).await;
            know.insert(name.into(), pid_of(name, handle.dyno_id).await.into());
            if name == "relative" {
                know.insert("dyno_link_local".into(), said.trim().rsplit(' ').next().unwrap().into());
            }
            neighbours.push(handle);
        }
        let [near, far] = [0, 1].map(|number: usize| neighbours[number].address.expect("an address").ip());
        names.set_target(near);
        know.insert("near_dyno".into(), near.to_string().into());
        know.insert("dyno".into(), far.to_string().into());
        know.insert("dyno_port".into(), DYNO_PORT.into());
        know.extend(names.know(free_port()));
        let other = node.slug(&[("secret.py", "source of another app")]);
        know.extend(things_to_know(&node, &other, neighbours[1].dyno_id));
        let things = make_things(&know);
        neighbours.push(hungry_neighbour(&node, &slug).await);
        Self { node, neighbours, things, know, slug, programs, far_side, names }
    }

    /// Attempts on the host, without a sandbox.
    pub fn on_host(&self, host: Host, attempts: &[&str]) -> Outcomes {
        let from = if host == Host::User { From::NodeUser } else { From::NodeRoot };
        self.outside(from, attempts)
    }

    /// Attempts without some protections, which are not there while this runs.
    pub async fn attempt(&self, from: From, removed: &[String], attempts: &[&str]) -> Outcomes {
        match from {
            From::Dyno | From::DynoAtOnce => self.in_dyno(from, removed, attempts).await,
            _ => self.outside(from, attempts),
        }
    }

    fn outside(&self, from: From, attempts: &[&str]) -> Outcomes {
        let far_side = format!("--net=/proc/{}/ns/net", self.far_side.pid());
        let (program, arguments) = match from {
            From::NodeUser => ("setpriv", vec!["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]),
            From::FarSide => ("nsenter", vec![far_side.as_str(), "--"]),
            _ => ("env", vec![]),
        };
        let mut command = Command::new(program);
        command.args(arguments).arg("python3").arg(self.node.data().join(ON_HOST).join("attempts.py"));
        command.arg(self.know(from, attempts)).current_dir("/").env("PATH", PATH);
        let output = command.output().expect("it runs");
        let [text, complaints] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        read_outcomes(&text, attempts, &complaints)
    }

    async fn in_dyno(&self, from: From, removed: &[String], attempts: &[&str]) -> Outcomes {
        let line = "python3 /app/attempts.py \"$KNOW\"; true";
        let mut spec = DynoSpec { slug_digest: Some(self.slug.clone()), ..spec(line) };
        spec.limits = Limits { disk_bytes: 64 << 20, ..spec.limits };
        protections::alter_request(removed, &mut spec);
        write_list(&self.node, spec.dyno_id, removed);
        let environment = support::environment(&[("KNOW", &self.know(from, attempts))]);
        let mut handle = self.node.driver().start(spec, environment).await.expect("starts");
        let (text, end) = support::finish(&mut handle).await;
        self.node.driver().remove(handle.dyno_id).await.expect("removes");
        read_outcomes(&text, attempts, &format!("without {removed:?}: {end:?}"))
    }

    /// Attempts by a further command in a dyno that runs: what `ps:exec`, `run:inside` and `ps:copy` start.
    pub async fn in_session(&self, removed: &[String], attempts: &[&str]) -> Outcomes {
        let mut spec = DynoSpec { slug_digest: Some(self.slug.clone()), ..spec("echo ready; sleep 10000") };
        spec.limits = Limits { disk_bytes: 64 << 20, ..spec.limits };
        protections::alter_request(removed, &mut spec);
        write_list(&self.node, spec.dyno_id, removed);
        let mut handle = self.node.start(spec).await;
        support::until_line(&mut handle, "ready").await;
        let environment = support::environment(&[("KNOW", &self.know(From::Dyno, attempts))]);
        let command = ferroku_runtime::Command::Shell("python3 /app/attempts.py \"$KNOW\"; true".into());
        let request = ExecRequest { environment, command, terminal: None };
        let mut session = handle.control.exec(request).await.expect("a further command starts");
        let (text, end) = support::finish_exec(&mut session.output).await;
        self.node.driver().remove(handle.dyno_id).await.expect("removes");
        read_outcomes(&text, attempts, &format!("a further command without {removed:?}: {end:?}"))
    }

    fn know(&self, from: From, attempts: &[&str]) -> String {
        let mut know = self.know.clone();
        know.insert("at_once".into(), (from == From::DynoAtOnce).into());
        know.insert("bridge_link_local".into(), self.names.link_local().into());
        know.insert("attempts".into(), json!(attempts));
        Value::Object(know).to_string()
    }

    /// Takes everything down; nothing may be left.
    pub async fn strike(mut self) {
        drop(self.things.stdin.take());
        self.things.wait().expect("ends");
        for name in ["var_file", "run_file", "socket"] {
            let path = self.know[name].as_str().unwrap();
            assert!(!Path::new(path).exists(), "{path} is left");
        }
        for neighbour in &self.neighbours {
            self.node.driver().remove(neighbour.dyno_id).await.expect("removes");
        }
        let _ = fs::remove_dir_all(&self.programs);
        drop(self.far_side);
        self.node.close().await;
    }
}

/// The role of `dyno-create` without some protections.
pub fn create() -> ExitCode {
    ferroku_runtime::dyno_init::create_altered(|run_folder, spec| {
        let id = run_folder.file_name().expect("the dyno's id");
        let data = run_folder.ancestors().nth(3).expect("a data folder");
        // A neighbour has no list.
        let list = fs::read(data.join(REMOVED).join(id)).unwrap_or_else(|_| b"[]".to_vec());
        let removed: Vec<String> = serde_json::from_slice(&list).expect("a list of names");
        protections::alter(&removed, spec);
    })
}

/// Where the host runs the attempts from.
fn put_scripts(data: &Path) -> PathBuf {
    let folder = data.join(ON_HOST);
    fs::create_dir(&folder).unwrap();
    // Python lists the folders that it loads from.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, text) in SCRIPTS {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    folder.join("attempts.py")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn write_list(node: &TestNode, dyno_id: DynoId, removed: &[String]) {
    let list = node.data().join(REMOVED).join(dyno_id.to_string());
    fs::write(&list, serde_json::to_vec(removed).unwrap()).unwrap();
}

/// A dyno of an app whose use is counted as root's: what it holds is missing wherever else root's account is used.
async fn hungry_neighbour(node: &TestNode, slug: &str) -> DynoHandle {
    let line = "exec python3 /app/attempts.py be_hungry";
    let spec = DynoSpec { uid_base: HUNGRY_UID_BASE, slug_digest: Some(slug.to_owned()), ..spec(line) };
    write_list(node, spec.dyno_id, &["account of the app".to_owned()]);
    let mut handle = node.start(spec).await;
    support::until_line(&mut handle, "hungry").await;
    handle
}

async fn pid_of(name: &str, dyno_id: DynoId) -> u32 {
    // The command's shell becomes the program a moment after its line.
    for _ in 0..500 {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if command.starts_with(name.as_bytes()) && cgroup.contains(&dyno_id.to_string()) {
                return entry.file_name().to_string_lossy().parse().unwrap();
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name} does not run");
}

fn things_to_know(node: &TestNode, other_slug: &str, stranger: DynoId) -> Map<String, Value> {
    let own = std::process::id();
    let dyno = node.data().join("dynos").join(stranger.to_string());
    let spec = node.data().join("run/dynos").join(stranger.to_string()).join("config.json");
    let spec: Value = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
    protections::check_spec(&spec);
    let known = json!({
        "secret": SECRET,
        "masked": spec["linux"]["maskedPaths"],
        "read_only": spec["linux"]["readonlyPaths"],
        "slug_file": node.data().join("slugs").join(other_slug).join("secret.py"),
        "var_file": format!("/var/tmp/ferroku-escape-{own}"),
        "run_file": format!("/run/ferroku-escape-{own}"),
        "identity": node.data().join("node.json"),
        "ring": dyno.join("ring"),
        "image": dyno.join("upper.img"),
        "socket": format!("/run/ferroku-escape-{own}.sock"),
        "abstract": "ferroku-escape",
        "loopback_port": free_port(),
        "shm_key": 0x0fe_4404,
        "queue": "ferroku-escape",
        "host_name": fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(),
        "set_uid": set_uid_program(),
        "handle": file_handle(node),
    });
    let Value::Object(known) = known else { unreachable!("it is written as one") };
    known
}

fn make_things(know: &Map<String, Value>) -> Child {
    let mut child = Command::new("python3")
        .args(["-c", THINGS, &Value::Object(know.clone()).to_string()])
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "the things of the host are made");
    child
}

fn set_uid_program() -> String {
    let known = ["/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd"];
    let has =
        |path: &&&str| fs::metadata(path).is_ok_and(|found| found.mode() & 0o4000 != 0 && found.uid() == 0);
    known.iter().find(has).expect("util-linux has set-uid programs").to_string()
}

/// The handle of a file of the host, as hex; what a dyno would guess.
fn file_handle(node: &TestNode) -> String {
    let script =
        "import attempts, os; print(attempts.file_handle(os.path.realpath('/usr/bin/python3')).raw.hex())";
    let output = Command::new("python3")
        .args(["-B", "-c", script])
        .current_dir(node.data().join(ON_HOST))
        .env("PATH", PATH)
        .output();
    let output = output.expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn read_outcomes(text: &str, attempts: &[&str], context: &str) -> Outcomes {
    let mut outcomes = BTreeMap::new();
    for line in text.lines() {
        let Some((name, result)) = line.strip_prefix("@ ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let outcome = match result.split_once(": ") {
            None if result == "works" => Outcome::Works,
            Some(("fails", reason)) => Outcome::Fails(reason.to_owned()),
            Some(("absent", reason)) => Outcome::Absent(reason.to_owned()),
            _ => panic!("{line:?}"),
        };
        outcomes.insert(name.to_owned(), outcome);
    }
    for attempt in attempts {
        outcomes
            .entry((*attempt).to_owned())
            .or_insert_with(|| Outcome::NotTried(format!("{context} {text}")));
    }
    outcomes
}
