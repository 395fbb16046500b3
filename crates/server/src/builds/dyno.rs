//! The build dyno: runs the slug compiler over a workspace and passes its text on.
//!
//! Invariant: when [`compile`] has returned or was dropped, [`BuildDyno::remove`] ends what is left of it; only then
//! may anybody look at the tree.

use super::error::BuildError;
use super::output::Output;
use super::workspace::COMPILER;
use crate::crash_point;
use crate::dynos::DynoManager;
use crate::git::disk_is_full;
use ferroku_core::DynoId;
use ferroku_core::app::App;
use ferroku_runtime::{
    Command, Driver, DynoEvent, DynoSpec, Environment, Limits, NetworkPolicy, SandboxDriver, Volume,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Memory of a build dyno, in bytes: as Heroku's.
pub const MEMORY_BYTES: u64 = 2560 * 1024 * 1024;
/// Weight of the processor: four times a small dyno's, so that a build is quick and running apps stay alive.
const CPU_SHARES: u32 = 1024;
/// Processes and threads: parallel compilers.
const PIDS: u32 = 2048;
/// Writable layer, in bytes: `/tmp`, where buildpacks unpack things.
const DISK_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// How often the disk's free space is looked at while a build runs: a disk of 2 GB/s does not get through the reserve.
const DISK_CHECK: Duration = Duration::from_millis(100);

/// The dyno of one build.
pub struct BuildDyno {
    pub driver: Arc<SandboxDriver>,
    pub dynos: DynoManager,
    pub dyno_id: DynoId,
    pub data: PathBuf,
}

impl BuildDyno {
    /// Runs the compiler to its end; gives its exit status.
    ///
    /// # Errors
    /// The node has no room for it; the dyno cannot be started, is lost, is out of memory, or fills the disk.
    pub async fn compile(
        &self,
        app: &App,
        volumes: Vec<Volume>,
        environment: Environment,
        output: &Output,
    ) -> Result<i32, BuildError> {
        let _claimed = self.dynos.claim_build(app.id, self.dyno_id, MEMORY_BYTES)?;
        let short: String = self.dyno_id.to_string().chars().take(4).collect();
        let name = format!("build.{short}");
        let spec = DynoSpec {
            dyno_id: self.dyno_id,
            app_id: app.id,
            name,
            uid_base: app.uid_base,
            slug_digest: None,
            command: Command::Exec(vec![COMPILER.to_owned()]),
            port: None,
            limits: Limits {
                memory_bytes: MEMORY_BYTES,
                cpu_shares: CPU_SHARES,
                pids: PIDS,
                disk_bytes: DISK_BYTES,
            },
            attach: None,
            boot_timeout_ms: None,
            network: NetworkPolicy::Internet,
            volumes,
            host_name: self.dyno_id.to_string(),
        };
        crash_point::hit("build.before_spawn");
        let mut handle = self.driver.start(spec, environment).await?;
        crash_point::hit("build.spawned");
        let mut disk = tokio::time::interval(DISK_CHECK);
        loop {
            let event = tokio::select! {
                event = handle.next_event() => event,
                _ = disk.tick() => match disk_is_full(&self.data) {
                    Some(_) => return Err(BuildError::DiskFull),
                    None => continue,
                },
            };
            match event {
                Some(DynoEvent::Log { sequence, mut line, .. }) => {
                    line.push(b'\n');
                    output.write(line).await;
                    // A dyno that has ended meanwhile needs no acknowledgement.
                    let _ = handle.control.ack(sequence).await;
                }
                Some(DynoEvent::LogDropped { count }) => {
                    output.write(format!(" !     {count} lines of the build's text were lost\n")).await;
                }
                Some(DynoEvent::Exited { oom_killed: true, status, .. }) if status != 0 => {
                    return Err(BuildError::OutOfMemory);
                }
                Some(DynoEvent::Exited { status, .. }) => return Ok(status),
                Some(DynoEvent::StartFailed { message }) => return Err(BuildError::NotStarted(message)),
                Some(DynoEvent::Lost) | None => {
                    return Err(BuildError::NotStarted("its dyno-init is gone".to_owned()));
                }
                Some(_) => {}
            }
        }
    }

    /// Kills what is left and removes every trace.
    ///
    /// # Errors
    /// Something of it could not be removed: the tree must not be used.
    pub async fn remove(&self) -> Result<(), BuildError> {
        self.driver.remove(self.dyno_id).await.map_err(BuildError::Runtime)
    }
}
