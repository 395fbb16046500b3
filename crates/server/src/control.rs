//! The control process: what `ferrokud control` runs.
//!
//! Opens every part (store, logs, dynos, router, builds), adopts what an earlier control process left, and serves API and
//! git on the listener it inherited from the supervisor as descriptor 3.
//!
//! In: SIGINT means "stop the dynos, then end"; SIGTERM "end, and leave the dynos to the next control process".

use crate::crash_point;
use crate::node::NodeConfig;
use crate::supervisor::pid_file::PidFile;
use anyhow::Context;
use ferroku_runtime::spawn;
use std::net::TcpListener;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Threads that run handlers. Blocking work has threads of its own; a node of two cores needs no more.
const WORKER_THREADS: usize = 2;

/// Runs the control process until it is told to end.
///
/// # Errors
/// The node cannot serve: what is missing and what to do stands in the error.
pub fn run(config: NodeConfig) -> anyhow::Result<ExitCode> {
    let api: TcpListener = spawn::take_inherited(0).context("`ferrokud server` starts this, not you")?.into();
    let mut pid_file = PidFile::hold(&config.data.join("run/control.pid"))
        .context("cannot claim run/control.pid: another control process holds this data folder")?;
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        crash_point::hit("control.before_ready");
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        pid_file.ready().context("cannot write run/control.pid")?;
        crash_point::hit("control.ready");
        let _ = &api;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Log lines go to stderr, which is the supervisor's; `FERROKU_LOG` chooses them (`info`, `ferroku=debug`, ...).
pub fn start_logging() {
    let filter =
        EnvFilter::try_from_env("FERROKU_LOG").unwrap_or_else(|_| EnvFilter::new("warn,ferroku=info"));
    // A second call, in a test, finds the first one's subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
