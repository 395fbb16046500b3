//! What a node left behind on the machine after it stopped.
//!
//! Everything that a node makes carries the path of its data folder or a name from its `node.json`; nothing
//! with either may be left.

use crate::wreck::dyno_inits;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The kernel takes links and loop devices away a little after their last user is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Dynos that were replaced drain for up to 30 s, are given another 30 s to end, and are removed in the background.
const STRAY_PATIENCE: Duration = Duration::from_secs(120);
/// A node keeps so many network namespaces ready.
const READY_LINKS: usize = 4;

/// What is left of the node in `data` that stopped; empty when all is well.
pub fn leaks(data: &Path) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look(data);
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a node that runs has on the machine beyond its dynos `living`, and what of them is missing; empty when all
/// is well.
pub fn strays(data: &Path, living: &BTreeSet<String>) -> Vec<String> {
    let deadline = Instant::now() + STRAY_PATIENCE;
    loop {
        let found = look_beside(data, living);
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn look_beside(data: &Path, living: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, have: Vec<String>| {
        let mut rest = living.clone();
        for name in have {
            if !rest.remove(&name) {
                found.push(format!("{what} too many: {name}"));
            }
        }
        found.extend(rest.into_iter().map(|name| format!("{what} missing: {name}")));
    };
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    compare("folder", entries(&data.join("dynos")));
    compare("run folder", entries(&data.join("run/dynos")));
    compare("dyno-init", dyno_inits(data).into_iter().map(|(_, dyno_id)| dyno_id).collect());
    let images = Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"]).output();
    let images =
        images.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let folder = format!("{}/dynos/", data.display());
    let of_dynos = images.lines().filter_map(|line| line.trim().strip_prefix(&folder));
    compare("loop device", of_dynos.map(|rest| rest.split('/').next().unwrap_or(rest).to_owned()).collect());
    let names = node_names(data);
    let named =
        |prefix: &str| names.iter().find(|name| name.starts_with(prefix)).cloned().unwrap_or_default();
    let groups = |root: &Path| {
        let below = root.join(named("ferroku-"));
        let is_folder = |name: &String| below.join(name).is_dir();
        entries(&below).into_iter().filter(is_folder).collect::<Vec<_>>()
    };
    for hierarchy in ["memory", "pids", "."] {
        let groups = groups(&Path::new("/sys/fs/cgroup").join(hierarchy));
        // One that this machine does not have has nothing of ours.
        if !groups.is_empty() {
            compare(&format!("cgroup of {hierarchy}"), groups);
        }
    }
    found.extend(entries(&data.join("builds")).into_iter().map(|name| format!("build folder {name}")));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_dynos = mounts.lines().filter(|line| line.contains(&folder));
    found.extend(of_dynos.map(|line| format!("mount: {line}")));
    let links = entries(Path::new("/sys/class/net"));
    let links = links.iter().filter(|name| name.starts_with(&named("fv"))).count();
    if links > living.len() + READY_LINKS {
        found.push(format!("{links} links of dynos for {} dynos", living.len()));
    }
    found
}

fn look(data: &Path) -> Vec<String> {
    let names = node_names(data);
    let is_ours = |text: &str| names.iter().any(|name| text.contains(name.as_str()));
    let mut found = Vec::new();
    processes(&is_ours, &mut found);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| is_ours(line)).map(|line| format!("mount: {line}")));
    cgroups(Path::new("/sys/fs/cgroup"), 0, &is_ours, &mut found);
    for (what, program, arguments) in [
        ("link", "ip", &["-o", "link"][..]),
        ("network namespace", "ip", &["netns", "list"]),
        ("packet filter", "nft", &["list", "tables"]),
        ("loop device", "losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]),
    ] {
        let Ok(output) = Command::new(program).args(arguments).output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        found.extend(text.lines().filter(|line| is_ours(line)).map(|line| format!("{what}: {line}")));
    }
    for folder in ["dynos", "builds"] {
        let entries = fs::read_dir(data.join(folder)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("folder: {}", entry.path().display())));
    }
    found
}

/// The data folder's path, and the names in node.json that are long enough to be unmistakable.
pub(crate) fn node_names(data: &Path) -> Vec<String> {
    let mut names = vec![data.display().to_string()];
    let identity = fs::read(data.join("node.json")).unwrap_or_default();
    let identity: Value = serde_json::from_slice(&identity).unwrap_or_default();
    for value in identity.as_object().into_iter().flat_map(|fields| fields.values()) {
        let Some(text) = value.as_str().filter(|text| text.len() >= 6 && !text.contains('/')) else {
            continue;
        };
        names.push(text.to_owned());
        // Names of links, cgroups and the packet filter's table hold the first six digits of the node's id.
        if uuid::Uuid::parse_str(text).is_ok() {
            names
                .extend(["fk", "fv", "ferroku-", "ferroku_"].map(|prefix| format!("{prefix}{}", &text[..6])));
        }
    }
    names
}

fn processes(is_ours: &dyn Fn(&str) -> bool, found: &mut Vec<String>) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let links = ["cwd", "root", "exe"].map(|name| {
            fs::read_link(entry.path().join(name)).map(|path| path.display().to_string()).unwrap_or_default()
        });
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if is_ours(&command) || is_ours(&cgroup) || links.iter().any(|link| is_ours(link)) {
            found.push(format!("process {pid}: {command}"));
        }
    }
}

/// Cgroups of a node lie at most this deep below a controller's root.
const CGROUP_DEPTH: usize = 4;

fn cgroups(folder: &Path, depth: usize, is_ours: &dyn Fn(&str) -> bool, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if is_ours(&entry.file_name().to_string_lossy()) {
            found.push(format!("cgroup: {}", entry.path().display()));
        } else if depth < CGROUP_DEPTH {
            cgroups(&entry.path(), depth + 1, is_ours, found);
        }
    }
}
