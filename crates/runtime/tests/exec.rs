//! Further commands in a running dyno, tried on real ones. Needs root.
#![allow(clippy::unwrap_used)]

mod support;

use ferroku_core::protocol::dyno::MAX_EXECS;
use ferroku_runtime::{
    Command, Driver, DynoEvent, DynoHandle, DynoSpec, Exec, ExecEvent, ExecOutput, ExecRequest, LogStream,
    TerminalSize,
};
use std::time::Duration;
use support::*;

/// All that says what a process is and may do. Its own numbers are left out.
const FACTS: &str = r#"
grep -E '^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn|SigCgt|CoreDumping|Cpus_allowed)' /proc/self/status
readlink /proc/self/ns/* /proc/self/root /proc/self/cwd
cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj /proc/self/mountinfo /proc/self/uid_map
echo descriptors $(ls /proc/$$/fd)
ulimit -a
echo
"#;
const FACT_LINES: usize = 60;

fn shell(line: &str) -> ExecRequest {
    let command = Command::Shell(line.into());
    ExecRequest { environment: environment(&[("GREETING", "hello")]), command, terminal: None }
}

async fn exec(handle: &DynoHandle, line: &str) -> Exec {
    handle.control.exec(shell(line)).await.unwrap()
}

async fn run_exec(handle: &DynoHandle, line: &str) -> (String, i32) {
    let (text, status) = finish_exec(&mut exec(handle, line).await.output).await;
    (text, status.expect("it ends by itself"))
}

async fn until_output(output: &mut ExecOutput, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        match tokio::time::timeout(PATIENCE, output.next()).await.expect("an event in time") {
            Some(ExecEvent::Output { bytes, .. }) => text.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {text:?}"),
        }
    }
    text
}

/// A dyno that has said `ready`.
async fn ready(node: &TestNode, line: &str) -> DynoHandle {
    let digest =
        node.slug(&[("facts.sh", FACTS), (".profile.d/a.sh", "export PROFILED=\"profile saw $GREETING\"\n")]);
    let spec = DynoSpec { slug_digest: Some(digest), ..spec(line) };
    let mut handle = node.driver().start(spec, environment(&[])).await.unwrap();
    until_line(&mut handle, "ready").await;
    handle
}

/// How many `sleep 77` there are; this line is none.
const COUNT: &str = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep 7[7]' | wc -l";

async fn until_none_sleeps(handle: &DynoHandle) {
    until_none(handle, COUNT).await;
}

async fn until_none(handle: &DynoHandle, count: &str) {
    let begun = std::time::Instant::now();
    while run_exec(handle, count).await.0 != "0\n" {
        assert!(begun.elapsed() < PATIENCE, "they live on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_command_is_exactly_as_confined_as_the_dynos_own() {
    let node = TestNode::open().await;
    let digest = node.slug(&[("facts.sh", FACTS)]);
    let spec =
        DynoSpec { slug_digest: Some(digest), ..spec("bash facts.sh 2>&1; echo ready; exec sleep 1000") };
    let mut handle = node.driver().start(spec, environment(&[])).await.unwrap();
    let own = until_line(&mut handle, "ready").await.replace("ready\n", "");
    assert!(own.lines().count() > FACT_LINES, "{own}");
    assert!(own.contains("CapEff:\t0000000000000000") && own.contains("Seccomp_filters:\t1"), "{own}");
    let (piped, status) = run_exec(&handle, "bash facts.sh 2>&1").await;
    assert_eq!(status, 0);
    assert_eq!(piped, own);
    let terminal = Some(TerminalSize { rows: 7, columns: 90 });
    let request = ExecRequest { terminal, ..shell("bash facts.sh 2>&1; stty size") };
    let mut on_terminal = handle.control.exec(request).await.unwrap();
    let (text, _) = finish_exec(&mut on_terminal.output).await;
    assert_eq!(text.replace("\r\n", "\n"), format!("{own}7 90\n"));
    // Nobody of the dyno gets at the first process, which forks them.
    let look = "ls /proc/1/fd; cat /proc/1/environ /proc/1/maps; kill -9 1; kill -STOP 1; echo $?";
    let (text, _) = run_exec(&handle, &format!("{{ {look}; }} 2>&1")).await;
    assert_eq!(text.matches("Permission denied").count(), 3, "{text}");
    assert_eq!(
        run_exec(&handle, "echo $$ > /tmp/x; cat /proc/loadavg | wc -l").await.1,
        0,
        "it still serves"
    );
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_as_the_dynos_own_command_does_and_streams_both_ways() {
    let node = TestNode::open().await;
    let mut handle = ready(&node, "echo ready; exec sleep 1000").await;
    let (text, status) = run_exec(&handle, "pwd; echo $GREETING; echo $PROFILED; echo [$HOME]; exit 7").await;
    assert_eq!((text.as_str(), status), ("/app\nhello\nprofile saw hello\n[/app]\n", 7));
    let mut both = exec(&handle, "echo out; echo err >&2").await;
    let mut told = Vec::new();
    while let Some(event) = both.output.next().await {
        match event {
            ExecEvent::Output { stream, bytes } => told.push((stream == LogStream::Stderr, bytes)),
            end => assert_eq!(end, ExecEvent::Ended { status: 0 }),
        }
    }
    told.sort();
    assert_eq!(told, [(false, b"out\n".to_vec()), (true, b"err\n".to_vec())]);
    // More than every buffer on the way, in and out, unchanged.
    let sent: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let Exec { input, mut output } = exec(&handle, "cat").await;
    let feeding = {
        let sent = sent.clone();
        tokio::spawn(async move {
            input.write(&sent).await.unwrap();
            input.close().await.unwrap();
        })
    };
    let mut came = Vec::new();
    while let Some(ExecEvent::Output { bytes, .. }) = output.next().await {
        came.extend(bytes);
    }
    feeding.await.unwrap();
    assert!(came == sent, "{} of {} bytes", came.len(), sent.len());
    // A terminal: resized, and told of keys.
    let terminal = Some(TerminalSize { rows: 24, columns: 80 });
    let line = "trap 'echo size $(stty size)' WINCH; trap 'echo got INT; exit 9' INT; echo go; while :; do sleep 0.05; done";
    let Exec { input, mut output } =
        handle.control.exec(ExecRequest { terminal, ..shell(line) }).await.unwrap();
    until_output(&mut output, "go").await;
    input.resize(33, 111).await.unwrap();
    until_output(&mut output, "size 33 111").await;
    input.write(&[3]).await.unwrap();
    let (text, status) = finish_exec(&mut output).await;
    assert!(text.contains("got INT") && status == Some(9), "{status:?} {text}");
    // What cannot be run says so, with the shell's status.
    let request = ExecRequest { command: Command::Exec(vec!["/no/such".into()]), ..shell("") };
    let mut none = handle.control.exec(request).await.unwrap();
    let (text, status) = finish_exec(&mut none.output).await;
    assert!(status.is_none() && text.contains("/no/such: No such file"), "{text}");
    assert_eq!(run_exec(&handle, "nosuchcommand 2>/dev/null").await.1, 127);
    // Nothing of it was in the dyno's log, no zombie is left, and the dyno never noticed.
    until_none(&handle, "cat /proc/[0-9]*/stat | grep -c ') Z '").await;
    assert!(tokio::time::timeout(Duration::from_millis(50), handle.next_event()).await.is_err());
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_end_is_the_clients_or_the_dynos() {
    let node = TestNode::open().await;
    let mut handle =
        ready(&node, "trap 'echo main got HUP' HUP; echo ready; while :; do sleep 0.1; done").await;
    // The client goes: a shell's jobs and those that ignore SIGHUP end as well, the dyno's own command does not notice.
    let terminal = Some(TerminalSize { rows: 24, columns: 80 });
    let stubborn = "trap '' HUP; set -m; sleep 77 & nohup sleep 77 >/dev/null & echo go; sleep 77; sleep 77";
    for terminal in [None, terminal] {
        let mut gone = handle.control.exec(ExecRequest { terminal, ..shell(stubborn) }).await.unwrap();
        until_output(&mut gone.output, "go").await;
        drop(gone);
    }
    let begun = std::time::Instant::now();
    let count = run_exec(&handle, COUNT).await.0;
    assert!(count != "0\n" || begun.elapsed() > Duration::from_secs(4), "they have some time");
    until_none_sleeps(&handle).await;
    // A slow client holds up nobody but its own command.
    let mut slow = exec(&handle, "yes; echo never").await;
    until_output(&mut slow.output, "y").await;
    assert_eq!(run_exec(&handle, "echo quick").await, ("quick\n".to_owned(), 0));
    drop(slow);
    // One that takes no input does not keep its client from going on, or from going.
    let deaf = exec(&handle, "exec <&-; echo go; exec sleep 1000").await;
    let Exec { input, mut output } = deaf;
    until_output(&mut output, "go").await;
    tokio::time::timeout(PATIENCE, input.write(&vec![0; 3 << 20])).await.expect("thrown away").unwrap();
    drop((input, output));
    // What a command leaves in the background does not keep its client.
    let (text, status) = run_exec(&handle, "sleep 77 & sleep 0.3; echo left it").await;
    assert_eq!((text.as_str(), status), ("left it\n", 0));
    assert_eq!(run_exec(&handle, COUNT).await.0, "1\n");
    // So many at a time; then it is refused, and works again when one has ended.
    let mut many = Vec::new();
    for _ in 0..MAX_EXECS {
        let mut one = exec(&handle, "echo go; read; exit 4").await;
        until_output(&mut one.output, "go").await;
        many.push(one);
    }
    let (text, status) = finish_exec(&mut exec(&handle, "true").await.output).await;
    assert!(status.is_none() && text.contains("other commands run in the dyno already"), "{text}");
    many[0].input.write(b"\n").await.unwrap();
    assert_eq!(finish_exec(&mut many[0].output).await.1, Some(4));
    many[1].input.signal(9).await.unwrap();
    assert_eq!(finish_exec(&mut many[1].output).await.1, Some(137));
    assert_eq!(run_exec(&handle, "echo again").await.0, "again\n");
    // The dyno ends: so do they.
    handle.control.stop(60_000).await.unwrap();
    // By SIGTERM, which goes to all of the dyno, or with the dyno's own command.
    assert!(matches!(finish_exec(&mut many[2].output).await.1, Some(143 | 137)));
    let (lines, _) = finish(&mut handle).await;
    assert!(!lines.contains("HUP") && !lines.contains("go"), "{lines}");
    assert!(finish_exec(&mut many[3].output).await.1.is_some());
    node.driver().remove(handle.dyno_id).await.unwrap();
    let late = handle.control.exec(shell("true")).await;
    assert!(late.is_err(), "the dyno is gone");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_end_with_control_and_the_next_one_starts_others() {
    let mut node = TestNode::open().await;
    let handle = ready(&node, "echo ready; exec sleep 1000").await;
    let mut output = exec(&handle, "echo go; exec sleep 77").await.output;
    until_output(&mut output, "go").await;
    node.driver.take().unwrap().shutdown().await;
    drop(handle);
    assert_eq!(finish_exec(&mut output).await.1, None);
    node.driver = Some(open(node.data()).await);
    let mut handles = node.driver().adopt().await.unwrap();
    let mut handle = handles.pop().unwrap();
    until(&mut handle, |event| *event == DynoEvent::Started).await;
    until_none_sleeps(&handle).await;
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dyno_that_does_not_run_or_is_full_says_so() {
    let node = TestNode::open().await;
    let mut over = node.start(spec("true")).await;
    finish(&mut over).await;
    let (text, status) = finish_exec(&mut exec(&over, "true").await.output).await;
    assert!(status.is_none() && text.contains("the dyno does not run"), "{text}");
    node.driver().remove(over.dyno_id).await.unwrap();
    let full = "for i in $(seq 126); do sleep 1000 & done 2>/dev/null; echo ready; exec sleep 1000";
    let handle = ready(&node, full).await;
    let (text, status) = finish_exec(&mut exec(&handle, "true; true").await.output).await;
    assert!(
        text.contains("no more processes") || status == Some(254) || status == Some(1),
        "{status:?} {text}"
    );
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}

/// Looks for commands on their way in, between the first process and their own program, and for what they hold.
const HUNTER: &str = r#"
import os
first = open("/proc/1/comm").read()
print("ready", flush=True)
saw, caught = set(), []
while not os.path.exists("/tmp/over"):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if pid == "1" or open(f"/proc/{pid}/comm").read() != first:
                continue
            if not saw:
                open("/tmp/sighted", "w").close()
            saw.add(pid)
            for fd in os.listdir(f"/proc/{pid}/fd"):
                caught.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
            open(f"/proc/{pid}/environ").read()
        except OSError:
            pass
# Once the descriptors that close at exec are closed, the kernel lets go of the protection: what is left is its own.
caught = [link for link in caught if "memfd" in link or "socket" in link]
print("saw some:", len(saw) > 0, "caught:", caught, flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_in_the_dyno_gets_hold_of_a_command_on_its_way_in() {
    let node = TestNode::open().await;
    let digest = node.slug(&[("hunter.py", HUNTER)]);
    let spec = DynoSpec { slug_digest: Some(digest), ..spec("exec python3 -u hunter.py") };
    let mut handle = node.driver().start(spec, environment(&[])).await.unwrap();
    until_line(&mut handle, "ready").await;
    // An order that takes a while to read.
    let large: Vec<(String, String)> =
        (0..2_000).map(|number| (format!("V{number}"), "x".repeat(30))).collect();
    let large: Vec<(&str, &str)> =
        large.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // At least so many, and on until it has seen one.
    let (begun, mut count, mut is_sighted) = (std::time::Instant::now(), 0, false);
    while count < 40 || !is_sighted && begun.elapsed() < PATIENCE {
        let request = ExecRequest {
            environment: environment(&large),
            ..shell("test -e /tmp/sighted && echo sighted; true")
        };
        let mut exec = handle.control.exec(request).await.unwrap();
        let (text, status) = finish_exec(&mut exec.output).await;
        assert_eq!(status, Some(0));
        (count, is_sighted) = (count + 1, text.contains("sighted"));
    }
    run_exec(&handle, "touch /tmp/over").await;
    let text = until_line(&mut handle, "saw").await;
    assert!(text.contains("saw some: True caught: []"), "{text}");
    node.driver().remove(handle.dyno_id).await.unwrap();
    node.close().await;
}
