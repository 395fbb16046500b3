//! How many lines a second the log takes in: `cargo run --release -p ferroku-logplex --example throughput`.
//!
//! Two threads play the pumps of two dynos: batches of 100 lines of 100 bytes, each batch flushed before the
//! next as a pump does before it acknowledges. Once without readers, once with ten.

#![allow(clippy::print_stdout, reason = "it prints a table")]

use ferroku_core::{AppId, DynoId};
use ferroku_logplex::{Filter, LogLine, Logplex, TailFrom};
use std::time::{Duration, Instant};
use uuid::Uuid;

const LINES: u64 = 500_000;
const BATCH: u64 = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let logplex = Logplex::open(folder.path().join("logs"))?;
    for readers in [0usize, 10] {
        let app = AppId(Uuid::from_u128(readers as u128));
        for _ in 0..readers {
            let mut tail = logplex.tail(app, Filter::default(), TailFrom::Last(0)).await?;
            tokio::spawn(async move { while tail.next().await.is_some() {} });
        }
        let begun = Instant::now();
        let pumps: Vec<_> = (0..2u128)
            .map(|dyno| {
                let logplex = logplex.clone();
                tokio::spawn(async move {
                    let dyno_id = DynoId(Uuid::from_u128(dyno));
                    let text = "x".repeat(100);
                    for sequence in 1..=LINES {
                        let line = LogLine::new(0, "app", "web.1", text.as_str());
                        logplex.append_dyno(app, dyno_id, sequence, line);
                        if sequence % BATCH == 0 {
                            logplex.flush().await.expect("written");
                        }
                    }
                })
            })
            .collect();
        for pump in pumps {
            pump.await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!("{readers} readers: {:.0} lines a second", 2.0 * LINES as f64 / seconds);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let app = AppId(Uuid::from_u128(0));
    let begun = Instant::now();
    let lines = logplex.history(app, 1_500, Filter::default()).await?.len();
    println!("history of {lines} lines: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    let status = std::fs::read_to_string("/proc/self/status")?;
    for line in status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS")) {
        println!("{line}");
    }
    drop(logplex);
    let logplex = Logplex::open(folder.path().join("logs"))?;
    let begun = Instant::now();
    logplex.last_keyed_sequence(app, "event")?;
    println!("first use of an app after a restart: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
