//! Dynos outlive control, and never their dyno-init. Needs root.
#![allow(clippy::unwrap_used)]

mod support;

use ferroku_runtime::{Driver, DynoEvent, DynoHandle};
use std::fs;
use std::time::{Duration, Instant};
use support::*;

/// Collects numbered lines until `last`, acknowledging some.
async fn collect(
    handle: &mut DynoHandle,
    lines: &mut Vec<(u64, String)>,
    last: Option<usize>,
) -> Option<DynoEvent> {
    loop {
        if last.is_some_and(|last| lines.len() >= last) {
            return None;
        }
        match next(handle).await {
            DynoEvent::Log { sequence, line, .. } => {
                lines.push((sequence, String::from_utf8(line).unwrap()));
                if sequence % 100 == 0 {
                    handle.control.ack(sequence).await.unwrap();
                }
            }
            event @ (DynoEvent::Exited { .. } | DynoEvent::Lost) => return Some(event),
            DynoEvent::LogDropped { count } => panic!("{count} lines dropped"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_lines_arrive_all_and_once_over_new_controls() {
    let mut node = TestNode::open().await;
    let mut handle = node.start(spec("for i in $(seq 1 10000); do echo line $i; done; exit 12")).await;
    let dyno_id = handle.dyno_id;
    let mut lines = Vec::new();
    assert_eq!(collect(&mut handle, &mut lines, Some(2_345)).await, None);
    for _ in 0..3 {
        // Control dies: nothing is told to anybody, the connection just breaks.
        drop(handle);
        node.driver = None;
        node.driver = Some(open(node.folder.path()).await);
        let mut adopted = node.driver().adopt().await.unwrap();
        assert_eq!(adopted.len(), 1);
        handle = adopted.remove(0);
        assert_eq!(handle.dyno_id, dyno_id);
        let goal = lines.len() + 1_000;
        assert_eq!(collect(&mut handle, &mut lines, Some(goal)).await, None);
    }
    let end = collect(&mut handle, &mut lines, None).await.unwrap();
    assert_eq!(status(&end), 12);
    let received = lines.len();
    lines.sort();
    lines.dedup();
    println!("{received} lines received, {} of them again", received - lines.len());
    let expected: Vec<_> = (1..=10_000u64).map(|number| (number, format!("line {number}"))).collect();
    assert!(lines == expected, "{} different lines", lines.len());
    node.driver().remove(dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_control_was_away_is_told_later() {
    let mut node = TestNode::open().await;
    let mut living = node.start(web("echo up; exec python3 -m http.server 5006", 60_000)).await;
    until(&mut living, |event| *event == DynoEvent::Bound).await;
    let ending = node.start(spec("echo before; sleep 0.5; echo after; exit 33")).await;
    let mut lost = node.start(spec("echo doomed; sleep 1000")).await;
    // Not acknowledged, so it is told again.
    until_line(&mut lost, "doomed").await;
    let (living_id, ending_id, lost_id) = (living.dyno_id, ending.dyno_id, lost.dyno_id);
    let address = living.address;
    drop((living, ending, lost));
    let data = node.folder.path().to_path_buf();
    node.driver = None;
    tokio::time::sleep(Duration::from_secs(2)).await;
    kill_nine(dyno_init_of(&data, lost_id).unwrap());
    node.driver = Some(open(&data).await);
    let mut adopted = node.driver().adopt().await.unwrap();
    assert_eq!(adopted.len(), 3);
    for handle in &mut adopted {
        match handle.dyno_id {
            id if id == living_id => {
                assert_eq!(handle.address, address);
                let (text, _) = until(handle, |event| *event == DynoEvent::Bound).await;
                assert!(text.is_empty() || text == "up\n");
            }
            id if id == ending_id => {
                let (text, end) = finish(handle).await;
                assert_eq!((text.as_str(), status(&end)), ("before\nafter\n", 33));
            }
            _ => {
                let (text, end) = finish(handle).await;
                assert_eq!((text.as_str(), end), ("doomed\n", DynoEvent::Lost));
            }
        }
    }
    for id in [living_id, ending_id, lost_id] {
        node.driver().remove(id).await.unwrap();
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_dies_with_its_dyno_init() {
    let node = TestNode::open().await;
    let mark = "1234.567";
    let mut handle = node.start(spec(&format!("echo here; setsid sleep {mark} & sleep {mark}"))).await;
    until_line(&mut handle, "here").await;
    let pid = dyno_init_of(node.data(), handle.dyno_id).unwrap();
    kill_nine(pid);
    let (_, end) = finish(&mut handle).await;
    assert_eq!(end, DynoEvent::Lost);
    // What is killed is listed for a moment longer.
    let is_alive = || {
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|command| command.contains(mark))
        })
    };
    let begun = Instant::now();
    while is_alive() {
        assert!(begun.elapsed() < PATIENCE, "a process of the dyno is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_beyond_the_ring_are_counted_not_waited_for() {
    let mut node = TestNode::open().await;
    let line = "x".repeat(1_000);
    // 8 MB while nobody takes them: the dyno goes on to its end all the same.
    let handle = node.start(spec(&format!("sleep 1; for i in $(seq 1 8000); do echo {line}; done"))).await;
    let dyno_id = handle.dyno_id;
    drop(handle);
    let data = node.folder.path().to_path_buf();
    node.driver = None;
    let exit = data.join("dynos").join(dyno_id.to_string()).join("exit.json");
    for _ in 0..600 {
        if exit.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(exit.exists(), "the dyno had to wait");
    let ring = data.join("dynos").join(dyno_id.to_string()).join("ring");
    assert!(fs::metadata(ring).unwrap().len() <= 4096 + (4 << 20));
    node.driver = Some(open(&data).await);
    let mut handle = node.driver().adopt().await.unwrap().remove(0);
    let (mut told, mut dropped) = (0, 0);
    loop {
        match next(&mut handle).await {
            DynoEvent::Log { .. } => told += 1,
            DynoEvent::LogDropped { count } => dropped += count,
            DynoEvent::Exited { .. } => break,
            _ => {}
        }
    }
    println!("{told} told, {dropped} dropped");
    assert_eq!(told + dropped, 8_000);
    assert!(told >= 1_900, "half of the ring at least is kept");
    node.driver().remove(dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dyno_init_is_small() {
    let node = TestNode::open().await;
    let mut handle =
        node.start(spec("for i in $(seq 1 5000); do echo line $i; done; echo done; sleep 1000")).await;
    until_line(&mut handle, "done").await;
    let pid = dyno_init_of(node.data(), handle.dyno_id).unwrap();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let value = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (pss, resident) = (value("Pss:"), value("Rss:"));
    println!("dyno-init: {pss} kB proportional, {resident} kB resident");
    assert!(resident < 2_048, "{rollup}");
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}
