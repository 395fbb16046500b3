//! Processes that watch over others, which a long sleep must not let believe that these have hung.
//!
//! A master such as gunicorn's kills each worker that has not been heard of for a while. Frozen together, they wake
//! together, and the master, which sees a clock that has leapt, kills workers that are about to answer. So masters are
//! stopped before the freeze and go on only some time after the thaw, when their workers have been heard of.
//!
//! A master that alone listens where requests arrive (it accepts, and passes connections on) cannot be held back
//! without holding up the request that wakes the dyno: it is left alone.

use super::{bound, sys};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;

/// Beyond so many processes, who listens is not looked at: reading their descriptors would take too long.
const MAX_LOOKED_AT: usize = 512;
/// Descriptors of one process that are looked at.
const MAX_DESCRIPTORS: usize = 4096;

/// A process that was stopped, and is to go on later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pid: i32,
    /// When it began, on the kernel's clock: tells it from a later one of the same number.
    began: u64,
}

#[derive(Debug, Clone, Copy)]
struct Process {
    parent: i32,
    began: u64,
    /// By somebody else than us: it stays so.
    stopped: bool,
}

/// Stops the masters among `processes`, whose first one is `first` and never counts as one.
pub fn hold_masters(processes: &BTreeSet<i32>, first: i32, port: Option<u16>) -> Vec<Held> {
    let known: BTreeMap<i32, Process> =
        processes.iter().filter_map(|pid| Some((*pid, read(*pid)?))).collect();
    let listeners = match port {
        Some(port) if known.len() <= MAX_LOOKED_AT => bound::listeners(port),
        _ => BTreeSet::new(),
    };
    let mut listens = HashMap::new();
    let mut listens = |pid: i32| *listens.entry(pid).or_insert_with(|| holds_any(pid, &listeners));
    let mut held = Vec::new();
    for (&pid, process) in &known {
        let is_master = pid != first && known.values().any(|other| other.parent == pid);
        if !is_master || process.stopped {
            continue;
        }
        let alone =
            listens(pid) && !known.keys().any(|other| descends(&known, *other, pid) && listens(*other));
        if !alone && sys::signal_process(pid, libc::SIGSTOP, || began(pid) == Some(process.began)) {
            held.push(Held { pid, began: process.began });
        }
    }
    held
}

/// Lets them go on.
pub fn release(held: &mut Vec<Held>) {
    for Held { pid, began: known } in held.drain(..) {
        sys::signal_process(pid, libc::SIGCONT, || began(pid) == Some(known));
    }
}

fn descends(known: &BTreeMap<i32, Process>, pid: i32, ancestor: i32) -> bool {
    let mut at = pid;
    // A chain is no longer than there are processes, even if they changed while they were read.
    for _ in 0..known.len() {
        match known.get(&at) {
            Some(process) if process.parent == ancestor => return true,
            Some(process) => at = process.parent,
            None => return false,
        }
    }
    false
}

fn began(pid: i32) -> Option<u64> {
    Some(read(pid)?.began)
}

fn read(pid: i32) -> Option<Process> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `/proc/PID/stat`, proc_pid_stat(5). The name in parentheses may hold anything, parentheses too.
fn parse(stat: &str) -> Option<Process> {
    const STATE: usize = 0;
    const PARENT: usize = 1;
    const START: usize = 19;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Process {
        parent: fields.get(PARENT)?.parse().ok()?,
        began: fields.get(START)?.parse().ok()?,
        stopped: matches!(*fields.get(STATE)?, "T" | "t"),
    })
}

fn holds_any(pid: i32, listeners: &BTreeSet<u64>) -> bool {
    if listeners.is_empty() {
        return false;
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.take(MAX_DESCRIPTORS).any(|entry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let inode =
            target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        inode.is_some_and(|inode| listeners.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_past_any_name() {
        let line = "7 (a) R (b) T 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2";
        let process = parse(line).expect("parses");
        assert_eq!((process.parent, process.began, process.stopped), (3, 98765, true));
        assert!(parse("7 (short) S 1").is_none());
    }
}
