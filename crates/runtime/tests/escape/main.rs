//! Attempts to get out of a dyno, made by a hostile app in one. Needs root.
//!
//! Each attempt is made on the host without a sandbox, where it works; in a dyno, where it fails; in dynos without all
//! but one of the protections that stop it, where it fails too; and in a dyno without any of them, where it works again.
//! So a protection counts only if it is seen to be the one that stops something, and defence in depth
//! only if each layer is seen to hold by itself.
//!
//! | file | has |
//! |---|---|
//! | `attempts.py`, `hogs.py`, `links.py` | what the app does |
//! | `cases.rs` | the table of attempts and of what stops each |
//! | `protections.rs` | the table of protections and of how each is taken away |
//! | `network.rs` | the network around the node, and what is taken from the node itself |
//! | `stage.rs` | the host, the node and its neighbours |
//!
//! This program is also the `dyno-create` of the weakened dynos: see `ferroku_runtime::dyno_init::create_altered`.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_macros, reason = "a report for who runs the test")]

mod cases;
mod document;
mod network;
mod protections;
mod stage;
#[path = "../support/mod.rs"]
mod support;

use cases::{CASES, Case, From, Host};
use futures::StreamExt;
use stage::{Outcome, Outcomes, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Dynos at a time: the machine has other tests to run.
const DYNOS_AT_ONCE: usize = 3;

/// As Debian has it.
const RUNC: &str = "/usr/sbin/runc";

/// Protections that are taken away.
type Removed = BTreeSet<&'static str>;

fn main() -> ExitCode {
    let called_as = std::env::args().next().unwrap_or_default();
    if called_as.ends_with("dyno-create") {
        return stage::create();
    }
    if called_as == "/.ferroku/init" {
        return ferroku_runtime::dyno_init::inside_open();
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: escapes are tried as root only");
        return ExitCode::SUCCESS;
    }
    if !stage::is_entered() {
        return if makers().into_iter().all(stage::succeeds) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    document::check();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let begun = Instant::now();
    let failures = runtime.block_on(all());
    let maker = support::oci_runtime().map_or("libcontainer".into(), |program| program.display().to_string());
    println!("{} cases in {:.0?}, dynos made by {maker}", CASES.len(), begun.elapsed());
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What makes the dynos' containers: libcontainer, and an OCI runtime; or the one that is named.
fn makers() -> Vec<Option<PathBuf>> {
    if let Some(named) = support::oci_runtime() {
        return vec![Some(named)];
    }
    if !Path::new(RUNC).exists() {
        println!("skipped: escapes from dynos made by runc: {RUNC} is not installed");
        return vec![None];
    }
    vec![None, Some(RUNC.into())]
}

async fn all() -> Vec<String> {
    let stage = Stage::set().await;
    let failures = attempts(&stage).await;
    stage.strike().await;
    failures
}

/// Every case of the table, with every set of protections that tells something.
async fn attempts(stage: &Stage) -> Vec<String> {
    // An argument picks cases by a part of their names.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| wanted.is_empty() || wanted.iter().any(|part| case.attempt.contains(part.as_str())))
        .collect();
    let mut on_host = Outcomes::new();
    for host in [Host::Root, Host::User] {
        let attempts: Vec<&str> =
            cases.iter().filter(|case| case.host == host).map(|case| case.attempt).collect();
        on_host.extend(stage.on_host(host, &attempts));
    }
    let mut runs: BTreeMap<(Removed, From), Vec<&str>> = BTreeMap::new();
    for case in &cases {
        for removed in removals(case) {
            runs.entry((removed, case.from)).or_default().push(case.attempt);
        }
    }
    let (count, begun) = (runs.len(), Instant::now());
    let seen = run(stage, runs).await;
    println!("{count} runs in {:.1?}", begun.elapsed());
    let mut failures: Vec<String> =
        cases.iter().flat_map(|case| judge(case, on_host.get(case.attempt), &seen)).collect();
    // A session is begun by our own first process, whoever made the container.
    if support::oci_runtime().is_none() {
        failures.extend(in_sessions(stage, &cases).await);
    }
    let works = "reaches_the_internet";
    let outcome = &stage.attempt(From::Dyno, &[], &[works]).await[works];
    if *outcome != Outcome::Works {
        failures.push(format!("{works}: it should: {outcome:?}"));
    }
    failures
}

/// Whoever opens a session in a dyno gets no further than its app. That it is the session's own confinement that holds is
/// seen where the filter of system calls alone stops something: without its groups those attempts work again.
async fn in_sessions(stage: &Stage, cases: &[&Case]) -> Vec<String> {
    let from_dyno = |case: &&&Case| case.from == From::Dyno;
    let filtered = |case: &&&Case| {
        from_dyno(case) && matches!(case.stopped_by, [only] if protections::is_filter_group(only))
    };
    let names = |cases: Vec<&&Case>| cases.iter().map(|case| case.attempt).collect::<Vec<_>>();
    let attempts = names(cases.iter().filter(from_dyno).collect());
    let mut failures = Vec::new();
    for (attempt, outcome) in stage.in_session(&[], &attempts).await {
        if !matches!(outcome, Outcome::Fails(_) | Outcome::Absent(_)) {
            failures.push(format!("{attempt}: in a session it should fail: {outcome:?}"));
        }
    }
    let open = names(cases.iter().filter(filtered).collect());
    let removed: Removed =
        cases.iter().filter(filtered).flat_map(|case| case.stopped_by.iter().copied()).collect();
    let removed: Vec<String> = removed.iter().map(ToString::to_string).collect();
    for (attempt, outcome) in stage.in_session(&removed, &open).await {
        if !matches!(outcome, Outcome::Works | Outcome::Absent(_)) {
            failures.push(format!("{attempt}: in a session without {removed:?} it should work: {outcome:?}"));
        }
    }
    println!(
        "{} cases in sessions, {} of them without the filter's groups as well",
        attempts.len(),
        open.len()
    );
    failures
}

type Seen = BTreeMap<(Removed, From), Outcomes>;

/// Runs that leave the node alone side by side; the others one after the other.
async fn run(stage: &Stage, runs: BTreeMap<(Removed, From), Vec<&'static str>>) -> Seen {
    let names = |removed: &Removed| removed.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (alone, beside): (Vec<_>, Vec<_>) = runs
        .into_iter()
        .partition(|((removed, _), _)| !protections::node_removals(&names(removed)).is_empty());
    let beside = beside.into_iter().map(|((removed, from), attempts)| async move {
        let outcomes = stage.attempt(from, &names(&removed), &attempts).await;
        ((removed, from), outcomes)
    });
    let mut seen: Seen = futures::stream::iter(beside).buffer_unordered(DYNOS_AT_ONCE).collect().await;
    for ((removed, from), attempts) in alone {
        let names = names(&removed);
        for removal in protections::node_removals(&names) {
            stage.names.weaken(removal);
        }
        let outcomes = stage.attempt(from, &names, &attempts).await;
        stage.names.restore();
        seen.insert((removed, from), outcomes);
    }
    seen
}

/// What is taken away for a case: nothing, all that stop it, and all but each one of them.
fn removals(case: &Case) -> BTreeSet<Removed> {
    let all: Removed = case.stopped_by.iter().copied().collect();
    let but_one = case.stopped_by.iter().map(|kept| {
        let mut removed = all.clone();
        removed.remove(kept);
        removed
    });
    but_one.chain([Removed::new(), all.clone()]).collect()
}

fn judge(case: &Case, on_host: Option<&Outcome>, seen: &Seen) -> Vec<String> {
    let name = case.attempt;
    let all: Removed = case.stopped_by.iter().copied().collect();
    let mut failures = Vec::new();
    let mut absent = None;
    let host = match (case.host, on_host) {
        (Host::Not(reason), _) => format!("not tried ({reason})"),
        (_, Some(Outcome::Works)) => "works".to_owned(),
        (_, Some(Outcome::Absent(reason))) => {
            absent = Some(reason);
            format!("absent ({reason})")
        }
        (_, other) => {
            failures.push(format!("{name}: without a sandbox it should work: {other:?}"));
            "FAILS".to_owned()
        }
    };
    for removed in removals(case) {
        let outcome = &seen[&(removed.clone(), case.from)][name];
        let should_work = removed == all && !all.is_empty() && absent.is_none();
        let was_tried = !matches!(outcome, Outcome::NotTried(_));
        if !was_tried || should_work != (*outcome == Outcome::Works) {
            let expected = if should_work { "work" } else { "fail" };
            failures.push(format!("{name}: without {removed:?} it should {expected}: {outcome:?}"));
        }
    }
    let plain = match &seen[&(Removed::new(), case.from)][name] {
        Outcome::Works => "WORKS".to_owned(),
        Outcome::Fails(reason) | Outcome::Absent(reason) | Outcome::NotTried(reason) => reason.clone(),
    };
    let stops = case.stopped_by.join(" + ");
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!("{verdict:6} {} / {name}: host {host}; dyno: {plain}; works again without: {stops}", case.theme);
    if let Some(reason) = absent {
        println!("skipped: {name}: this kernel cannot show it: {reason}");
    }
    if all.is_empty() {
        println!("skipped: {name}: no protection to take away without breaking the program");
    }
    failures
}
