//! A container by libcontainer and nothing else: the least that a start with the same namespaces can take.

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use std::path::Path;

use crate::Outcome;

/// Runs the bundle to its end; its output is this program's.
pub fn run(bundle: &Path, id: &str) -> Outcome {
    let state = bundle.join("state");
    std::fs::create_dir_all(&state)?;
    let mut container = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(state)?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    container.start()?;
    if let Some(pid) = container.pid() {
        let _ = rustix::process::waitpid(
            rustix::process::Pid::from_raw(pid.as_raw()),
            rustix::process::WaitOptions::empty(),
        );
    }
    container.delete(true)?;
    Ok(())
}
