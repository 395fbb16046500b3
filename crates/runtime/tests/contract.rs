//! What every driver has to do, tried on real dynos. Needs root.
#![allow(clippy::unwrap_used)]

mod support;

use ferroku_core::uids::{FIRST_APP_UID, SLUG_UID};
use ferroku_runtime::{Attach, Driver, DynoEvent, DynoSpec, LogStream, TerminalSize, Volume, VolumeSource};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_runs_its_slug_and_tells_numbered_lines_and_its_end() {
    let node = TestNode::open().await;
    let digest = node.slug(&[
        ("run.sh", "echo one; echo two >&2; echo from $GREETING; echo $PROFILED; exit 3\n"),
        (".profile.d/a.sh", "export PROFILED=\"profile saw $GREETING\"\nset -- gone\n"),
    ]);
    let spec = DynoSpec { slug_digest: Some(digest), ..spec("bash run.sh") };
    let mut handle = node.driver().start(spec, environment(&[("GREETING", "hello")])).await.unwrap();
    assert_eq!(next(&mut handle).await, DynoEvent::Started);
    let mut lines = Vec::new();
    let end = loop {
        match next(&mut handle).await {
            DynoEvent::Log { sequence, at_us, stream, line } => {
                assert!(at_us > 1_600_000_000_000_000);
                lines.push((sequence, stream, String::from_utf8(line).unwrap()));
            }
            other => break other,
        }
    };
    assert_eq!(status(&end), 3);
    assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let mut told: Vec<_> =
        lines.into_iter().map(|(_, stream, line)| (stream == LogStream::Stderr, line)).collect();
    told.sort();
    let line = |stderr, text: &str| (stderr, text.to_owned());
    let expected =
        [line(false, "from hello"), line(false, "one"), line(false, "profile saw hello"), line(true, "two")];
    assert_eq!(told, expected);
    assert_eq!(handle.next_event().await, None);
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_stays_off_the_disk() {
    let node = TestNode::open().await;
    let secret = "s3cr3t-value-of-a-config-var";
    let mut handle =
        node.driver().start(spec("echo [$KEY]; sleep 1000"), environment(&[("KEY", secret)])).await.unwrap();
    assert!(until_line(&mut handle, "[").await.contains(secret), "the dyno itself has it");
    let ring = node.data().join("dynos").join(handle.dyno_id.to_string()).join("ring");
    let mut files = 0;
    for entry in walk(node.data()) {
        if entry != ring && fs::metadata(&entry).unwrap().is_file() {
            files += 1;
            let found = fs::read(&entry).unwrap().windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{}", entry.display());
        }
    }
    assert!(files > 5, "config.json, launch.json and others were read");
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        } else if entry.file_type().unwrap().is_file() && entry.metadata().unwrap().len() < 64 << 20 {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_has_no_privileges_and_a_read_only_system() {
    let node = TestNode::open().await;
    let (text, end) = node
        .run(
            "id -u; id -un; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; \
             for path in /usr/x /etc/x /x /sys/x /.ferroku/x; do touch $path 2>&1; done; \
             unshare -U true; unshare -n true; mount -t tmpfs x /tmp; \
             python3 -c 'import socket; socket.socket(socket.AF_ALG)' 2>&1 | tail -1; \
             python3 -c 'import ctypes; l=ctypes.CDLL(None,use_errno=True); l.syscall(250,0,0,0,0,0); print(\"keyctl\", ctypes.get_errno())'; \
             ls /home /root /var/lib /mnt 2>&1; cat /proc/1/environ 2>&1 | tr '\\0' ' '; echo; pwd; hostname; \
             ls /proc | grep -c '^[0-9]'; ls -d /dev/*; dmesg 2>&1; cat /etc/shadow 2>&1; ls /sys/class/net | xargs",
        )
        .await;
    println!("{text}");
    assert_eq!(status(&end), 0);
    assert!(text.starts_with("1000\ndyno\n"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(text.contains(&format!("{set}:\t0000000000000000")), "{set}");
    }
    assert!(text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"));
    for path in ["/usr/x", "/etc/x", "/x", "/sys/x", "/.ferroku/x"] {
        let denied = [format!("'{path}': Read-only file system"), format!("'{path}': Permission denied")];
        assert!(denied.iter().any(|denied| text.contains(denied.as_str())), "{path}");
    }
    assert_eq!(text.matches("unshare: unshare failed: Operation not permitted").count(), 2);
    assert!(text.contains("Address family not supported"));
    assert!(text.contains("keyctl 1\n"));
    assert!(text.contains("/proc/1/environ: Permission denied"), "nobody looks into pid 1");
    assert!(text.contains("\n/app\nweb-1\n"));
    assert!(text.contains("/etc/shadow: No such file"));
    assert!(text.contains("eth0 lo"), "the devices of its own network only");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn app_is_writable_and_the_slug_never_changes() {
    let node = TestNode::open().await;
    let digest = node.slug(&[("kept", "original\n"), ("dir/file", "x\n"), ("gone", "x\n")]);
    let change = "echo changed >> kept; rm gone; echo new > dir/new; chmod 700 dir; mkdir sub; \
                  stat -c '%u %n' . kept dir/file sub; cat kept; ls; df -P /app | tail -1";
    let run = |line: &str| DynoSpec { slug_digest: Some(digest.clone()), ..spec(line) };
    let mut handle = node.start(run(change)).await;
    let (text, end) = finish(&mut handle).await;
    assert_eq!(status(&end), 0, "{text}");
    assert!(
        text.contains("1000 .\n1000 kept\n1000 dir/file\n1000 sub\noriginal\nchanged\ndir\nkept\nsub\n"),
        "{text}"
    );
    node.driver().remove(handle.dyno_id).await.unwrap();
    let mut handle = node.start(run("cat kept; ls")).await;
    let (text, _) = finish(&mut handle).await;
    assert_eq!(text, "original\ndir\ngone\nkept\n", "the next dyno of the release starts afresh");
    let root = node.data().join("slugs").join(&digest);
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "original\n");
    assert_eq!(fs::metadata(root.join("kept")).unwrap().uid(), SLUG_UID);
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_belong_to_the_dyno_inside_and_to_the_slug_user_on_disk() {
    let node = TestNode::open().await;
    let folder = node.data().join("builds/one/app");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("there"), "x").unwrap();
    node.own(&node.data().join("builds/one"));
    fs::write(node.data().join("tool"), "#!/bin/sh\necho tool runs\n").unwrap();
    fs::set_permissions(node.data().join("tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let volume = |source: &str, target: &str, read_only| Volume {
        source: VolumeSource::Data(source.into()),
        target: target.into(),
        read_only,
    };
    let spec = DynoSpec {
        volumes: vec![
            volume("builds/one/app", "/tmp/build_1", false),
            volume("builds/one/app", "/tmp/ro", true),
            volume("tool", "/build/tool", true),
        ],
        ..spec(
            "cd /tmp/build_1; stat -c %u there; echo new > made; mkdir d; touch /tmp/ro/x 2>&1; /build/tool",
        )
    };
    let mut handle = node.start(spec).await;
    let (text, end) = finish(&mut handle).await;
    assert_eq!(status(&end), 0, "{text}");
    assert_eq!(text, "1000\ntouch: cannot touch '/tmp/ro/x': Read-only file system\ntool runs\n");
    for name in ["made", "d"] {
        let metadata = fs::metadata(folder.join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (SLUG_UID, SLUG_UID), "{name}");
    }
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let node = TestNode::open().await;
    let (text, end) = node.run("python3 -c 'x = bytearray(600 << 20); print(len(x))'").await;
    assert!(matches!(end, DynoEvent::Exited { status: 137, oom_killed: true, .. }), "{end:?} {text}");
    // Without the limit, this would take the machine's processes.
    let bomb = "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 2; cat /proc/loadavg; echo still here";
    let (text, end) = node.run(&format!("bash -c '{bomb}'; echo after; exit 0")).await;
    assert!(matches!(end, DynoEvent::Exited { .. }), "{end:?} {text}");
    let (text, _) = node.run("dd if=/dev/zero of=/tmp/big bs=1M count=1000 2>&1 | tail -2").await;
    assert!(text.contains("No space left on device") || text.contains("copied"), "{text}");
    let (text, _) = node.run("dd if=/dev/zero of=/app/big bs=1M count=1000 2>&1 | head -1").await;
    assert!(text.contains("No space left on device"), "{text}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binding_the_port_is_seen_and_told_apart() {
    let node = TestNode::open().await;
    let listen = |address: &str| format!("exec python3 -m http.server --bind {address} 5006");
    let mut handle = node.start(web(&listen("0.0.0.0"), 30_000)).await;
    until(&mut handle, |event| *event == DynoEvent::Bound).await;
    assert!(handle.address.is_some_and(|address| address.port() == 5006));
    node.driver().remove(handle.dyno_id).await.unwrap();

    let mut handle = node.start(web(&listen("::"), 30_000)).await;
    until(&mut handle, |event| *event == DynoEvent::Bound).await;
    node.driver().remove(handle.dyno_id).await.unwrap();

    // The lightest server there is: it must be there before its time is over.
    let own = "exec python3 -S -c 'import socket, time; s = socket.create_server((\"127.0.0.1\", 5006)); time.sleep(1000)'";
    let mut handle = node.start(web(own, 10_000)).await;
    until(&mut handle, |event| *event == DynoEvent::BoundLoopbackOnly).await;
    until(&mut handle, |event| *event == DynoEvent::BootTimeout).await;
    handle.control.stop(10_000).await.unwrap();
    assert_eq!(status(&finish(&mut handle).await.1), 143);
    node.driver().remove(handle.dyno_id).await.unwrap();

    let mut handle = node.start(web("sleep 1000", 500)).await;
    until(&mut handle, |event| *event == DynoEvent::BootTimeout).await;
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_asks_every_process_then_kills() {
    let node = TestNode::open().await;
    // The child's trap proves that not only the command gets the signal.
    let polite = "trap 'echo asked; wait; exit 7' TERM; \
                  bash -c 'trap \"echo child asked; exit 0\" TERM; echo ready; while :; do sleep 0.1; done' & wait";
    let mut handle = node.start(spec(polite)).await;
    until_line(&mut handle, "ready").await;
    handle.control.stop(20_000).await.unwrap();
    let (text, end) = finish(&mut handle).await;
    assert_eq!(status(&end), 7, "{text}");
    assert!(text.contains("child asked") && text.contains("\nasked") || text.starts_with("asked"), "{text}");
    node.driver().remove(handle.dyno_id).await.unwrap();

    let mut handle = node.start(spec("trap '' TERM; echo ready; while :; do sleep 0.1; done")).await;
    until_line(&mut handle, "ready").await;
    handle.control.stop(300).await.unwrap();
    until(&mut handle, |event| *event == DynoEvent::StopTimeout).await;
    assert_eq!(status(&finish(&mut handle).await.1), 137);
    node.driver().remove(handle.dyno_id).await.unwrap();

    let mut handle =
        node.start(spec("trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.1; done")).await;
    until_line(&mut handle, "ready").await;
    handle.control.signal(10).await.unwrap();
    assert_eq!(status(&finish(&mut handle).await.1), 9);
    node.driver().remove(handle.dyno_id).await.unwrap();

    let mut handle = node.start(spec("echo ready; sleep 1000")).await;
    until_line(&mut handle, "ready").await;
    handle.control.kill().await.unwrap();
    assert_eq!(status(&finish(&mut handle).await.1), 137);
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_dyno_is_being_made_ends_it_as_any_other_stop_does() {
    let node = TestNode::open().await;
    for pause_ms in [0, 1, 2, 4, 8, 16, 32] {
        let mut handle = node.start(spec("sleep 1000")).await;
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        handle.control.stop(20_000).await.unwrap();
        let (text, end) = finish(&mut handle).await;
        assert_eq!(status(&end), 143, "{pause_ms} ms: {end:?}: {text}");
        node.driver().remove(handle.dyno_id).await.unwrap();
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_end_has_its_status() {
    let node = TestNode::open().await;
    for (line, expected) in [
        ("true", 0),
        ("exit 42", 42),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
        ("no-such-program", 127),
        ("/etc/passwd", 126),
        // What still runs when the command has ended, ends with it.
        ("sleep 1000 & exit 5", 5),
        ("(setsid sleep 1000 &) ; exit 6", 6),
    ] {
        let (text, end) = node.run(line).await;
        assert_eq!(status(&end), expected, "{line}: {text}");
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_and_a_last_line_without_newline_arrive() {
    let node = TestNode::open().await;
    let (text, _) = node.run("head -c 25000 /dev/zero | tr '\\0' x; echo; printf 'no newline'").await;
    let lengths: Vec<_> = text.lines().map(str::len).collect();
    assert_eq!(lengths, [10_000, 10_000, 5_000, 10]);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_terminal_has_its_size_and_takes_input() {
    let node = TestNode::open().await;
    let terminal = Attach { terminal: Some(TerminalSize { rows: 33, columns: 101 }) };
    let line = "tty; stty size; trap 'stty size; exit 4' WINCH; read -r name; echo hi $name; while :; do sleep 0.1; done";
    let mut handle = node.start(attached(line, terminal)).await;
    until(&mut handle, |event| *event == DynoEvent::Started).await;
    handle.control.write_stdin(*b"joe\n").await.unwrap();
    let mut text = String::new();
    while !text.contains("hi joe") {
        if let DynoEvent::Output(bytes) = next(&mut handle).await {
            text.push_str(&String::from_utf8(bytes).unwrap());
        }
    }
    assert!(text.contains("/dev/pts/0\r\n33 101\r\n"), "{text:?}");
    handle.control.resize(20, 60).await.unwrap();
    let (text, end) = finish(&mut handle).await;
    assert_eq!(text, "20 60\r\n");
    assert_eq!(status(&end), 4);
    node.driver().remove(handle.dyno_id).await.unwrap();

    // Control-C reaches the foreground job: the shell has job control, so the terminal is a controlling one.
    let mut handle = node.start(attached("echo go; cat; echo over", terminal)).await;
    let mut text = String::new();
    while !text.contains("go") {
        if let DynoEvent::Output(bytes) = next(&mut handle).await {
            text.push_str(&String::from_utf8(bytes).unwrap());
        }
    }
    handle.control.write_stdin(*b"\x03").await.unwrap();
    assert_eq!(status(&finish(&mut handle).await.1), 130);
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attached_pipes_carry_megabytes_both_ways() {
    let node = TestNode::open().await;
    let mut handle = node.start(attached("sha256sum; wc -c < /dev/null", Attach { terminal: None })).await;
    let data: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let expected = {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(&data))
    };
    let control = handle.control.clone();
    let feeding = tokio::spawn(async move {
        for piece in data.chunks(100_000) {
            control.write_stdin(piece).await.unwrap();
        }
        control.close_stdin().await.unwrap();
    });
    let (text, end) = finish(&mut handle).await;
    feeding.await.unwrap();
    assert_eq!(status(&end), 0);
    assert_eq!(text, format!("{expected}  -\n0\n"));
    node.driver().remove(handle.dyno_id).await.unwrap();

    let mut handle = node.start(attached("seq 1 300000; echo err >&2", Attach { terminal: None })).await;
    let (text, _) = finish(&mut handle).await;
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect::<String>() + "err\n";
    assert!(text == expected, "{} bytes of {}", text.len(), expected.len());
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let node = TestNode::open().await;
    let missing = DynoSpec { slug_digest: Some("abc".into()), ..spec("true") };
    let error = node.driver().start(missing, environment(&[])).await.unwrap_err();
    assert!(error.to_string().contains("slug abc is not in"), "{error}");
    let overlapping = DynoSpec { uid_base: u32::MAX - 10, ..spec("true") };
    let dyno_id = overlapping.dyno_id;
    let mut handle = node.driver().start(overlapping, environment(&[])).await.unwrap();
    let (_, end) = finish(&mut handle).await;
    println!("{end:?}");
    assert!(matches!(end, DynoEvent::StartFailed { .. }), "{end:?}");
    node.driver().remove(dyno_id).await.unwrap();
    let twice = spec("sleep 1000");
    let handle = node.start(twice.clone()).await;
    assert!(node.driver().start(twice, environment(&[])).await.is_err());
    node.driver().remove(handle.dyno_id).await.unwrap();
    let nul = spec("true");
    let mut handle = node.driver().start(nul, environment(&[("A", "b\0c")])).await.unwrap();
    let (text, end) = finish(&mut handle).await;
    assert_eq!(status(&end), 126, "{text}");
    assert!(text.contains("NUL"), "{text}");
    node.driver().remove(handle.dyno_id).await.unwrap();
    assert_eq!(FIRST_APP_UID % 65_536, 0);
    node.close().await;
}

/// On a thread of its own: what locks up a runtime must fail this test, not stop it.
#[test]
fn a_dyno_that_is_being_started_is_not_removed_and_nothing_locks_up() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let node = TestNode::open().await;
            let spec = spec("sleep 1000");
            let dyno_id = spec.dyno_id;
            let driver = node.driver();
            // The start is polled first, and so begun, when the removal comes.
            let (started, removed) =
                tokio::join!(driver.start(spec, environment(&[])), driver.remove(dyno_id));
            started.expect("starts all the same");
            assert!(removed.expect_err("refused").to_string().contains("being started"));
            driver.remove(dyno_id).await.expect("now it can be");
            node.close().await;
        });
        let _ = done.send(());
    });
    ended.recv_timeout(PATIENCE).expect("it ends, and without a panic");
}
