//! Runs the real `slug-compiler` on apps made in temporary folders.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use ferroku_core::protocol::build::{BuildOutcome, BuildPlan, BuildResult};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a run gave.
pub struct Built {
    pub text: String,
    pub status: Option<i32>,
    pub result: BuildResult,
}

/// An app, with the folders that a build dyno would have.
pub struct App {
    pub folder: tempfile::TempDir,
    pub cache_dir: PathBuf,
    pub buildpacks: Vec<String>,
    pub variables: Vec<(String, String)>,
    /// Put before the slug-compiler's own command line.
    pub wrapper: Vec<String>,
    builds: u32,
}

impl App {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = temporary_folder();
        for name in ["source", "env", "out", "cache", "spare"] {
            fs::create_dir(folder.path().join(name)).expect("mkdir");
        }
        let cache_dir = folder.path().join("cache");
        let app = Self {
            folder,
            cache_dir,
            buildpacks: Vec::new(),
            variables: Vec::new(),
            wrapper: Vec::new(),
            builds: 0,
        };
        files.iter().for_each(|(name, text)| app.write(name, text));
        app
    }

    /// A copy of a folder of the repository's `examples`.
    pub fn example(name: &str) -> Self {
        let app = Self::new(&[]);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        let status =
            Command::new("cp").arg("-a").arg(source.join(".")).arg(app.source()).status().expect("cp");
        assert!(status.success());
        app
    }

    pub fn with_buildpacks(mut self, buildpacks: &[&str]) -> Self {
        self.buildpacks = buildpacks.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    pub fn spare_dir(&self) -> PathBuf {
        self.folder.path().join("spare")
    }

    /// Writes a file of the source; scripts become executable.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
        fs::write(&path, text).expect("write");
        if text.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
    }

    pub fn set_config_var(&self, name: &str, value: &str) {
        fs::write(self.folder.path().join("env").join(name), value).expect("write");
    }

    /// Folder of the build that comes next, made.
    pub fn next_build_dir(&self) -> PathBuf {
        let path = self.folder.path().join(format!("build_{:08x}", self.builds + 1));
        fs::create_dir_all(&path).expect("mkdir");
        path
    }

    pub fn build_dir(&self) -> PathBuf {
        self.folder.path().join(format!("build_{:08x}", self.builds))
    }

    pub fn build(&mut self) -> Built {
        let build_dir = self.next_build_dir();
        self.builds += 1;
        let root = self.folder.path();
        let source_tar = root.join("source.tar");
        let mut tar = tar::Builder::new(File::create(&source_tar).expect("create"));
        tar.follow_symlinks(false);
        tar.append_dir_all(".", self.source()).expect("append");
        tar.finish().expect("finish");
        let plan = BuildPlan {
            stack: "heroku-24".to_owned(),
            app_name: "demo".to_owned(),
            buildpacks: self.buildpacks.clone(),
            source_version: Some("58d1fdd".to_owned()),
            request_id: Some("r".to_owned()),
            source_tar,
            strip_leading_folder: false,
            is_slug: false,
            build_dir,
            cache_dir: self.cache_dir.clone(),
            env_dir: root.join("env"),
            output_dir: root.join("out"),
            memory_bytes: Some(512 * 1024 * 1024),
        };
        let plan_path = root.join("plan.json");
        fs::write(&plan_path, serde_json::to_vec(&plan).expect("serialise")).expect("write");
        let mut words = self.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_slug-compiler").to_owned());
        words.push(plan_path.display().to_string());
        let mut compiler = Command::new(&words[0]);
        compiler.args(&words[1..]).env_clear().envs(network_settings()).envs(self.variables.iter().cloned());
        compiler.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/app").stdin(Stdio::null());
        let output = compiler.output().expect("start slug-compiler");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "all text belongs to stdout");
        let result = fs::read(root.join("out/result.json")).expect("a result after every run");
        Built {
            text: String::from_utf8(output.stdout).expect("UTF-8"),
            status: output.status.code(),
            result: serde_json::from_slice(&result).expect("valid result"),
        }
    }
}

impl Built {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!((self.result.outcome, self.status), (BuildOutcome::Succeeded, Some(0)), "{}", self.text);
        self
    }

    /// Expects this outcome, its exit status and exactly this text after the first line.
    #[track_caller]
    pub fn failed(self, outcome: BuildOutcome, text: &str) -> Self {
        assert_eq!(self.result.outcome, outcome, "{}", self.text);
        assert_eq!(self.status, Some(i32::from(outcome.exit_status())));
        let rest =
            self.text.strip_prefix("-----> Building on the Heroku-24 stack\n").expect("the first line");
        assert_eq!(rest, text, "full text:\n{}", self.text);
        self
    }
}

/// In memory where there is room: to delete some 10,000 small files takes many seconds on a slow disk.
fn temporary_folder() -> tempfile::TempDir {
    const ROOM_BYTES: u64 = 2 * 1024 * 1024 * 1024;
    let memory = Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|stat| stat.f_bavail * stat.f_frsize >= ROOM_BYTES);
    let folder = if has_room { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("tempdir")
}

/// How this machine reaches its package index, where that is said by environment variables.
fn network_settings() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| {
        name.starts_with("PIP_")
            || name.starts_with("UV_")
            || ["GOPROXY", "GOSUMDB", "GONOSUMDB"].contains(&name.as_str())
            || name.to_ascii_lowercase().starts_with("npm_config_")
            || name.to_ascii_lowercase().ends_with("_proxy")
            || ["SSL_CERT_FILE", "SSL_CERT_DIR"].contains(&name.as_str())
    })
}

/// Tests of one language share a cache, one after the other, to fetch its programs once.
pub fn shared_cache(name: &str) -> (MutexGuard<'static, ()>, PathBuf) {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&path).expect("mkdir");
    (guard, path)
}

/// A running web process; killed with all its children when dropped.
pub struct Web {
    child: Child,
    port: u16,
}

impl Web {
    /// Starts `command` as a dyno does: at another path than it was built at, profile scripts first.
    pub fn start(app_dir: &Path, command: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound").port();
        let script = format!("for f in \"$HOME\"/.profile.d/*.sh; do . \"$f\"; done; exec {command}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(app_dir).env_clear().env("HOME", app_dir);
        bash.env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("PORT", port.to_string())
            .env("GREETING", "Ahoy");
        bash.env("FERROKU_MEMORY_BYTES", "536870912").env("HEROKU_RELEASE_VERSION", "v3");
        let child =
            bash.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
        Self { child, port }
    }

    /// The answer to a GET, once there is one.
    pub fn get(&self, path: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                write!(stream, "GET {path} HTTP/1.1\r\nHost: demo.localhost\r\nConnection: close\r\n\r\n")
                    .expect("write");
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).expect("read");
                return String::from_utf8_lossy(&answer).into_owned();
            }
            assert!(Instant::now() < deadline, "nothing listens on the port");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops it and gives back what it printed on stdout.
    pub fn stop(mut self) -> String {
        self.kill();
        let mut text = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        text
    }

    fn kill(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A fixture of this crate, by its absolute path.
pub fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}
