//! Control groups, version 1 (also beside a version 2 tree, "hybrid") and version 2, behind one type.
//!
//! libcontainer makes a dyno's groups and sets their limits; here they are read, frozen, killed and removed. Everything
//! is found below a root path, so that tests run on a folder of plain files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the hierarchies are mounted on every Linux distribution.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The kernel needs milliseconds to end killed processes; after this long something holds them.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The hierarchies of a host.
#[derive(Debug, Clone)]
pub(crate) enum Hierarchies {
    /// One folder a controller, and the version 2 tree without controllers where there is one.
    V1 {
        controllers: Vec<PathBuf>,
        unified: Option<PathBuf>,
    },
    V2 {
        root: PathBuf,
    },
}

/// One group, by its path below the roots.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    hierarchies: Hierarchies,
    name: String,
}

impl Hierarchies {
    /// What is mounted below `root`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn detect(root: &Path) -> io::Result<Self> {
        if root.join("cgroup.controllers").exists() {
            return Ok(Self::V2 { root: root.to_path_buf() });
        }
        let mut controllers = Vec::new();
        let mut unified = None;
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            // `cpu` and `cpuacct` are often links to one folder: use each once.
            let Ok(real) = path.canonicalize() else { continue };
            if real.join("cgroup.controllers").exists() {
                unified = Some(real);
            } else if real.join("cgroup.procs").exists() && seen.insert(real.clone()) {
                controllers.push(real);
            }
        }
        controllers.sort();
        Ok(Self::V1 { controllers, unified })
    }

    /// Whether memory, processes and processor time can be limited; else the name of what cannot.
    pub fn missing_controller(&self) -> Option<&'static str> {
        const NEEDED: [&str; 3] = ["memory", "pids", "cpu"];
        match self {
            Self::V1 { controllers, .. } => NEEDED.into_iter().find(|needed| {
                !controllers.iter().any(|path| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    name.split(',').any(|part| part == *needed)
                })
            }),
            Self::V2 { root } => {
                let there = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                NEEDED.into_iter().find(|needed| !there.split_whitespace().any(|name| name == *needed))
            }
        }
    }

    /// The group of this name, which need not exist.
    pub fn group(&self, name: impl Into<String>) -> Cgroup {
        Cgroup { hierarchies: self.clone(), name: name.into() }
    }

    fn roots(&self) -> Vec<&PathBuf> {
        match self {
            Self::V1 { controllers, unified } => controllers.iter().chain(unified).collect(),
            Self::V2 { root } => vec![root],
        }
    }
}

impl Cgroup {
    fn folders(&self) -> Vec<PathBuf> {
        self.hierarchies.roots().into_iter().map(|root| root.join(&self.name)).collect()
    }

    /// Its folders that exist.
    pub fn existing(&self) -> Vec<PathBuf> {
        self.folders().into_iter().filter(|folder| folder.exists()).collect()
    }

    /// Names of the groups directly below.
    pub fn children(&self) -> BTreeSet<String> {
        let entries = self.folders().into_iter().filter_map(|folder| fs::read_dir(folder).ok());
        entries
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Its processes.
    pub fn processes(&self) -> BTreeSet<i32> {
        self.folders()
            .into_iter()
            .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
            .flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect()
    }

    /// Sends a signal to every process, also to those that are forked meanwhile.
    pub fn signal(&self, signal: i32) {
        const PASSES: usize = 3;
        let mut done = BTreeSet::new();
        for _ in 0..PASSES {
            let new: Vec<i32> = self.processes().difference(&done).copied().collect();
            if new.is_empty() {
                return;
            }
            for pid in new {
                crate::dyno_init::sys::kill(pid, signal);
                done.insert(pid);
            }
        }
    }

    /// In a hybrid layout, libcontainer leaves the version 2 tree alone: this puts the calling process, and so
    /// all that it starts, into the group there, for `cgroup.kill`.
    ///
    /// # Errors
    /// The folder or the file could not be written.
    pub fn enter_unified(&self) -> io::Result<()> {
        if let Hierarchies::V1 { unified: Some(root), .. } = &self.hierarchies {
            let folder = root.join(&self.name);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Ends every process, and waits until they are gone.
    ///
    /// # Errors
    /// Something still lives after ten seconds.
    pub fn kill(&self) -> io::Result<()> {
        let deadline = Instant::now() + KILL_DEADLINE;
        let mut pause = Duration::from_millis(1);
        loop {
            for folder in self.folders() {
                // Ends also what is being forked; absent before Linux 5.14 and in version 1.
                let _ = fs::OpenOptions::new()
                    .write(true)
                    .open(folder.join("cgroup.kill"))
                    .and_then(|mut file| io::Write::write_all(&mut file, b"1"));
            }
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                crate::dyno_init::sys::kill(pid, libc::SIGKILL);
            }
            // What is frozen by version 1 dies only when it is thawed. A group that cannot be told so is none.
            let _ = self.thaw();
            if Instant::now() > deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Lets none of its processes run. Returns once that is so.
    ///
    /// # Errors
    /// There is no freezer, or some process did not stand still within `limit`; some may stand still then.
    pub fn freeze(&self, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        // In a hybrid layout both could do it; of what version 2 has frozen, a kill is still the end.
        let holds = |folder: &PathBuf| {
            fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|list| !list.trim().is_empty())
        };
        let folders: Vec<PathBuf> = self.folders().into_iter().filter(holds).collect();
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
        let is_frozen: Box<dyn Fn() -> io::Result<bool>> = if let Some(switch) = find("cgroup.freeze") {
            let events = switch.with_file_name("cgroup.events");
            fs::write(&switch, "1")?;
            Box::new(move || Ok(fs::read_to_string(&events)?.lines().any(|line| line == "frozen 1")))
        } else if let Some(switch) = find("freezer.state") {
            Box::new(move || {
                // Again each time: a process that was forked meanwhile may have held it up (kernel: freezer-subsystem).
                fs::write(&switch, "FROZEN")?;
                Ok(fs::read_to_string(&switch)?.trim() == "FROZEN")
            })
        } else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its cgroup has no freezer"));
        };
        while !is_frozen()? {
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "some of its processes do not stand still",
                ));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Lets its processes run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> io::Result<()> {
        for folder in self.folders() {
            for (name, value) in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
                let file = fs::OpenOptions::new().write(true).open(folder.join(name));
                match file.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes())) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Has the kernel take from its processes all memory that can be had; without swap that would be programs' code
    /// only, to be read again at the next step. Gives how many bytes that made free.
    pub fn swap_out(&self) -> Option<u64> {
        let before = self.memory_bytes()?;
        for folder in self.folders() {
            for (name, value) in
                [("memory.force_empty", "0".to_owned()), ("memory.reclaim", before.to_string())]
            {
                // Less than all is the rule, and told as an error.
                let _ = fs::OpenOptions::new()
                    .write(true)
                    .open(folder.join(name))
                    .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
            }
        }
        Some(before.saturating_sub(self.memory_bytes()?))
    }

    /// What its processes have in memory, in bytes, without clean pages of files that were not read lately: the kernel drops
    /// these before anything else. None when it does not exist.
    pub fn memory_bytes(&self) -> Option<u64> {
        let read = |name: &str| {
            self.folders().into_iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok())
        };
        let used: u64 =
            read("memory.usage_in_bytes").or_else(|| read("memory.current"))?.trim().parse().ok()?;
        let stat = read("memory.stat").unwrap_or_default();
        // Version 1 tells the group's own figure as well as the one with the groups below it.
        let figure = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok();
            stat.lines().find_map(value)
        };
        let idle = figure("total_inactive_file").or_else(|| figure("inactive_file")).unwrap_or(0);
        Some(used.saturating_sub(idle))
    }

    /// How many of its processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        ["memory.oom_control", "memory.events"]
            .iter()
            .flat_map(|name| self.folders().into_iter().map(move |folder| folder.join(name)))
            .filter_map(|path| fs::read_to_string(path).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
                    .collect::<Vec<u64>>()
            })
            .sum()
    }

    /// Removes it, once empty of processes.
    ///
    /// # Errors
    /// It is in use.
    pub fn remove(&self) -> io::Result<()> {
        for folder in self.existing() {
            remove_folder(&folder)?;
        }
        Ok(())
    }
}

/// Whether anonymous memory can go anywhere: the node has swap, be it compressed memory (zram).
pub fn has_swap() -> bool {
    // The first line is a heading.
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    let deadline = Instant::now() + KILL_DEADLINE;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Killed processes stay in the group until they have been reaped.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temporary folder");
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("makes folder");
            fs::write(path, content).expect("writes");
        }
        root
    }

    #[test]
    fn a_hybrid_layout_is_version_1_with_a_tree_beside_it() {
        let root = tree(&[
            ("memory/cgroup.procs", ""),
            ("pids/cgroup.procs", ""),
            ("cpu,cpuacct/cgroup.procs", ""),
            ("unified/cgroup.procs", ""),
            ("unified/cgroup.controllers", ""),
            ("memory/n/d/cgroup.procs", "11\n12\n"),
            ("pids/n/d/cgroup.procs", "12\n13\n"),
            ("memory/n/d/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("memory/n/d/memory.usage_in_bytes", "1000\n"),
            ("memory/n/d/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n"),
        ]);
        std::os::unix::fs::symlink("cpu,cpuacct", root.path().join("cpu")).expect("links");
        let hierarchies = Hierarchies::detect(root.path()).expect("detects");
        assert_eq!(hierarchies.missing_controller(), None);
        assert_eq!(hierarchies.roots().len(), 4, "{hierarchies:?}");
        let group = hierarchies.group("n/d");
        assert_eq!(group.processes(), BTreeSet::from([11, 12, 13]));
        assert_eq!(group.oom_kills(), 2);
        assert_eq!((group.memory_bytes(), hierarchies.group("other").memory_bytes()), (Some(700), None));
        assert_eq!(hierarchies.group("n").children(), BTreeSet::from(["d".to_owned()]));
        assert!(hierarchies.group("other").processes().is_empty());
    }

    #[test]
    fn a_group_is_frozen_and_thawed_by_what_its_hierarchy_has() {
        let v1 = tree(&[
            ("freezer/cgroup.procs", ""),
            ("freezer/n/d/cgroup.procs", "5\n"),
            ("freezer/n/d/freezer.state", "THAWED\n"),
            ("unified/cgroup.controllers", ""),
            ("unified/n/d/cgroup.procs", ""),
            ("unified/n/d/cgroup.freeze", "0\n"),
        ]);
        let state = || fs::read_to_string(v1.path().join("freezer/n/d/freezer.state")).expect("is there");
        let group = Hierarchies::detect(v1.path()).expect("detects").group("n/d");
        group
            .freeze(Duration::ZERO)
            .expect("the group is not in the tree beside it, so version 1 freezes it");
        assert_eq!(state(), "FROZEN");
        group.thaw().expect("thaws");
        assert_eq!(state(), "THAWED");

        let v2 = tree(&[
            ("cgroup.controllers", "memory pids cpu\n"),
            ("n/d/cgroup.procs", "5\n"),
            ("n/d/cgroup.freeze", "0\n"),
            ("n/d/cgroup.events", "populated 1\nfrozen 0\n"),
        ]);
        let group = Hierarchies::detect(v2.path()).expect("detects").group("n/d");
        let late = group.freeze(Duration::ZERO).expect_err("the kernel does not say that it is frozen");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        fs::write(v2.path().join("n/d/cgroup.events"), "populated 1\nfrozen 1\n").expect("writes");
        group.freeze(Duration::ZERO).expect("freezes");
        assert_eq!(fs::read_to_string(v2.path().join("n/d/cgroup.freeze")).expect("is there"), "1");
        assert!(
            Hierarchies::detect(v2.path()).expect("detects").group("other").freeze(Duration::ZERO).is_err()
        );
    }

    /// A child in a group of the machine's own version 1 freezer, which is all that old machines have.
    #[test]
    fn what_version_1_has_frozen_is_killed_all_the_same() {
        let freezer = PathBuf::from(ROOT).join("freezer");
        if !freezer.join("cgroup.procs").exists() {
            eprintln!("this machine has no version 1 freezer");
            return;
        }
        let hierarchies = Hierarchies::V1 { controllers: vec![freezer], unified: None };
        let group = hierarchies.group(format!("ferroku-test-{}", std::process::id()));
        let folder = group.folders().remove(0);
        fs::create_dir_all(&folder).expect("makes the group");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("starts");
        fs::write(folder.join("cgroup.procs"), child.id().to_string()).expect("enters");
        group.freeze(Duration::from_secs(10)).expect("freezes");
        crate::dyno_init::sys::kill(child.id() as i32, libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().expect("our child").is_none(), "frozen, it does not even die");
        // Its zombie stays in the group until it is waited for.
        let waiting = std::thread::spawn(move || child.wait());
        group.kill().expect("kills");
        waiting.join().expect("joins").expect("our child");
        group.remove().expect("removes");
    }

    #[test]
    fn version_2_is_one_tree_and_tells_what_it_cannot_limit() {
        let root = tree(&[
            ("cgroup.controllers", "cpuset cpu io memory\n"),
            ("n/d/cgroup.procs", "5\n"),
            ("n/d/memory.current", "5000\n"),
            ("n/d/memory.stat", "anon 4000\ninactive_file 900\n"),
            ("n/d/memory.events", "low 0\noom 1\noom_kill 1\noom_group_kill 0\n"),
        ]);
        let hierarchies = Hierarchies::detect(root.path()).expect("detects");
        assert_eq!(hierarchies.missing_controller(), Some("pids"));
        assert_eq!(hierarchies.group("n/d").oom_kills(), 1);
        assert_eq!(hierarchies.group("n/d").memory_bytes(), Some(4100));
        assert_eq!(hierarchies.group("n/d").processes(), BTreeSet::from([5]));
    }
}
