//! A control process's inner parts on a real sandbox, with a router that only keeps the tables it gets.

use anyhow::{Context, Result};
use ferroku_core::account::Role;
use ferroku_core::app::App;
use ferroku_core::dyno::{Dyno, DynoState};
use ferroku_core::event::Actor;
use ferroku_core::protocol::frame::Decoder;
use ferroku_core::protocol::router::{
    Drained, FromRouter, Hello, PROTOCOL_VERSION, Role as Peer, RouteApp, RouteTable, TableApplied,
    TargetState, ToRouter,
};
use ferroku_core::slug::{ProcessTypes, Slug};
use ferroku_core::{AccountId, AppId, DynoId, ReleaseId, SlugId, uids};
use ferroku_logplex::{Filter, Logplex};
use ferroku_runtime::{Driver, SandboxConfig, SandboxDriver};
use ferroku_server::dynos::{DynoManager, DynoSettings, Parts};
use ferroku_server::router_link::RouterLink;
use ferroku_store::accounts::NewAccount;
use ferroku_store::apps::NewApp;
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use ferroku_store::{MasterKey, Store, accounts, apps, dynos, formations, releases, slugs, write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// A web process that answers every request, and says what it got on SIGTERM.
pub const SERVER: &str = r#"
import http.server, os, signal, sys
def ended(*_):
    print("got SIGTERM", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, ended)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("release " + os.environ["HEROKU_RELEASE_VERSION"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer((os.environ.get("BIND", "0.0.0.0"), int(os.environ["PORT"])), Handler)
print("serving as " + os.environ["DYNO"], flush=True)
server.serve_forever()
"#;

/// How long anything here may take; everything is over much sooner.
const PATIENCE: Duration = Duration::from_secs(120);

/// The parts that outlive a restart of control.
pub struct Bench {
    pub data: tempfile::TempDir,
    pub store: Store,
    pub app: App,
    pub actor: Actor,
    pub tables: Arc<Mutex<Vec<RouteTable>>>,
}

/// What one control process holds. Its tasks run in a runtime of their own, which dies with it.
pub struct Control {
    pub manager: DynoManager,
    pub logplex: Logplex,
    driver: Arc<SandboxDriver>,
    runtime: Option<Runtime>,
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    since.as_millis() as i64
}

impl Bench {
    pub async fn new() -> Result<Self> {
        let data = tempfile::Builder::new().prefix("fkdyn").tempdir()?;
        std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o711))?;
        for folder in ["run", "slugs", "logs", "bin", "dynos"] {
            std::fs::create_dir(data.path().join(folder))?;
            std::fs::set_permissions(data.path().join(folder), std::fs::Permissions::from_mode(0o711))?;
        }
        let url = format!("sqlite://{}/ferroku.sqlite", data.path().display());
        let store = Store::open(&url, MasterKey::new("k", [9; 32])).await?;
        let account = AccountId(Uuid::new_v4());
        let made: ferroku_store::Result<()> = async {
            write!(&store, tx => {
                let new = NewAccount { id: account, email: "me@example.com", name: None, password_hash: "", role: Role::Owner };
                accounts::create(&mut tx, &new, now()).await.map(|_| ())
            })
        }
        .await;
        made?;
        let actor = Actor {
            account_id: account,
            email: "me@example.com".into(),
            remote_address: None,
            request_id: None,
        };
        let new = NewApp { id: AppId(Uuid::new_v4()), name: "shop", stack: "heroku-24", region: "eu" };
        let app = apps::create(&store, &new, &actor, now()).await?;
        let tables = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(keep_tables(data.path().join("run/router.sock"), tables.clone()));
        Ok(Self { data, store, app, actor, tables })
    }

    /// Control starts (again).
    pub async fn control(&self) -> Result<Control> {
        self.control_with(DynoSettings::default()).await
    }

    /// The same, as the admin wants it.
    pub async fn control_with(&self, settings: DynoSettings) -> Result<Control> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (data, store) = (self.data.path().to_owned(), self.store.clone());
        let started = runtime.spawn(async move {
            let logplex = Logplex::open(data.join("logs"))?;
            let mut config = SandboxConfig::new(&data);
            config.programs = programs()?;
            let driver = Arc::new(SandboxDriver::open(config).await?);
            let manager = DynoManager::new(Parts {
                store,
                logplex: logplex.clone(),
                driver: driver.clone(),
                router: RouterLink::connect(data.join("run/router.sock")),
                domain: "localhost".into(),
                events: Arc::default(),
                settings,
                data: data.clone(),
            });
            manager.start().await?;
            anyhow::Ok((manager, logplex, driver))
        });
        let (manager, logplex, driver) = started.await??;
        Ok(Control { manager, logplex, driver, runtime: Some(runtime) })
    }

    /// A release with this code, as a push makes it; quantities as wanted.
    pub async fn deploy(
        &self,
        control: &Control,
        types: &[(&str, &str, u32)],
        files: &[(&str, &str)],
    ) -> Result<i64> {
        let digest = Uuid::new_v4().simple().to_string();
        let tree = self.data.path().join("slugs").join(&digest);
        std::fs::create_dir(&tree)?;
        for (name, text) in files {
            std::fs::write(tree.join(name), text)?;
            chown(tree.join(name), Some(uids::SLUG_UID), Some(uids::SLUG_UID))?;
        }
        chown(&tree, Some(uids::SLUG_UID), Some(uids::SLUG_UID))?;
        let process_types: ProcessTypes =
            types.iter().map(|(name, command, _)| ((*name).to_owned(), (*command).to_owned())).collect();
        let slug = Slug {
            id: SlugId(Uuid::new_v4()),
            app_id: self.app.id,
            digest,
            commit: Some("0123456789abcdef".into()),
            commit_description: None,
            stack: "heroku-24".into(),
            size_bytes: 1,
            process_types: process_types.clone(),
            buildpack_provided_description: None,
            archive_sha256: None,
            deleted_at: None,
            created_at: now(),
        };
        let version: ferroku_store::Result<i64> = async {
            write!(&self.store, tx => {
                slugs::create(&mut tx, &slug).await?;
                let new = NewRelease {
                    id: ReleaseId(Uuid::new_v4()),
                    app_id: self.app.id,
                    actor: &self.actor,
                    description: "Deploy 01234567".into(),
                    slug: SlugChange::Set(slug.id),
                    config: ConfigChange::Keep,
                };
                let release = releases::create(&mut tx, self.store.key(), new, now()).await?;
                for (name, _, quantity) in types {
                    formations::update(&mut tx, self.app.id, name, *quantity, "basic", now()).await?;
                }
                Ok(release.version)
            })
        }
        .await;
        control.manager.poke(self.app.id);
        Ok(version?)
    }

    pub async fn scale(&self, control: &Control, process_type: &str, quantity: u32) -> Result<()> {
        self.form(control, process_type, quantity, "basic").await
    }

    /// One dyno of this size.
    pub async fn resize(&self, control: &Control, process_type: &str, size: &str) -> Result<()> {
        self.form(control, process_type, 1, size).await
    }

    async fn form(&self, control: &Control, process_type: &str, quantity: u32, size: &str) -> Result<()> {
        let done: ferroku_store::Result<()> = async {
            write!(&self.store, tx => {
                formations::update(&mut tx, self.app.id, process_type, quantity, size, now()).await
            })
        }
        .await;
        control.manager.poke(self.app.id);
        Ok(done?)
    }

    /// Has the rows say that these dynos have been up since then.
    pub async fn up_since(&self, ids: &[DynoId], since: i64) -> Result<()> {
        let done: ferroku_store::Result<()> = async {
            write!(&self.store, tx => {
                for id in ids {
                    dynos::set_state(&mut tx, *id, DynoState::Up, None, since).await?;
                }
                Ok(())
            })
        }
        .await;
        Ok(done?)
    }

    /// Waits until the router's table is as `like` says.
    pub async fn wait_table(&self, what: &str, like: impl Fn(&RouteApp) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !self
            .tables
            .lock()
            .expect("not poisoned")
            .last()
            .is_some_and(|table| table.apps.iter().any(&like))
        {
            anyhow::ensure!(begin.elapsed() < PATIENCE, "{what}: not so");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until the app's rows are as `like` says.
    pub async fn wait(&self, what: &str, like: impl Fn(&[Dyno]) -> bool) -> Result<Vec<Dyno>> {
        let begin = Instant::now();
        loop {
            let all = dynos::list(&self.store, self.app.id).await?;
            if like(&all) {
                return Ok(all);
            }
            if begin.elapsed() > PATIENCE {
                anyhow::bail!("{what}: still {all:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until exactly these are up and nothing else is there.
    pub async fn wait_up(&self, names: &[&str], version: i64) -> Result<Vec<Dyno>> {
        self.wait(&format!("{names:?} of v{version} up"), |all| {
            let mut have: Vec<String> = all.iter().map(Dyno::name).collect();
            have.sort();
            have == names
                && all.iter().all(|dyno| dyno.state == DynoState::Up && dyno.release_version == version)
        })
        .await
    }

    /// The healthy targets of the last table.
    pub fn targets(&self) -> Vec<std::net::SocketAddr> {
        let tables = self.tables.lock().expect("not poisoned");
        let apps = tables.last().map(|table| table.apps.as_slice()).unwrap_or_default();
        let targets = apps.iter().flat_map(|app| &app.targets);
        targets.filter(|target| target.state == TargetState::Healthy).map(|target| target.address).collect()
    }
}

impl Control {
    /// The app's log so far, without times: `app[web.1]: text`.
    pub async fn log(&self, bench: &Bench) -> Result<Vec<String>> {
        self.logplex.flush().await?;
        let lines = self.logplex.history(bench.app.id, 1500, Filter::default()).await?;
        Ok(lines.iter().map(|line| format!("{}[{}]: {}", line.source, line.process, line.message)).collect())
    }

    /// Waits for a line.
    pub async fn wait_log(&self, bench: &Bench, wanted: &str) -> Result<Vec<String>> {
        self.wait_lines(bench, wanted, 1).await
    }

    /// Waits for as many lines of the kind. What different sources say comes in any order.
    pub async fn wait_lines(&self, bench: &Bench, wanted: &str, count: usize) -> Result<Vec<String>> {
        let begin = Instant::now();
        loop {
            let log = self.log(bench).await?;
            if log.iter().filter(|line| line.contains(wanted)).count() >= count {
                return Ok(log);
            }
            anyhow::ensure!(begin.elapsed() < PATIENCE, "no {count} times {wanted:?} in {log:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The node ends: dynos are stopped, the network is taken down.
    pub async fn end(self) -> Result<()> {
        self.manager.shutdown(Duration::from_secs(5)).await;
        self.driver.shutdown().await;
        self.die().await
    }

    /// Control dies as by `kill -9`; dynos live on.
    pub async fn die(mut self) -> Result<()> {
        let runtime = self.runtime.take();
        drop(self);
        // Gone when nothing holds its folders and sockets any more.
        tokio::task::spawn_blocking(move || runtime.map(|runtime| runtime.shutdown_timeout(PATIENCE)))
            .await?;
        Ok(())
    }
}

/// A GET, as the router's uid alone may send it.
pub async fn get(address: std::net::SocketAddr) -> Result<String> {
    let output = tokio::process::Command::new("setpriv")
        .args(["--reuid", &uids::ROUTER_UID.to_string(), "--clear-groups", "curl", "-sS", "-m", "60"])
        .arg(format!("http://{address}/"))
        .output()
        .await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Where the build puts dyno-init.
fn programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test runs from target/release/deps")?;
    Ok(folder.to_owned())
}

/// A router that routes nothing: applies each table, reports every draining target as drained.
async fn keep_tables(socket: PathBuf, tables: Arc<Mutex<Vec<RouteTable>>>) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    let mut instance = 1;
    loop {
        let (stream, _) = listener.accept().await?;
        instance += 1;
        tokio::spawn(serve_link(stream, instance, tables.clone()));
    }
}

async fn serve_link(
    mut stream: UnixStream,
    instance: u64,
    tables: Arc<Mutex<Vec<RouteTable>>>,
) -> Result<()> {
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        binary_digest: String::new(),
        instance,
        role: Peer::Router,
    };
    stream.write_all(&FromRouter::Hello(hello).encode()?).await?;
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        anyhow::ensure!(length > 0, "closed");
        decoder.push(&buffer[..length]);
        while let Some(frame) = decoder.next_frame()? {
            let Some(ToRouter::Table(table)) = ToRouter::decode(&frame)? else { continue };
            let applied = FromRouter::TableApplied(TableApplied { version: table.version });
            stream.write_all(&applied.encode()?).await?;
            for target in table.apps.iter().flat_map(|app| &app.targets) {
                if target.state == TargetState::Draining {
                    let drained = FromRouter::Drained(Drained { dyno_id: target.dyno_id });
                    stream.write_all(&drained.encode()?).await?;
                }
            }
            tables.lock().expect("not poisoned").push(table);
        }
    }
}
