//! Kills that no orderly end comes before: of single processes, of all of a node at once, and of the machine.

use crate::TestNode;
use crate::leak::node_names;
use crate::node::{kill, signal};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How often what the kernel still holds is tried to be removed, and the pause in between.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

impl TestNode {
    /// Process id of the dyno-init that supervises a dyno.
    pub fn dyno_init_of(&self, dyno_id: &str) -> Option<i32> {
        dyno_inits(&self.data).into_iter().find(|(_, id)| id == dyno_id).map(|(pid, _)| pid)
    }

    /// `kill -9` of one dyno's dyno-init.
    ///
    /// # Panics
    /// It has none.
    pub fn kill_dyno_init(&self, dyno_id: &str) {
        kill(self.dyno_init_of(dyno_id).expect("a dyno that runs has one"));
    }

    /// Process ids of all that runs in a dyno's cgroup.
    pub fn processes_of(&self, dyno_id: &str) -> Vec<i32> {
        let group = PathBuf::from("/sys/fs/cgroup");
        let short = node_names(&self.data).into_iter().find(|name| name.starts_with("ferroku-"));
        let below =
            |root: &Path| root.join(short.as_deref().unwrap_or_default()).join(dyno_id).join("cgroup.procs");
        // One hierarchy of version 1 is as good as another; in version 2 there is only one.
        let text =
            fs::read_to_string(below(&group.join("pids"))).or_else(|_| fs::read_to_string(below(&group)));
        text.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills control and lets nothing start another until [`TestNode::wake_supervisor`].
    ///
    /// # Panics
    /// It does not run.
    pub fn kill_control_for_good(&self) {
        signal(self.supervisor_pid(), Signal::STOP);
        kill(self.pid_of("control").expect("it runs"));
    }

    /// Lets the supervisor go on; returns when another control serves.
    ///
    /// # Panics
    /// None comes.
    pub fn wake_supervisor(&self) {
        let old = self.pid_of("control");
        signal(self.supervisor_pid(), Signal::CONT);
        self.wait_for_another("control", old);
    }

    /// `kill -9` of every process of the node at once: supervisor, control, router and every dyno-init.
    ///
    /// # Panics
    /// The supervisor does not run.
    pub fn kill_everything(&mut self) {
        // Stopped first, so that none notices the end of another.
        signal(self.supervisor_pid(), Signal::STOP);
        let others = [self.pid_of("control"), self.pid_of("router")].into_iter().flatten();
        let inits = dyno_inits(&self.data).into_iter().map(|(pid, _)| pid);
        for pid in others.chain(inits) {
            kill(pid);
        }
        self.kill_supervisor();
    }

    /// What a reboot of the machine leaves of a node: its disk. Processes, cgroups, network devices, the packet filter's
    /// table and DIR/run, a tmpfs, are gone.
    ///
    /// # Panics
    /// Something cannot be removed.
    pub fn reboot(&mut self) {
        self.kill_everything();
        let names = node_names(&self.data);
        let named =
            |prefix: &str| names.iter().find(|name| name.starts_with(prefix)).expect("node.json has it");
        run(Command::new("umount").arg("-l").arg(self.data.join("run")));
        run(Command::new("nft").args(["delete", "table", "inet", named("ferroku_")]));
        run(Command::new("ip").args(["link", "delete", named("fk")]));
        for group in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_group(&group.path().join(named("ferroku-")));
        }
        remove_group(&Path::new("/sys/fs/cgroup").join(named("ferroku-")));
        let of_dynos = named("fv").clone();
        for _ in 0..TRIES {
            let links = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
            let left = links.filter(|link| link.file_name().to_string_lossy().starts_with(&of_dynos)).count();
            if left == 0 {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        panic!("links of dynos outlive their dynos");
    }
}

/// Every dyno-init of the node and its dyno.
pub(crate) fn dyno_inits(data: &Path) -> Vec<(i32, String)> {
    let runs = format!("{}/run/dynos/", data.display());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| {
            let command = fs::read_to_string(process.path().join("cmdline")).ok()?;
            let mut arguments = command.split('\0');
            let dyno_id = arguments.nth(2)?.strip_prefix(&runs)?.to_owned();
            command
                .contains("\0supervise\0")
                .then(|| Some((process.file_name().to_str()?.parse().ok()?, dyno_id)))?
        })
        .collect()
}

/// Removes a cgroup with those below it. The kernel takes a moment until their last process is gone.
fn remove_group(group: &Path) {
    for child in fs::read_dir(group).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&child.path());
        }
    }
    for _ in 0..TRIES {
        if !group.exists() || fs::remove_dir(group).is_ok() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{} cannot be removed", group.display());
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
