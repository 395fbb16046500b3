//! Frozen dynos: their processes stand still, wake as they were, and never stand in the way of their end. Needs root.
#![allow(clippy::unwrap_used)]

mod support;

use ferroku_core::DynoId;
use ferroku_core::uids::{FIRST_APP_UID, ROUTER_UID};
use ferroku_runtime::{Driver, DynoEvent, DynoHandle};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::*;

/// A master that kills workers that it has not heard of for two seconds.
const SERVE: &str = include_str!("../../server/tests/apps/sleeper/serve.py");

/// As the router's user, who alone may connect to a dyno.
fn ask(handle: &DynoHandle) {
    let mut command = std::process::Command::new("curl");
    command.args(["-sS", "-m", "30", "--fail", &format!("http://{}/", handle.address.unwrap())]);
    let output = command.uid(ROUTER_UID).gid(ROUTER_UID).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wake(socket: &Path, sleep_id: u64) -> Option<u8> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(&sleep_id.to_le_bytes()).ok()?;
    let mut answer = [0];
    stream.read_exact(&mut answer).ok()?;
    Some(answer[0])
}

/// The dyno's processes, by its cgroup; not those that are dead and not buried yet, or gone since they were listed.
fn processes(dyno_id: DynoId) -> Vec<String> {
    let name = dyno_id.to_string();
    let mut found: Vec<String> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|text| text.contains(&name))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| !matches!(stat_of(pid).chars().next(), None | Some('Z' | 'X')))
        .collect();
    found.sort();
    found
}

/// None of its processes is left. What was killed has left its cgroup a moment before it counts as dead, so this
/// asks again; what is frozen stays however often one asks.
async fn assert_gone(dyno_id: DynoId) {
    let deadline = Instant::now() + PATIENCE;
    while !processes(dyno_id).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes(dyno_id));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_dyno_wakes_by_its_socket_as_it_was_and_its_master_kills_nobody() {
    let node = TestNode::open().await;
    let slug = node.slug(&[("serve.py", SERVE)]);
    let mut spec = web("PORT=5006 exec python3 serve.py", 60_000);
    spec.slug_digest = Some(slug);
    let mut handle = node.start(spec).await;
    until(&mut handle, |event| *event == DynoEvent::Bound).await;
    ask(&handle);
    let begun = Instant::now();
    let before = loop {
        let before = processes(handle.dyno_id);
        if before.len() >= 4 {
            break before;
        }
        assert!(begun.elapsed() < PATIENCE, "first process, master and two workers: {before:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };

    frozen(&mut handle, 7).await;
    // Longer than the master's patience, twice.
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    let socket = handle.wake_socket.clone().unwrap();
    let begun = Instant::now();
    assert_eq!(wake(&socket, 7), Some(1));
    ask(&handle);
    println!("woken and answered after {:?}", begun.elapsed());
    let (said, _) = until(&mut handle, |event| *event == DynoEvent::Thawed { sleep_id: 7 }).await;
    // The master goes on a second later, and looks at its workers every fifth of one.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(processes(handle.dyno_id), before, "the same processes; it said: {said}");
    let master = before.iter().filter(|pid| stat_of(pid).starts_with('T')).count();
    assert_eq!(master, 0, "nobody is left stopped");

    // An order to freeze that comes after its sleep was ended freezes nobody.
    handle.control.freeze(7).await.unwrap();
    until(&mut handle, |event| *event == DynoEvent::Thawed { sleep_id: 7 }).await;
    ask(&handle);
    // And one whose end came first.
    assert_eq!(wake(&socket, 8), Some(1));
    handle.control.freeze(8).await.unwrap();
    until(&mut handle, |event| *event == DynoEvent::Thawed { sleep_id: 8 }).await;
    ask(&handle);

    frozen(&mut handle, 9).await;
    handle.control.thaw(9).await.unwrap();
    until(&mut handle, |event| *event == DynoEvent::Thawed { sleep_id: 9 }).await;
    ask(&handle);
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

/// The third field of `/proc/PID/stat`.
fn stat_of(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_router_and_root_may_wake() {
    let node = TestNode::open().await;
    let mut handle = node.start(spec("sleep 1000")).await;
    until(&mut handle, |event| *event == DynoEvent::Started).await;
    let socket = handle.wake_socket.clone().unwrap();
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (ROUTER_UID, 0o600));
    frozen(&mut handle, 5).await;
    // Others may pass through the folders, as in a node; the data folder of this test alone is closed.
    open_to_all(node.data());
    let attempt = |uid: u32| {
        let script = "import socket,sys\n\
                      s=socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])\n\
                      s.sendall((5).to_bytes(8,'little')); sys.exit(0 if s.recv(1)==b'\\x01' else 3)";
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]).arg(&socket).uid(uid).gid(uid).stderr(std::process::Stdio::null());
        command.status().unwrap().success()
    };
    assert!(!attempt(FIRST_APP_UID + 1000), "the app's own user on the host");
    assert!(!attempt(65534), "nobody");
    // What keeps them out, when the file's mode does not: who connects is asked of the kernel.
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert!(!attempt(65534), "nobody, with the door open");
    assert!(attempt(ROUTER_UID));
    until(&mut handle, |event| *event == DynoEvent::Thawed { sleep_id: 5 }).await;
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_dyno_stops_dies_and_is_removed_like_any_other() {
    let mut node = TestNode::open().await;
    let line = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done";

    let mut stopped = node.start(spec(line)).await;
    until_line(&mut stopped, "ready").await;
    frozen(&mut stopped, 1).await;
    stopped.control.stop(20_000).await.unwrap();
    let (said, end) = finish(&mut stopped).await;
    assert_eq!(status(&end), 3, "it was asked and answered: {said}");
    node.driver().remove(stopped.dyno_id).await.unwrap();

    let mut killed = node.start(spec(line)).await;
    until_line(&mut killed, "ready").await;
    frozen(&mut killed, 1).await;
    killed.control.kill().await.unwrap();
    assert_eq!(status(&finish(&mut killed).await.1), 137);
    node.driver().remove(killed.dyno_id).await.unwrap();

    let mut removed = node.start(spec(line)).await;
    until_line(&mut removed, "ready").await;
    frozen(&mut removed, 1).await;
    node.driver().remove(removed.dyno_id).await.unwrap();
    assert_gone(removed.dyno_id).await;

    // Its dyno-init is killed while it is frozen: it dies with it, and is known to have.
    let mut orphan = node.start(spec(line)).await;
    until_line(&mut orphan, "ready").await;
    frozen(&mut orphan, 1).await;
    kill_dyno_init(&node, orphan.dyno_id);
    assert_eq!(finish(&mut orphan).await.1, DynoEvent::Lost);
    assert_gone(orphan.dyno_id).await;
    node.driver().remove(orphan.dyno_id).await.unwrap();

    // The same while control is away; and one that sleeps on through it.
    let mut orphan = node.start(spec(line)).await;
    let mut sleeper = node.start(spec(line)).await;
    for handle in [&mut orphan, &mut sleeper] {
        until_line(handle, "ready").await;
        frozen(handle, 4).await;
    }
    let (orphan_id, sleeper_id) = (orphan.dyno_id, sleeper.dyno_id);
    drop((orphan, sleeper));
    node.driver = None;
    kill_dyno_init(&node, orphan_id);
    node.driver = Some(open(node.folder.path()).await);
    for mut handle in node.driver().adopt().await.unwrap() {
        if handle.dyno_id == sleeper_id {
            until(&mut handle, |event| *event == DynoEvent::Frozen { sleep_id: 4 }).await;
            assert_eq!(wake(handle.wake_socket.as_ref().unwrap(), 4), Some(1));
            until(&mut handle, |event| *event == DynoEvent::Thawed { sleep_id: 4 }).await;
        } else {
            finish(&mut handle).await;
        }
    }
    for dyno_id in [orphan_id, sleeper_id] {
        node.driver().remove(dyno_id).await.unwrap();
        assert_gone(dyno_id).await;
    }
    node.close().await;
}

fn kill_dyno_init(node: &TestNode, dyno_id: DynoId) {
    kill_nine(dyno_init_of(node.data(), dyno_id).unwrap());
}
