//! The group `main`: a push of examples/django, memory, sizes, the demo.
//!
//! A push is split by when each `remote:` line arrived and by the times in the app's log:
//!
//! ```text
//! git push ... last pack byte | unpack, detect | the buildpack: uv, collectstatic | seal, release | dyno boots | first 200
//!                              \---- ours ----/ \---------- its own ------------/ \--- ours ----/ \ its own / \- ours -/
//! ```

use crate::{Figure, target_folder};
use ferroku_testkit::TestNode;
use ferroku_testkit::node::program;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A push that takes longer has failed.
const PUSH_LIMIT: Duration = Duration::from_secs(300);

/// Measures all of it on one node.
pub fn measure() -> Vec<Figure> {
    let mut figures = Vec::new();
    let node = TestNode::start();
    node.run("heroku create bench --no-remote && cp -r \"$EXAMPLES/django\" bench").succeeded();
    node.run(
        "cd bench && git init -q -b main && git add . && git commit -qm first && heroku git:remote -a bench",
    )
    .succeeded();
    let first = push(&node, "Django");
    figures.extend([
        Figure::new("first push of examples/django to its first 200", "s", first.total),
        Figure::new("  of it: buildpack (uv, collectstatic)", "s", first.buildpack),
        Figure::new("  of it: the app's own boot", "s", first.boot),
        Figure::new("  of it: Ferroku, from the last pack byte on", "s", first.ours),
    ]);
    node.run("cd bench && echo \"# $RANDOM\" >> mysite/urls.py && git commit -qam second").succeeded();
    let second = push(&node, "Django");
    figures.extend([
        Figure::new("second push, one line changed, to its first 200", "s", second.total).at_most(3.0),
        Figure::new("  of it: buildpack (uv, collectstatic)", "s", second.buildpack),
        Figure::new("  of it: the app's own boot", "s", second.boot),
        Figure::new("  of it: Ferroku, from the last pack byte on", "s", second.ours).at_most(0.5),
    ]);
    // dyno-init gives its memory back once its dyno has said nothing for five seconds.
    std::thread::sleep(Duration::from_secs(7));
    figures.extend(memory(&node));
    figures.extend(sizes());
    node.stop();
    figures.push(Figure::new("make demo without the build, first run", "s", demo()));
    figures
}

struct Push {
    total: f64,
    buildpack: f64,
    boot: f64,
    ours: f64,
}

/// Pushes and waits until the new release answers 200.
fn push(node: &TestNode, detected: &str) -> Push {
    let began = Instant::now();
    let mut command = node.shell("cd bench && exec git push --progress heroku main 2>&1");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("git runs");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let (mut pack, mut compile, mut compiled) = (None, None, None);
    let mut text = String::new();
    for line in output.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if pack.is_none() && line.starts_with("remote:") {
            // Nothing comes from the hook before the pack is there.
            pack = Some(Instant::now());
        }
        if line.contains("-----> ")
            && compile.is_none()
            && !line.contains(detected)
            && text.contains("app detected")
        {
            compile = Some(Instant::now());
        }
        if line.contains("Discovering process types") {
            compiled = Some(Instant::now());
        }
        text.push_str(&line);
        text.push('\n');
    }
    assert!(child.wait().expect("our own child").success(), "the push failed:\n{text}");
    let pushed = Instant::now();
    let release = newest_release(&text);
    while !serves(node, &release) {
        assert!(pushed.elapsed() < PUSH_LIMIT, "no 200 after the push:\n{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let end = Instant::now();
    let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
    let pack = pack.unwrap_or(began);
    let buildpack = match (compile, compiled) {
        (Some(from), Some(to)) => seconds(from, to),
        _ => panic!("the build's text has no steps:\n{text}"),
    };
    let boot = boot_seconds(node);
    Push { total: seconds(began, end), buildpack, boot, ours: seconds(pack, end) - buildpack - boot }
}

fn newest_release(text: &str) -> String {
    let word = text
        .lines()
        .find_map(|line| line.split("Released ").nth(1))
        .expect("a push ends by naming its release");
    word.trim().to_owned()
}

/// Whether the app answers 200 and a dyno of this release is up, so that the answer is not the old one's.
fn serves(node: &TestNode, release: &str) -> bool {
    let line = "curl -s -m 5 -o /dev/null -w '%{http_code} ' -H 'Host: bench.localhost' http://127.0.0.1:$ROUTER_PORT/; \
        curl -s -H \"Authorization: Bearer $HEROKU_API_KEY\" \"$HEROKU_HOST/apps/bench/dynos\"";
    let output = node.run_unchecked(line).text;
    let Some((status, dynos)) = output.split_once(' ') else { return false };
    let dynos: serde_json::Value = serde_json::from_str(dynos).unwrap_or_default();
    let version: i64 = release.trim_start_matches('v').parse().unwrap_or(0);
    let up = |dyno: &serde_json::Value| dyno["release"]["version"] == version && dyno["state"] == "up";
    status == "200" && dynos.as_array().is_some_and(|dynos| dynos.iter().any(up))
}

/// From `Starting process` to `State changed from starting to up` of the newest web dyno, by the log's own times.
fn boot_seconds(node: &TestNode) -> f64 {
    let log = node.run_unchecked("heroku logs -n 100 --source heroku -a bench").text;
    let time_of = |words: &str| {
        let line = log.lines().rev().find(|line| line.contains("web.1") && line.contains(words))?;
        seconds_of_day(line.split(' ').next()?)
    };
    match (time_of("Starting process"), time_of("to up")) {
        (Some(start), Some(up)) if up >= start => up - start,
        _ => panic!("the log does not tell when the dyno booted:\n{log}"),
    }
}

/// `2026-01-01T12:00:00.000000+00:00`.
fn seconds_of_day(time: &str) -> Option<f64> {
    let clock = time.split('T').nth(1)?.split('+').next()?;
    let mut parts = clock.split(':').map(|part| part.parse::<f64>().ok());
    Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
}

fn memory(node: &TestNode) -> Vec<Figure> {
    let mut figures = Vec::new();
    let supervisor = fs::read_to_string(node.data.join("lock")).ok().and_then(|pid| pid.trim().parse().ok());
    let processes = [
        ("supervisor", supervisor, 5.0),
        ("control", node.pid_of("control"), 40.0),
        ("router", node.pid_of("router"), 20.0),
        ("dyno-init", dyno_init(&node.data), 0.5),
    ];
    for (name, pid, target) in processes {
        let pid = pid.unwrap_or_else(|| panic!("{name} does not run"));
        let megabytes = |field: &str| memory_megabytes(pid, field);
        let (resident, proportional) = match name {
            "supervisor" => ("supervisor, resident", "supervisor, proportional"),
            "control" => ("control, resident", "control, proportional"),
            "router" => ("router, resident", "router, proportional"),
            _ => ("one dyno-init of an idle dyno, resident", "one dyno-init of an idle dyno, proportional"),
        };
        figures.push(Figure::new(resident, "MB", megabytes("Rss:")));
        figures.push(Figure::new(proportional, "MB", megabytes("Pss:")).at_most(target));
    }
    figures
}

/// A field of `/proc/PID/smaps_rollup`, in MB.
pub fn memory_megabytes(pid: i32, field: &str) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("root may read it");
    let line = rollup.lines().find(|line| line.starts_with(field)).expect("smaps_rollup has it");
    let kilobytes: f64 = line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a number");
    kilobytes / 1024.0
}

/// The process that runs DIR/bin/dyno-init-DIGEST, outside the dyno.
fn dyno_init(data: &Path) -> Option<i32> {
    let ours = |pid: &i32| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let outside =
            fs::read_link(format!("/proc/{pid}/ns/pid")).ok() == fs::read_link("/proc/self/ns/pid").ok();
        outside && program.starts_with(data.join("bin")) && program.to_string_lossy().contains("dyno-init")
    };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).find(ours)
}

fn sizes() -> Vec<Figure> {
    let folder = program().parent().map(Path::to_path_buf).unwrap_or_default();
    let megabytes =
        |path: &str| fs::metadata(folder.join(path)).map_or(f64::NAN, |file| file.len() as f64 / 1e6);
    vec![
        Figure::new("size of ferrokud", "MB", megabytes("ferrokud")),
        Figure::new("size of dyno-init", "MB", megabytes("dyno-init")),
        Figure::new("size of dyno-create", "MB", megabytes("dyno-create")),
        Figure::new("size of slug-compiler", "MB", megabytes("slug-compiler")),
    ]
}

/// Runs scripts/demo.sh from nothing, on ports of its own, until its app answers.
fn demo() -> f64 {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = tempfile::tempdir().expect("a temporary folder");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("our own folder");
    let began = Instant::now();
    let output = Command::new(root.join("scripts/demo.sh"))
        .env("CARGO_TARGET_DIR", target_folder())
        .env("FERROKU_DEMO_DATA", folder.path().join("data"))
        .env("FERROKU_DEMO_WORK", folder.path().join("django"))
        .env("FERROKU_DEMO_LISTEN", "127.0.0.1:15080")
        .env("FERROKU_DEMO_ROUTER", "127.0.0.1:18080")
        .env("FERROKU_DEMO_ONCE", "1")
        .output()
        .expect("the script runs");
    assert!(output.status.success(), "the demo failed:\n{}", String::from_utf8_lossy(&output.stderr));
    began.elapsed().as_secs_f64()
}
