//! What dynos share by weight, and what a frozen one gives back. Needs root.
#![allow(clippy::unwrap_used)]

mod support;

use ferroku_core::DynoId;
use ferroku_runtime::{Driver, DynoHandle, Limits, has_swap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::*;

/// On one processor, so that two of them have to share it.
const BUSY: &str = r#"exec python3 -c '
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print("busy", flush=True)
while True: pass
'"#;
/// How much processor time the two have to get until they are compared, in clock ticks of 10 ms.
const COMPARED_TICKS: u64 = 100;

/// Keeps memory that nothing can compress, and tells at its end whether it is as it was.
const KEEPER: &str = r#"exec python3 -c '
import hashlib, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
kept = os.urandom(64 << 20)
before = hashlib.sha256(kept).digest()
print("full", flush=True)
signal.sigwait({signal.SIGTERM})
print("kept" if hashlib.sha256(kept).digest() == before else "lost", flush=True)
'"#;
const KEPT_BYTES: u64 = 64 << 20;

/// A swap file, until it is dropped.
struct Swap(PathBuf);

impl Swap {
    /// # Errors
    /// Why there cannot be one here.
    fn add(folder: &Path) -> Result<Self, String> {
        let file = folder.join("swap");
        let line =
            "dd if=/dev/zero of=\"$0\" bs=1M count=192 && chmod 600 \"$0\" && mkswap \"$0\" && swapon \"$0\"";
        let output =
            Command::new("sh").args(["-c", line]).arg(&file).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(Self(file));
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let off = Command::new("swapoff").arg(&self.0).status();
        assert!(std::thread::panicking() || off.is_ok_and(|status| status.success()), "swapoff {:?}", self.0);
    }
}

/// Processor time of all processes of a dyno, in ticks.
fn ticks(dyno_id: DynoId) -> u64 {
    let of_dyno = |folder: &PathBuf| {
        fs::read_to_string(folder.join("cgroup")).is_ok_and(|text| text.contains(&dyno_id.to_string()))
    };
    let folders = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(of_dyno);
    let stats = folders.filter_map(|folder| fs::read_to_string(folder.join("stat")).ok());
    // utime and stime are the 14th and 15th field (proc(5)); the name before them may hold blanks.
    let used = |stat: String| {
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    stats.filter_map(used).sum()
}

async fn busy(node: &TestNode, cpu_shares: u32) -> DynoHandle {
    let mut spec = spec(BUSY);
    spec.limits = Limits { cpu_shares, ..spec.limits };
    let mut handle = node.start(spec).await;
    until_line(&mut handle, "busy").await;
    handle
}

/// How many times as much processor time as the first the second of two dynos gets that both want all.
async fn ratio(node: &TestNode, shares: [u32; 2]) -> f64 {
    let dynos = [busy(node, shares[0]).await, busy(node, shares[1]).await];
    let now = || [ticks(dynos[0].dyno_id), ticks(dynos[1].dyno_id)];
    let (begin, begun) = (now(), Instant::now());
    let got = loop {
        let now = now();
        let got = [now[0] - begin[0], now[1] - begin[1]];
        if got[0] + got[1] >= COMPARED_TICKS {
            break got;
        }
        assert!(begun.elapsed() < PATIENCE, "they do not run: {got:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for dyno in dynos {
        node.driver().remove(dyno.dyno_id).await.unwrap();
    }
    got[1] as f64 / got[0].max(1) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn dynos_that_want_the_same_processor_get_it_by_the_weight_of_their_size() {
    let node = TestNode::open().await;
    let equal = ratio(&node, [256, 256]).await;
    let weighted = ratio(&node, [256, 3072]).await;
    assert!((0.5..=2.0).contains(&equal), "of the same size: {equal}");
    assert!(weighted > 4.0, "with twelve times the weight: {weighted}; of the same size: {equal}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_dyno_gives_its_memory_back_where_there_is_swap_and_has_it_again() {
    let node = TestNode::open().await;
    let mut handle = node.start(spec(KEEPER)).await;
    until_line(&mut handle, "full").await;
    frozen(&mut handle, 1).await;
    let before = node.driver().memory_bytes(handle.dyno_id).await.unwrap();
    assert!(before >= KEPT_BYTES, "it says {before} bytes");
    let had_swap = has_swap();
    if !had_swap {
        assert_eq!(node.driver().swap_out(handle.dyno_id).await, None);
        let kept = node.driver().memory_bytes(handle.dyno_id).await.unwrap();
        assert!(kept >= KEPT_BYTES, "without swap it keeps what it has: {kept}");
    }
    let swap = if had_swap { Err("there is swap already".to_owned()) } else { Swap::add(node.data()) };
    if has_swap() {
        let gone = node.driver().swap_out(handle.dyno_id).await.expect("there is swap");
        let after = node.driver().memory_bytes(handle.dyno_id).await.unwrap();
        assert!(gone >= KEPT_BYTES / 2 && after <= before - KEPT_BYTES / 2, "{before} became {after}");
    } else {
        eprintln!("skipped: this machine has no swap and gets none: {:?}", swap.as_ref().err());
    }
    // What comes back does so page by page, as fast as the disk is.
    let begun = Instant::now();
    handle.control.stop(50_000).await.unwrap();
    let (said, end) = finish(&mut handle).await;
    println!("it had its memory again after {:?}", begun.elapsed());
    assert!(said.contains("kept") && status(&end) == 0, "{said} {end:?}");
    node.driver().remove(handle.dyno_id).await.unwrap();
    drop(swap);
    node.close().await;
}
