//! Limits of the whole machine that many dynos would meet, or one could use up for all: raised where they are lower.
//!
//! What is raised here is counted elsewhere too: open files as memory of their dyno, processes by its pids cgroup.

use crate::{Result, RuntimeError};
use std::fs;
use std::path::Path;

/// Below `/proc/sys`: the least that a node wants.
const LEAST: &[(&str, u64)] = &[
    // Open files. The kernel's own limit is a file for 10 KB of memory: on a machine of 2 GB, twenty processes of a dyno
    // reach it, and then no user but root opens a file. systemd does the same.
    ("fs/file-max", i64::MAX as u64),
    // Process ids; the kernel's own limit is 32,768 on small machines. As systemd has it.
    ("kernel/pid_max", 4_194_304),
    // Neighbours, of all namespaces together: each dyno is one to the node, and the node to each. The kernel's own
    // limits (128, 512 and 1,024) end at some 500 dynos.
    ("net/ipv4/neigh/default/gc_thresh1", 1024),
    ("net/ipv4/neigh/default/gc_thresh2", 4096),
    ("net/ipv4/neigh/default/gc_thresh3", 8192),
];

/// Makes room. What this kernel does not have, or shows only outside the namespace that the node is in, is left.
///
/// # Errors
/// A limit cannot be raised.
pub(super) fn make() -> Result<()> {
    raise(Path::new("/proc/sys"), LEAST)
}

fn raise(root: &Path, least: &[(&str, u64)]) -> Result<()> {
    for (name, wanted) in least {
        let path = root.join(name);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if text.trim().parse().is_ok_and(|there: u64| there < *wanted) {
            fs::write(&path, wanted.to_string()).map_err(RuntimeError::file("raise", path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_raised_and_never_lowered() {
        let root = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(root.path().join("fs")).expect("makes");
        for (name, value) in [("low", "1024\n"), ("high", "9223372036854775807\n"), ("odd", "none\n")] {
            fs::write(root.path().join("fs").join(name), value).expect("writes");
        }
        let least = ["fs/low", "fs/high", "fs/odd", "fs/absent"].map(|name| (name, 4096));
        raise(root.path(), &least).expect("raises");
        let read = |name: &str| fs::read_to_string(root.path().join("fs").join(name)).expect("reads");
        assert_eq!((read("low"), read("high")), ("4096".into(), "9223372036854775807\n".into()));
        assert_eq!(read("odd"), "none\n");
        assert!(!root.path().join("fs/absent").exists());
    }
}
