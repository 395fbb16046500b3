//! Dynos on a kernel that has version 2 of control groups: this program again, as the only one of a virtual machine.
//!
//! Where the machine has version 2 itself, the contract's own tests have run on it. Needs root.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_macros, reason = "a report for who runs the test")]

#[path = "support/mod.rs"]
mod support;

use ferroku_runtime::{Driver, DynoEvent};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{PATIENCE, TestNode, finish, frozen, programs, spec, until_line};

/// Set for the program in the guest.
const IN_GUEST: &str = "FERROKU_TEST_IN_GUEST";
/// Where scripts/setup.sh unpacks a kernel, in the repository.
const KERNEL: &str = "target/tools/guest-kernel";

#[test]
fn dynos_live_within_their_limits_on_version_2_of_control_groups() {
    if std::env::var_os(IN_GUEST).is_some() {
        assert!(Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), "the guest has version 2");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(limits_and_ends());
    }
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: dynos are started as root only");
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let kernel = repository.join(KERNEL);
    if cfg!(not(target_arch = "x86_64")) || !kernel.join("boot").exists() {
        return println!("skipped: version 2 of control groups: no kernel for a virtual machine in {KERNEL}");
    }
    let work = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let command = format!("{IN_GUEST}=1 {} --nocapture --test-threads=1", this.display());
    let output = Command::new(repository.join("crates/runtime/tests/guest.sh"))
        .args([kernel.as_path(), work.path(), Path::new(&command), &this])
        .args(["dyno-init", "dyno-create"].map(|name| programs().join(name)))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    for controller in ["memory", "pids", "cpu"] {
        let of_guest = said.lines().find(|line| line.contains("control groups:")).unwrap_or_default();
        assert!(
            of_guest.contains(controller),
            "{controller} is not version 2's in the guest:\n{said}\n{errors}"
        );
    }
    assert!(said.contains("guest: ended with 0"), "{said}\n{errors}");
    assert!(said.contains("1 passed"), "{said}\n{errors}");
}

async fn limits_and_ends() {
    let node = TestNode::open().await;
    let (text, end) = node.run("echo $((6 * 7)); exit 3").await;
    assert!(matches!(end, DynoEvent::Exited { status: 3, .. }) && text.contains("42"), "{end:?} {text}");
    memory(&node).await;
    processes(&node).await;
    an_end_takes_everything_along(&node).await;
    sleep(&node).await;
    node.close().await;
}

async fn memory(node: &TestNode) {
    let (text, end) = node.run("python3 -c 'x = bytearray(600 << 20); print(len(x))'").await;
    assert!(matches!(end, DynoEvent::Exited { status: 137, oom_killed: true, .. }), "{end:?} {text}");
    let mut handle =
        node.start(spec("python3 -c 'x = b\"x\" * (64 << 20); print(\"full\", flush=True); input()'")).await;
    until_line(&mut handle, "full").await;
    // The kernel sums up what its processors have counted every two seconds only.
    let begun = Instant::now();
    loop {
        let bytes = node.driver().memory_bytes(handle.dyno_id).await.unwrap();
        if (64 << 20..128 << 20).contains(&bytes) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it says {bytes} bytes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.driver().remove(handle.dyno_id).await.unwrap();
}

async fn processes(node: &TestNode) {
    let line = "for i in $(seq 200); do sleep 60 & done; ls /proc | grep -c '^[0-9]'";
    let (text, _) = node.run(&format!("({line}) 2>&1; true")).await;
    assert!(text.contains("Resource temporarily unavailable"), "{text}");
}

/// Also what would not hear a signal, in sessions of its own.
async fn an_end_takes_everything_along(node: &TestNode) {
    let line = "trap '' TERM; for i in 1 2 3; do (trap '' TERM; setsid sleep 1000) & done; echo there; wait";
    let mut handle = node.start(spec(line)).await;
    until_line(&mut handle, "there").await;
    handle.control.stop(500).await.unwrap();
    let (_, end) = finish(&mut handle).await;
    assert!(matches!(end, DynoEvent::Exited { status: 137, .. }), "{end:?}");
    node.driver().remove(handle.dyno_id).await.unwrap();
}

/// Frozen, awake again as it was, and removed while frozen.
async fn sleep(node: &TestNode) {
    let line = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    for ends in ["stopped", "removed"] {
        let mut handle = node.start(spec(line)).await;
        until_line(&mut handle, "ready").await;
        frozen(&mut handle, 1).await;
        if ends == "stopped" {
            handle.control.stop(60_000).await.unwrap();
            let (said, end) = finish(&mut handle).await;
            assert!(matches!(end, DynoEvent::Exited { status: 3, .. }), "{end:?} {said}");
        }
        node.driver().remove(handle.dyno_id).await.unwrap();
    }
}
