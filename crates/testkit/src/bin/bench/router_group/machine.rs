//! Cores, CPU time, memory and connections, from /proc and the kernel.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

/// Connections from one address: below the router's limit of 4,000.
const CONNECTIONS_PER_ADDRESS: usize = 3_000;

/// A set of cores.
pub struct Core(CpuSet);

/// Who runs where.
pub struct Cores {
    pub proxies: Core,
    pub others: Core,
    pub all: Core,
    pub count: usize,
}

impl Cores {
    /// The first core for whichever proxy is measured, the others for the rest.
    pub fn split() -> Self {
        let all = sched_getaffinity(None).expect("the kernel has it");
        let (mut proxies, mut others) = (CpuSet::new(), CpuSet::new());
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
        proxies.set(usable[0]);
        // With one core only, all share it: ratios of CPU time still mean something.
        usable.iter().skip(1).for_each(|core| others.set(*core));
        if usable.len() == 1 {
            others.set(usable[0]);
        }
        Self { proxies: Core(proxies), others: Core(others), all: Core(all), count: usable.len() }
    }
}

impl Core {
    /// This thread, and what it starts from here on.
    pub fn take(&self) {
        sched_setaffinity(None, &self.0).expect("these cores are ours");
    }

    /// Every thread of a process. One that has just ended needs no core.
    pub fn give(&self, pid: i32) {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
        let tasks = tasks.flatten().filter_map(|task| task.file_name().to_string_lossy().parse().ok());
        for task in tasks.filter_map(Pid::from_raw) {
            let _ = sched_setaffinity(Some(task), &self.0);
        }
    }
}

/// As many open files as there may be, here and in what is started: 10,000 connections need that many, and some.
pub fn allow_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum it is free");
}

/// The kernel's unit of CPU time: USER_HZ, which is 100 on every Linux that there is.
pub fn ticks_per_second() -> f64 {
    100.0
}

/// Who started a process.
pub fn parent(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
    parent.and_then(|parent| parent.parse().ok()).expect("as proc(5) says")
}

/// CPU seconds of these processes so far.
pub fn cpu_seconds(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| ticks(*pid)).sum::<f64>() / ticks_per_second()
}

fn ticks(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of proc(5), counted from the one behind the name.
    field(11) + field(12)
}

/// The processes of a group.
pub fn group(leader: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("it is mounted").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let group = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(2));
        group.and_then(|group| group.parse().ok()) == Some(leader)
    })
    .collect()
}

/// The processes below a node's dyno-inits: those whose cgroup is named after one of its dynos.
pub fn dyno_processes(data: &Path) -> Vec<i32> {
    let dynos = fs::read_dir(data.join("dynos")).expect("the node has dynos").flatten();
    let dynos: Vec<String> = dynos.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let processes = fs::read_dir("/proc").expect("it is mounted").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        dynos.iter().any(|dyno| groups.contains(dyno.as_str()))
    })
    .collect()
}

/// Resident memory of a process, in KB.
pub fn resident_kb(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("status has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Kept connections, each of which has had one answer.
pub fn idle_connections(router: SocketAddr, host: &str, count: usize) -> Vec<TcpStream> {
    let request = format!("GET /small HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let open = |number: usize| {
        let mut stream = connect_from(number, router)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = [0; 4096];
        stream.read(&mut answer).map(|_| stream)
    };
    (0..count).map(|number| open(number).expect("the router takes it")).collect()
}

/// The connection of this number, from one of as many local addresses as the limit of one asks for.
pub fn connect_from(number: usize, router: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let last = u8::try_from(number / CONNECTIONS_PER_ADDRESS + 2).expect("few addresses");
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from(([127, 0, 0, last], 0)))?;
    connect(&socket, &router)?;
    Ok(TcpStream::from(socket))
}
