//! Lines in, lines out, over restarts; the files as an earlier process left them.

use ferroku_core::{AppId, DynoId};
use ferroku_logplex::{
    Dropped, Filter, HISTORY_LINES, Line, LogLine, Logplex, LogplexError, MAX_QUEUED_LINES, Tail, TailEvent,
    TailFrom,
};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest time anything here waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
const AT_US: i64 = 1_767_268_800_000_000;

fn app_id(number: u128) -> AppId {
    AppId(Uuid::from_u128(number))
}

fn web(text: impl Into<String>) -> LogLine {
    LogLine::new(AT_US, "app", "web.1", text.into())
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.message.as_str()).collect()
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| format!("line {number}")).collect()
}

async fn all(logplex: &Logplex, app: AppId) -> Vec<Line> {
    logplex.history(app, usize::MAX, Filter::default()).await.expect("history")
}

fn open(folder: &Path) -> Logplex {
    Logplex::open(folder.join("logs")).expect("opens")
}

fn segments(folder: &Path, app: AppId) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder.join("logs").join(app.to_string()))
        .expect("the app has a folder")
        .map(|entry| entry.expect("entry").path())
        .collect();
    paths.sort();
    paths
}

/// Flushes until that succeeds.
async fn flushed(logplex: &Logplex) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = logplex.flush().await {
        assert!(Instant::now() < deadline, "there is room again, and yet: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn next_line(tail: &mut Tail) -> Line {
    match tokio::time::timeout(PATIENCE, tail.next()).await.expect("in time") {
        Some(TailEvent::Line(line)) => line,
        other => panic!("expected a line, got {other:?}"),
    }
}

#[tokio::test]
async fn lines_come_back_in_order_after_a_restart_and_repeated_ones_are_kept_once() {
    let folder = tempfile::tempdir().expect("folder");
    let (app, dyno) = (app_id(1), DynoId(Uuid::from_u128(9)));
    let logplex = open(folder.path());
    for sequence in 1..=5 {
        assert!(logplex.append_dyno(app, dyno, sequence, web(format!("line {sequence}"))));
    }
    assert!(!logplex.append_dyno(app, dyno, 5, web("line 5")), "sent twice to one process");
    assert!(logplex.append_keyed(app, "event", 1, LogLine::new(AT_US, "app", "api", "Release v1")));
    assert!(logplex.append_keyed(app, "router", 1, LogLine::new(AT_US, "heroku", "router", "at=info")));
    logplex.flush().await.expect("written");
    drop(logplex);

    let logplex = open(folder.path());
    assert_eq!(logplex.last_dyno_sequence(app, dyno).expect("readable"), Some(5));
    for sequence in 3..=7 {
        let new = logplex.append_dyno(app, dyno, sequence, web(format!("line {sequence}")));
        assert_eq!(new, sequence > 5, "line {sequence} after the restart");
    }
    assert!(!logplex.append_keyed(app, "event", 1, web("again")));
    assert!(logplex.append_keyed(app, String::from("event"), 2, web("Release v2")));
    assert!(logplex.append_dyno(app, DynoId(Uuid::from_u128(10)), 1, web("another dyno's line 1")));
    let lines = all(&logplex, app).await;
    let expected = [
        "line 1",
        "line 2",
        "line 3",
        "line 4",
        "line 5",
        "Release v1",
        "at=info",
        "line 6",
        "line 7",
        "Release v2",
        "another dyno's line 1",
    ];
    assert_eq!(texts(&lines), expected);
    assert!(lines.is_sorted_by(|one, other| one.cursor < other.cursor), "cursors grow over the restart");
    assert_eq!(all(&logplex, app_id(2)).await, [], "another app has none");
    assert!(!folder.path().join("logs").join(app_id(2).to_string()).exists(), "reading makes no folder");
}

#[tokio::test]
async fn a_torn_end_is_cut_off_wherever_the_crash_came() {
    let folder = tempfile::tempdir().expect("folder");
    let (app, dyno) = (app_id(1), DynoId(Uuid::from_u128(9)));
    let logplex = open(folder.path());
    logplex.append_dyno(app, dyno, 1, web("line 1"));
    logplex.flush().await.expect("written");
    let path = segments(folder.path(), app).pop().expect("a segment");
    let whole = std::fs::metadata(&path).expect("metadata").len();
    logplex.append_dyno(app, dyno, 2, web("line 2\nin two lines"));
    logplex.flush().await.expect("written");
    drop(logplex);
    let bytes = std::fs::read(&path).expect("readable");
    for cut in (0..bytes.len()).rev() {
        std::fs::write(&path, &bytes[..cut]).expect("writable");
        let logplex = open(folder.path());
        let kept = u64::from(cut as u64 >= whole);
        assert_eq!(
            logplex.last_dyno_sequence(app, dyno).expect("readable"),
            (kept == 1).then_some(1),
            "cut at {cut}"
        );
        for sequence in 1..=3 {
            logplex.append_dyno(app, dyno, sequence, web(format!("line {sequence}")));
        }
        assert_eq!(texts(&all(&logplex, app).await), ["line 1", "line 2", "line 3"], "cut at {cut}");
        drop(logplex);
        for other in segments(folder.path(), app) {
            std::fs::remove_file(other).expect("removable");
        }
    }
}

#[tokio::test]
async fn garbage_behind_the_last_record_is_no_line() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let logplex = open(folder.path());
    logplex.append(app, web("line 1"));
    drop(logplex);
    let path = segments(folder.path(), app).pop().expect("a segment");
    for garbage in [&[0u8; 4096][..], &[0xff; 40], b"12345678M"] {
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opens");
        file.write_all(garbage).expect("writes");
        let logplex = open(folder.path());
        logplex.append(app, web("next"));
        drop(logplex);
    }
    assert_eq!(texts(&all(&open(folder.path()), app).await), ["line 1", "next", "next", "next"]);
}

#[tokio::test]
async fn the_last_lines_stay_the_disk_is_bounded_and_keys_outlive_their_segments() {
    let folder = tempfile::tempdir().expect("folder");
    let (app, quiet, loud) = (app_id(1), DynoId(Uuid::from_u128(1)), DynoId(Uuid::from_u128(2)));
    let logplex = open(folder.path());
    logplex.append_dyno(app, quiet, 7, web("quiet"));
    logplex.append_keyed(app, "event", 3, web("event"));
    let filler = "x".repeat(900);
    for sequence in 1..=12_000u64 {
        logplex.append_dyno(app, loud, sequence, web(format!("{sequence} {filler}")));
        if sequence % 500 == 0 {
            logplex.flush().await.expect("written");
        }
    }
    logplex.flush().await.expect("written");
    // A segment may go while it is looked at.
    let size = || -> u64 {
        let sizes = segments(folder.path(), app).into_iter().filter_map(|path| std::fs::metadata(path).ok());
        sizes.map(|metadata| metadata.len()).sum()
    };
    let deadline = Instant::now() + PATIENCE;
    while size() >= 4 * 1024 * 1024 {
        assert!(Instant::now() < deadline, "{} bytes for 12,000 lines of 900 bytes", size());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(logplex);

    let logplex = open(folder.path());
    let lines = logplex.history(app, HISTORY_LINES as usize, Filter::default()).await.expect("history");
    let numbers: Vec<u64> = lines
        .iter()
        .map(|line| line.message.split(' ').next().expect("number").parse().expect("number"))
        .collect();
    assert_eq!(numbers, (10_501..=12_000).collect::<Vec<_>>());
    assert!(!logplex.append_dyno(app, quiet, 7, web("quiet")), "its segment is gone, its sequence is not");
    assert!(!logplex.append_keyed(app, "event", 3, web("event")));
    assert!(logplex.append_dyno(app, quiet, 8, web("quiet again")));
}

#[tokio::test]
async fn filters_come_before_counting() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let logplex = open(folder.path());
    for number in 1..=20 {
        let process = if number % 2 == 0 { "web.1" } else { "web.2" };
        logplex.append(app, LogLine::new(AT_US, "app", process, format!("line {number}")));
        logplex.append(app, LogLine::new(AT_US, "heroku", "router", format!("at=info {number}")));
    }
    let get = async |source: Option<&str>, process: Option<&str>, lines| {
        let filter = Filter { source: source.map(str::to_owned), process: process.map(str::to_owned) };
        let lines = logplex.history(app, lines, filter).await.expect("history");
        lines.into_iter().map(|line| line.message).collect::<Vec<_>>()
    };
    assert_eq!(get(Some("app"), None, 3).await, ["line 18", "line 19", "line 20"]);
    assert_eq!(get(None, Some("web.1"), 3).await, ["line 16", "line 18", "line 20"]);
    assert_eq!(get(None, Some("web"), 2).await, ["line 19", "line 20"]);
    assert_eq!(get(Some("heroku"), Some("router"), 1).await, ["at=info 20"]);
    assert_eq!(get(Some("heroku"), Some("web.1"), 9).await, Vec::<String>::new());
    assert_eq!(get(None, None, 0).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_tail_begins_with_history_and_goes_on_live_without_a_gap() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let logplex = open(folder.path());
    let total = 5_000u64;
    let writer = std::thread::spawn({
        let logplex = logplex.clone();
        move || {
            for number in 1..=total {
                logplex.append(app, web(format!("line {number}")));
                if number % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    });
    // Sessions that begin at any moment while lines come in, each read to the end.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut tail = logplex.tail(app, Filter::default(), TailFrom::Last(usize::MAX)).await.expect("tail");
        for number in 1..=total.min(2_000) {
            assert_eq!(next_line(&mut tail).await.message, format!("line {number}"));
        }
    }
    writer.join().expect("writer");
}

#[tokio::test]
async fn a_reader_that_was_cut_off_goes_on_behind_its_last_line_over_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let mut got: Vec<String> = Vec::new();
    let mut cursor = None;
    for round in 0..5u64 {
        let logplex = open(folder.path());
        let from = cursor.map_or(TailFrom::Last(100), TailFrom::After);
        let mut tail = logplex.tail(app, Filter::default(), from).await.expect("tail");
        for number in round * 10 + 1..=round * 10 + 10 {
            logplex.append(app, web(format!("line {number}")));
        }
        // Reads only some of what is there, then the process ends.
        for _ in 0..7 {
            let line = next_line(&mut tail).await;
            cursor = Some(line.cursor);
            got.push(line.message);
        }
    }
    let logplex = open(folder.path());
    let rest =
        logplex.history_after(app, cursor.expect("read some"), Filter::default()).await.expect("history");
    got.extend(rest.into_iter().map(|event| match event {
        TailEvent::Line(line) => line.message,
        TailEvent::Dropped(dropped) => panic!("nothing was dropped: {dropped}"),
    }));
    assert_eq!(got, numbered(1..=50));
}

#[tokio::test]
async fn a_part_of_a_split_line_is_a_place_to_go_on_from() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let logplex = open(folder.path());
    logplex.append(app, web(format!("{}{}c", "a".repeat(10_000), "b".repeat(10_000))));
    let lines = all(&logplex, app).await;
    assert_eq!(lines.iter().map(|line| line.message.len()).collect::<Vec<_>>(), [10_000, 10_000, 1]);
    let rest = logplex.history_after(app, lines[0].cursor, Filter::default()).await.expect("history");
    assert_eq!(rest, [TailEvent::Line(lines[1].clone()), TailEvent::Line(lines[2].clone())]);
}

#[tokio::test]
async fn a_slow_reader_is_told_how_many_lines_it_missed_and_holds_up_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let logplex = open(folder.path());
    let mut slow = logplex.tail(app, Filter::default(), TailFrom::Last(10)).await.expect("tail");
    let only_router = Filter { process: Some("router".into()), ..Filter::default() };
    let mut other = logplex.tail(app, only_router, TailFrom::Last(10)).await.expect("tail");
    let extra = 1_101;
    for number in 1..=MAX_QUEUED_LINES + extra {
        logplex.append(app, web(format!("line {number}")));
    }
    logplex.flush().await.expect("written though nobody reads");
    let Some(TailEvent::Dropped(dropped)) = slow.next().await else { panic!("expected to be told") };
    assert_eq!(dropped, Dropped { lines: Some(extra as u64), since_us: AT_US });
    assert_eq!(
        dropped.to_string(),
        "2026-01-01T12:00:00.000000+00:00 heroku[logplex]: Error L11 (Tail buffer overflow) -> This tail session \
         dropped 1101 messages since 2026-01-01T12:00:00.000000+00:00."
    );
    for number in extra + 1..=extra + MAX_QUEUED_LINES {
        assert_eq!(next_line(&mut slow).await.message, format!("line {number}"));
    }
    logplex.append(app, LogLine::new(AT_US, "heroku", "router", "at=info"));
    assert_eq!(next_line(&mut other).await.message, "at=info", "lines it did not ask for cost it nothing");
}

#[tokio::test]
async fn a_reader_that_comes_back_too_late_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let logplex = open(folder.path());
    logplex.append(app, web("first"));
    let first = all(&logplex, app).await[0].cursor;
    let filler = "x".repeat(1_000);
    for _ in 0..4_000 {
        logplex.append(app, web(&filler));
    }
    logplex.flush().await.expect("written");
    let deadline = Instant::now() + PATIENCE;
    let events = loop {
        let events = logplex.history_after(app, first, Filter::default()).await.expect("history");
        if matches!(events.first(), Some(TailEvent::Dropped(_))) || Instant::now() > deadline {
            break events;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let Some(TailEvent::Dropped(Dropped { lines: Some(dropped), .. })) = events.first() else {
        panic!("expected to be told, got {:?}", events.first());
    };
    assert_eq!(*dropped as usize + events.len() - 1, 4_000, "what is told and what is given are all");
}

#[tokio::test]
async fn an_app_that_is_removed_leaves_nothing_and_its_late_lines_bring_nothing_back() {
    let folder = tempfile::tempdir().expect("folder");
    let (app, other) = (app_id(1), app_id(2));
    let logplex = open(folder.path());
    logplex.append(app, web("line"));
    logplex.append(other, web("line"));
    logplex.flush().await.expect("written");
    let mut tail = logplex.tail(app, Filter::default(), TailFrom::Last(10)).await.expect("tail");
    logplex.remove(app).await.expect("removed");
    assert!(matches!(tail.next().await, Some(TailEvent::Line(_))));
    assert_eq!(tail.next().await, None, "its readers are let go");
    assert!(!logplex.append_dyno(app, DynoId(Uuid::from_u128(1)), 1, web("late")));
    let error = logplex.history(app, 10, Filter::default()).await.expect_err("gone");
    assert!(matches!(error, LogplexError::Removed { .. }));
    drop(tail);
    drop(logplex);
    assert!(!folder.path().join("logs").join(app.to_string()).exists());

    let logplex = open(folder.path());
    logplex.remove_all_but(&std::collections::HashSet::from([app])).await.expect("removed");
    assert!(!folder.path().join("logs").join(other.to_string()).exists());
}

#[tokio::test]
async fn sessions_end_when_the_node_stops_those_that_begin_then_too() {
    let folder = tempfile::tempdir().expect("folder");
    let app = app_id(1);
    let logplex = open(folder.path());
    logplex.append(app, web("line"));
    let mut tail = logplex.tail(app, Filter::default(), TailFrom::Last(10)).await.expect("tail");
    assert_eq!(next_line(&mut tail).await.message, "line");
    logplex.close_tails();
    assert_eq!(tail.next().await, None);
    let mut late = logplex.tail(app, Filter::default(), TailFrom::Last(10)).await.expect("tail");
    assert_eq!(next_line(&mut late).await.message, "line");
    assert_eq!(late.next().await, None);
}

#[tokio::test]
async fn one_folder_has_one_server() {
    let folder = tempfile::tempdir().expect("folder");
    let _first = open(folder.path());
    let error = tokio::task::spawn_blocking({
        let path = folder.path().join("logs");
        move || Logplex::open(path).expect_err("in use")
    });
    assert!(matches!(error.await.expect("joined"), LogplexError::InUse { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_waits_for_lines_of_other_threads_that_came_in_before_it() {
    let folder = tempfile::tempdir().expect("folder");
    let logplex = open(folder.path());
    let tasks: Vec<_> = (0..4u128)
        .map(|number| {
            let logplex = logplex.clone();
            let path = folder.path().join("logs").join(app_id(1).to_string());
            tokio::spawn(async move {
                for sequence in 1..=500u64 {
                    let text = format!("<{number}/{sequence}>");
                    logplex.append_dyno(app_id(1), DynoId(Uuid::from_u128(number)), sequence, web(&text));
                    logplex.flush().await.expect("written");
                    let files = std::fs::read_dir(&path).expect("there is a folder");
                    let found = files.into_iter().any(|file| {
                        let bytes = std::fs::read(file.expect("entry").path()).expect("readable");
                        bytes.windows(text.len()).any(|window| window == text.as_bytes())
                    });
                    assert!(found, "{text} was confirmed but is not in a file");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no line was confirmed too early");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_that_nobody_flushes_is_held_up_rather_than_lost() {
    let folder = tempfile::tempdir().expect("folder");
    let (app, total) = (app_id(1), 30_000u64);
    let logplex = open(folder.path());
    logplex.append(app, web("first"));
    let first = all(&logplex, app).await[0].cursor;
    let filler = "x".repeat(1_000);
    for number in 1..=total {
        logplex.append(app, web(format!("{number} {filler}")));
    }
    let last = logplex.history(app, 1, Filter::default()).await.expect("history").remove(0);
    assert!(last.message.starts_with("30000 "), "{}", &last.message[..20]);
    assert_eq!(last.cursor - first, total, "a line that is lost has no cursor");
}

/// A file system of its own, so that it can be full without harm.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Self {
        let disk = Self(tempfile::tempdir().expect("folder"));
        disk.run(&["-t", "tmpfs", "-o", &format!("size={bytes}"), "small"]);
        disk
    }

    fn resize(&self, bytes: u64) {
        self.run(&["-o", &format!("remount,size={bytes}")]);
    }

    fn run(&self, arguments: &[&str]) {
        let status = std::process::Command::new("mount").args(arguments).arg(self.0.path()).status();
        assert!(status.expect("mount is there").success(), "these tests run as root");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_confirms_nothing_and_loses_nothing_that_fits_into_memory() {
    let disk = SmallDisk::mount(256 * 1024);
    let (app, dyno) = (app_id(1), DynoId(Uuid::from_u128(9)));
    let logplex = open(disk.0.path());
    let filler = "x".repeat(500);
    let mut confirmed = 0;
    for sequence in 1..=2_000u64 {
        logplex.append_dyno(app, dyno, sequence, web(format!("{sequence} {filler}")));
        if sequence % 50 == 0 && confirmed + 50 == sequence {
            match logplex.flush().await {
                Ok(()) => confirmed = sequence,
                Err(error) => assert!(matches!(error, LogplexError::NotWritten), "{error}"),
            }
        }
    }
    assert!((50..500).contains(&confirmed), "{confirmed} lines of 500 bytes fit into 256 KiB");
    let kept = all(&logplex, app).await.len() as u64;
    assert!(kept >= confirmed, "what is confirmed can be read though the disk is full");
    disk.resize(16 * 1024 * 1024);
    flushed(&logplex).await;
    drop(logplex);
    let numbers: Vec<u64> = all(&open(disk.0.path()), app)
        .await
        .iter()
        .map(|line| line.message.split(' ').next().expect("number").parse().expect("number"))
        .collect();
    assert_eq!(numbers, (1..=2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn lines_that_fit_neither_on_the_disk_nor_into_memory_are_counted() {
    let disk = SmallDisk::mount(64 * 1024);
    let app = app_id(1);
    let logplex = open(disk.0.path());
    let filler = "x".repeat(9_000);
    for _ in 0..1_200 {
        logplex.append(app, web(&filler));
    }
    assert!(logplex.flush().await.is_err());
    for _ in 0..10 {
        logplex.append(app, web("over"));
    }
    disk.resize(64 * 1024 * 1024);
    flushed(&logplex).await;
    let deadline = Instant::now() + PATIENCE;
    let (lines, told) = loop {
        let lines = all(&logplex, app).await;
        if let Some(told) = lines.iter().find(|line| line.process == "logplex").cloned() {
            break (lines, told);
        }
        assert!(Instant::now() < deadline, "the loss is not told of");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let lost: usize = told
        .message
        .strip_prefix("Error L13: ")
        .and_then(|rest| rest.split(' ').next())
        .expect("Heroku's form")
        .parse()
        .expect("a number");
    assert_eq!(lines.len() - 1 + lost, 1_210);
}
