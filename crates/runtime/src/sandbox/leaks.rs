//! What a node has left on its host, for tests that expect nothing.

use super::folders::Folders;
use super::network;
use super::node::Node;
use crate::cgroup::{self, Hierarchies};
use std::fs;
use std::path::Path;

/// Everything on this machine that belongs to dynos of the node with this data folder, or to the node's network:
/// processes, mounts, loop devices, cgroups, network devices, the packet filter's table, folders. After every dyno
/// was removed and the driver shut down, it is empty; a moment may pass until the kernel has let go of a
/// network device, so look again before you complain.
pub fn leaks(data: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let folders = Folders { data: data.to_path_buf() };
    for dyno_id in folders.dynos() {
        found.push(format!("folder of dyno {dyno_id}"));
    }
    let states = folders.states().to_string_lossy().into_owned();
    let runs = folders.runs().to_string_lossy().into_owned();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if line.contains(&states) || line.contains(&runs) {
            found.push(format!("mount {line}"));
        }
    }
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if backing.starts_with(&states) {
            found.push(format!("loop device {} of {}", entry.file_name().to_string_lossy(), backing.trim()));
        }
    }
    let program = format!("{}/bin/dyno-", data.display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        let state = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let zombie = state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        if (command.contains(&program) || command.contains(&runs)) && !zombie {
            found.push(format!("process {pid}: {command}"));
        }
    }
    let Some(node) = Node::read(data) else { return found };
    if let Ok(hierarchies) = Hierarchies::detect(Path::new(cgroup::ROOT)) {
        let above = hierarchies.group(node.cgroup());
        let groups = above.existing().into_iter().map(|path| format!("cgroup {}", path.display()));
        found.extend(groups);
        for child in above.children() {
            let processes = hierarchies.group(format!("{}/{child}", node.cgroup())).processes();
            found.push(format!("cgroup of dyno {child} with processes {processes:?}"));
        }
    }
    let ours = |name: &String| *name == node.bridge() || name.starts_with(&node.veth_prefix());
    found.extend(network::link_names().into_iter().filter(ours).map(|name| format!("network device {name}")));
    if network::is_installed(&node) {
        found.push(format!("nftables table inet {}", node.table()));
    }
    found
}
