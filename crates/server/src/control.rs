//! The control process: what `ferrokud control` runs.
//!
//! Opens every part (store, logs, dynos, router, builds), adopts what an earlier control process left, and serves API
//! and git on the listener it inherited from the supervisor as descriptor 3.
//!
//! In: SIGINT means "stop the dynos, then end"; SIGTERM "end, and leave the dynos to the next control process".

use crate::access::Readers;
use crate::acm::Acm;
use crate::api;
use crate::api::cli_logins::CliLogins;
use crate::app_destruction::Destructions;
use crate::builds::Builds;
use crate::crash_point;
use crate::dynos::{self, DynoManager};
use crate::events::EventFeed;
use crate::listener::{self, Endpoint, Limits};
use crate::login::Logins;
use crate::mail::Mail;
use crate::metrics::Metrics;
use crate::node::{Node, NodeConfig, now_ms};
use crate::people::throttle::Throttle;
use crate::rate_limit::{GIT_REQUESTS_PER_HOUR, REQUESTS_PER_HOUR, RateLimits};
use crate::rendezvous::{self, Rendezvous, Session};
use crate::router_link::RouterLink;
use crate::secrets;
use crate::ssh::{self, Ssh};
use crate::supervisor::pid_file::PidFile;
use crate::tls::{Identity, ServerNames};
use anyhow::Context;
use ferroku_core::DynoId;
use ferroku_logplex::Logplex;
use ferroku_runtime::{Driver, SandboxConfig, SandboxDriver, spawn};
use ferroku_store::{Store, apps};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Threads that run handlers. Blocking work has threads of its own; a node of two cores needs no more.
const WORKER_THREADS: usize = 2;
/// Heroku's time from SIGTERM to SIGKILL (article "Dyno shutdown behavior").
const DYNO_GRACE: Duration = Duration::from_secs(30);

/// A dyno that is just being started is there a moment later: so often, and after this pause, leftovers are looked for.
const REMOVE_ROUNDS: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(50);

/// Runs the control process until it is told to end.
///
/// # Errors
/// The node cannot serve: what is missing and what to do stands in the error.
pub fn run(config: NodeConfig) -> anyhow::Result<ExitCode> {
    let listener: TcpListener =
        spawn::take_inherited(0).context("`ferrokud server` starts this, not you")?.into();
    listener.set_nonblocking(true).context("cannot use the API's listening socket")?;
    let pid_file = PidFile::hold(&config.data.join("run/control.pid"))
        .context("cannot claim run/control.pid: another control process holds this data folder")?;
    start_logging();
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("another cryptographic provider is installed already")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(serve(config, listener, pid_file))?;
    // Threads that still wait for a disk must not hold up the end: everything that counts was flushed.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Log lines go to stderr, which is the supervisor's; `FERROKU_LOG` chooses them (`info`, `ferroku_server=debug`).
pub fn start_logging() {
    let filter = EnvFilter::try_from_env("FERROKU_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second call, in a test, finds the first one's subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

async fn serve(config: NodeConfig, listener: TcpListener, mut pid_file: PidFile) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let names = ServerNames::of_node(&config.domain, config.listen);
    let identity = Arc::new(
        Identity::open(&config.data, names, config.certificate.clone(), now_ms())
            .context("cannot set up TLS")?,
    );
    let node = open(config).await?;
    start(&node).await?;
    tokio::spawn(identity.clone().keep_renewed());
    let listener =
        tokio::net::TcpListener::from_std(listener).context("cannot serve on the API's listening socket")?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(listener::serve(listener, endpoint(&node, &identity), stop.clone()));
    let ssh_listener = ssh::bind(&node.config.data).context("cannot listen for SSH clients")?;
    tokio::spawn(ssh::serve(node.clone(), ssh_listener, stop.clone()));
    crash_point::hit("control.before_ready");
    pid_file.ready().context("cannot write run/control.pid")?;
    crash_point::hit("control.ready");
    let stop_dynos = tokio::select! {
        _ = interrupt.recv() => true,
        _ = terminate.recv() => false,
    };
    if stop_dynos {
        // Requests are still answered: `heroku logs --tail` shows how the dynos end.
        node.dynos.shutdown(DYNO_GRACE).await;
    }
    stop.cancel();
    node.logplex.close_tails();
    node.cli_logins.close();
    let _ = serving.await;
    if stop_dynos {
        remove_leftovers(&node).await;
        node.driver().shutdown().await;
    }
    node.logplex.flush().await.context("cannot write the last log lines; is the disk full?")?;
    pid_file.done().context("cannot write run/control.pid")?;
    Ok(())
}

/// Removes the dynos that no app's loop stopped: those of builds under way and of apps being destroyed.
async fn remove_leftovers(node: &Node) {
    for _ in 0..REMOVE_ROUNDS {
        let folders = std::fs::read_dir(node.config.data.join("dynos")).into_iter().flatten().flatten();
        let left: Vec<DynoId> = folders
            .filter_map(|folder| folder.file_name().to_str().and_then(|name| name.parse().ok()))
            .collect();
        if left.is_empty() {
            return;
        }
        for dyno_id in left {
            if let Err(error) = node.driver().remove(dyno_id).await {
                tracing::warn!(%dyno_id, error = &error as &dyn std::error::Error, "cannot remove a dyno at the end");
            }
        }
        tokio::time::sleep(REMOVE_PAUSE).await;
    }
}

/// Opens every part; none of them acts yet.
async fn open(config: NodeConfig) -> anyhow::Result<Arc<Node>> {
    let store_url = config.store_url();
    let key = secrets::master_key(&config.data, &store_url)?;
    let store = Store::open(&store_url, key).await.context("cannot open the store")?;
    secrets::ensure_owner(&store, &config.data, &config.owner_email).await?;
    let logplex = Logplex::open(config.data.join("logs")).context("cannot open the logs")?;
    let oci_runtime = config.dynos.oci_runtime.clone();
    let sandbox = SandboxConfig { oci_runtime, ..SandboxConfig::new(config.data.clone()) };
    let driver = Arc::new(SandboxDriver::open(sandbox).await.context("cannot run dynos on this machine")?);
    let router = RouterLink::connect(config.data.join("run/router.sock"));
    let ssh = Ssh::open(&config.data).context("cannot set up SSH")?;
    let events = Arc::new(EventFeed::default());
    let dynos = DynoManager::new(dynos::Parts {
        store: store.clone(),
        logplex: logplex.clone(),
        driver: driver.clone(),
        router: router.clone(),
        domain: config.domain.clone(),
        events: events.clone(),
        settings: config.dynos.clone(),
        data: config.data.clone(),
    });
    Ok(Arc::new(Node {
        store,
        driver: Some(driver),
        router,
        logplex,
        rendezvous: Rendezvous::new(),
        ssh,
        events,
        dynos,
        builds: Builds::new(&config.data),
        destructions: Destructions::default(),
        acm: Acm::new(config.acme.clone()),
        metrics: Metrics::default(),
        logins: Logins::default(),
        rate_limits: RateLimits::new(REQUESTS_PER_HOUR),
        readers: Readers::default(),
        git_limits: RateLimits::new(GIT_REQUESTS_PER_HOUR),
        throttle: Throttle::default(),
        mail: Mail::open(&config.mail, &config.data, &config.domain)?,
        cli_logins: CliLogins::default(),
        config,
    }))
}

/// Adopts what lives and starts every loop.
async fn start(node: &Arc<Node>) -> anyhow::Result<()> {
    let apps = apps::list(&node.store).await.context("cannot list the apps")?;
    let apps = apps.into_iter().map(|app| app.id).collect();
    node.logplex.remove_all_but(&apps).await.context("cannot remove the logs of apps that are gone")?;
    node.dynos.start().await.context("cannot take over the dynos")?;
    node.spawn_tasks();
    node.builds.start(node).await.context("cannot start the build service")
}

fn endpoint(node: &Arc<Node>, identity: &Identity) -> Endpoint {
    let attached_to = node.clone();
    Endpoint {
        app: api::app(node.clone()),
        tls: identity.server_config(),
        rendezvous: node.rendezvous.clone(),
        attach: Arc::new(move |issued| {
            let node = attached_to.clone();
            Box::pin(rendezvous::attach(node.clone(), issued, async move |session| {
                Ok(match session {
                    Session::OneOff(dyno_id) => node.dynos.attach(dyno_id).await?,
                    Session::Inside(request) => node.dynos.attach_inside(*request).await?,
                })
            }))
        }),
        limits: Limits::default(),
    }
}

/// A program that came with this one, and lies beside it.
///
/// # Errors
/// It does not.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find my own program")?;
    let place = program.with_file_name(name);
    if !place.exists() {
        anyhow::bail!(
            "{name} is missing; it must lie beside {} (`make build` puts it there)",
            program.display()
        );
    }
    Ok(place)
}
