//! The sandbox driver: dynos by Linux namespaces, cgroups, a bridge and one dyno-init each.
//!
//! | file | does |
//! |---|---|
//! | `features` | looks whether the kernel has everything |
//! | `node` | the names and the subnet that are this node's own |
//! | `network` | bridge, namespaces, packet filter, DNS |
//! | `folders` | a dyno's folders, the start of its dyno-init, the removal of every trace |
//! | `connection` | talks to one dyno-init |
//! | `room` | limits of the whole machine that many dynos would meet |
//! | `leaks` | what is left on the host |

mod connection;
mod features;
mod folders;
mod leaks;
mod network;
mod node;
mod room;

use crate::cgroup::{self, Hierarchies};
use crate::handle::Action;
use crate::launch::{LaunchPlan, NetworkPlan, ResolvedVolume};
use crate::{Driver, DynoHandle, DynoSpec, Environment, NetworkPolicy, Result, RuntimeError};
use connection::Running;
use ferroku_core::DynoId;
use folders::Folders;
use network::{Lease, Links};
use node::Node;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use leaks::leaks;

/// dyno-init kills its dyno and ends within milliseconds; then it is killed itself.
const RELEASE: Duration = Duration::from_secs(10);

/// How a node runs dynos.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// The data folder, absolute. `node.json` in it gets the node's id, subnet and bridge.
    pub data: PathBuf,
    /// Where `dyno-init` and `dyno-create` of this release lie; copies by digest are kept in `data/bin`.
    pub programs: PathBuf,
    /// Private networks, such as `10.20.0.0/16`, that dynos may talk to all the same.
    pub allowed_networks: Vec<String>,
    /// A program that makes the containers, such as `/usr/sbin/runc`, in place of libcontainer, which is linked in.
    pub oci_runtime: Option<PathBuf>,
}

/// Dynos on this machine.
#[derive(Debug)]
pub struct SandboxDriver {
    shared: Arc<Shared>,
    links: Links,
    names: Mutex<Option<network::Forwarder>>,
    dynos: Mutex<HashMap<DynoId, Slot>>,
}

/// What the tasks of single dynos need.
#[derive(Debug)]
struct Shared {
    node: Node,
    folders: Folders,
    hierarchies: Hierarchies,
    program: PathBuf,
    digest: String,
    create_program: PathBuf,
    oci_runtime: Option<PathBuf>,
}

#[derive(Debug)]
enum Slot {
    Starting,
    Running(Running),
}

// === impl SandboxConfig ===

impl SandboxConfig {
    /// The defaults for a data folder: the programs lie beside the running one.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let beside = std::env::current_exe().ok().and_then(|executable| Some(executable.parent()?.into()));
        Self {
            data: data.into(),
            programs: beside.unwrap_or_else(|| PathBuf::from("/")),
            allowed_networks: Vec::new(),
            oci_runtime: None,
        }
    }
}

// === impl SandboxDriver ===

impl SandboxDriver {
    /// Checks that the kernel has what the sandbox needs, and makes the node's bridge, packet filter, DNS
    /// forwarder and stock of network namespaces. What is there already is kept.
    ///
    /// # Errors
    /// [`RuntimeError::MissingFeature`] names what the kernel lacks; others name what failed.
    pub async fn open(config: SandboxConfig) -> Result<Self> {
        let prepared = tokio::task::spawn_blocking(move || prepare(&config)).await;
        let (shared, links) = prepared.map_err(|_| RuntimeError::ShutDown)??;
        let names = network::Forwarder::start(shared.node.gateway()).await?;
        Ok(Self { shared: Arc::new(shared), links, names: Mutex::new(Some(names)), dynos: Mutex::default() })
    }

    fn dynos(&self) -> MutexGuard<'_, HashMap<DynoId, Slot>> {
        self.dynos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn launch(
        &self,
        spec: DynoSpec,
        environment: &Environment,
        lease: &Lease,
    ) -> Result<(DynoHandle, Running)> {
        let shared = &self.shared;
        let plan = shared.plan(spec, lease)?;
        let dyno_id = plan.spec.dyno_id;
        let namespace = lease.namespace.try_clone().map_err(|source| RuntimeError::DynoInit {
            dyno_id,
            action: "pass on its network",
            source,
        })?;
        let (folders, for_launch) = (shared.folders.clone(), plan.clone());
        let launch = tokio::task::spawn_blocking(move || folders::launch(&folders, &for_launch, &namespace));
        let mut child = launch.await.map_err(|_| RuntimeError::ShutDown)??;
        tokio::spawn(async move { child.wait().await });
        connection::connect(shared, plan, Some(environment)).await
    }

    /// Removes what a failed start has left; the start's error is the one to tell.
    async fn clean_up(&self, dyno_id: DynoId) {
        let shared = Arc::clone(&self.shared);
        let removed =
            shared.blocking(move |shared| shared.folders.remove(&shared.node, &shared.hierarchies, dyno_id));
        if let Err(error) = removed.await {
            tracing::warn!(%dyno_id, %error, "cannot clean up after a failed start");
        }
    }
}

/// Everything of `open` that blocks.
fn prepare(config: &SandboxConfig) -> Result<(Shared, Links)> {
    let root = Path::new(cgroup::ROOT);
    let hierarchies =
        Hierarchies::detect(root).map_err(RuntimeError::file("look at the cgroups in", root))?;
    features::check(&hierarchies)?;
    let data = config.data.canonicalize().map_err(RuntimeError::file("find", &config.data))?;
    let folders = Folders { data };
    folders.make()?;
    let (program, digest) = folders.keep_program(&config.programs, "dyno-init")?;
    let (create_program, _) = folders.keep_program(&config.programs, "dyno-create")?;
    let mut links = None;
    let node = Node::open(&folders.data, |node| {
        links = Some(Links::start(node)?);
        Ok(())
    })?;
    network::install(&node, &config.allowed_networks)?;
    room::make()?;
    let forward = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(forward, "1").map_err(RuntimeError::file("turn on", forward))?;
    let links = links.ok_or(RuntimeError::ShutDown)?;
    let oci_runtime = config.oci_runtime.as_deref().map(find_oci_runtime).transpose()?;
    Ok((Shared { node, folders, hierarchies, program, digest, create_program, oci_runtime }, links))
}

/// The runtime's whole path, so that what a dyno is made by does not depend on a later search.
fn find_oci_runtime(program: &Path) -> Result<PathBuf> {
    program.canonicalize().map_err(RuntimeError::file("find the OCI runtime", program))
}

impl Driver for SandboxDriver {
    async fn start(&self, spec: DynoSpec, environment: Environment) -> Result<DynoHandle> {
        let dyno_id = spec.dyno_id;
        match self.dynos().entry(dyno_id) {
            Entry::Occupied(_) => return Err(RuntimeError::AlreadyRunning { dyno_id }),
            Entry::Vacant(entry) => entry.insert(Slot::Starting),
        };
        let lease = self.links.lease(spec.network == NetworkPolicy::Internet).await;
        let launched = match &lease {
            Ok(lease) => self.launch(spec, &environment, lease).await,
            Err(_) => Err(RuntimeError::ShutDown),
        };
        let lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                self.dynos().remove(&dyno_id);
                return Err(error);
            }
        };
        match launched {
            Ok((handle, running)) => {
                self.dynos().insert(dyno_id, Slot::Running(running));
                Ok(handle)
            }
            Err(error) => {
                let slot = lease.slot;
                drop(lease);
                if !matches!(error, RuntimeError::AlreadyRunning { .. }) {
                    self.clean_up(dyno_id).await;
                }
                slot.inspect(|(slot, _)| self.links.release(*slot));
                self.dynos().remove(&dyno_id);
                Err(error)
            }
        }
    }

    async fn adopt(&self) -> Result<Vec<DynoHandle>> {
        let mut handles = Vec::new();
        let known = self.shared.folders.dynos();
        for dyno_id in &known {
            if self.dynos().contains_key(dyno_id) {
                continue;
            }
            match self.adopt_one(*dyno_id).await {
                Ok(handle) => handles.extend(handle),
                Err(error) => tracing::error!(%dyno_id, %error, "cannot adopt a dyno"),
            }
        }
        let shared = Arc::clone(&self.shared);
        shared.blocking(move |shared| shared.remove_strays(&known)).await?;
        Ok(handles)
    }

    async fn remove(&self, dyno_id: DynoId) -> Result<()> {
        let running = {
            let mut dynos = self.dynos();
            if let Some(Slot::Starting) = dynos.get(&dyno_id) {
                return Err(RuntimeError::Spec { dyno_id, message: "it is being started".into() });
            }
            match dynos.remove(&dyno_id) {
                Some(Slot::Running(running)) => Some(running),
                Some(Slot::Starting) | None => None,
            }
        };
        let mut pid = 0;
        if let Some(running) = &running {
            pid = running.pid.load(Ordering::Relaxed);
            let _ = running.actions.send(Action::Release).await;
            let mut connection = running.connection.clone();
            let _ = tokio::time::timeout(RELEASE, connection.changed()).await;
        }
        let shared = Arc::clone(&self.shared);
        shared
            .blocking(move |shared| {
                shared.folders.wait_for_end(dyno_id, pid);
                shared.folders.remove(&shared.node, &shared.hierarchies, dyno_id)
            })
            .await?;
        running.and_then(|running| running.slot).inspect(|slot| self.links.release(*slot));
        Ok(())
    }

    async fn memory_bytes(&self, dyno_id: DynoId) -> Option<u64> {
        let read = move |shared: &Shared| {
            let group = shared.hierarchies.group(shared.node.dyno_cgroup(dyno_id));
            Ok(group.memory_bytes())
        };
        // Only at the end of this process is nobody there to read it.
        Arc::clone(&self.shared).blocking(read).await.ok().flatten()
    }

    async fn swap_out(&self, dyno_id: DynoId) -> Option<u64> {
        if !cgroup::has_swap() {
            return None;
        }
        let give_back = move |shared: &Shared| {
            let group = shared.hierarchies.group(shared.node.dyno_cgroup(dyno_id));
            Ok(group.swap_out())
        };
        Arc::clone(&self.shared).blocking(give_back).await.ok().flatten()
    }

    async fn shutdown(&self) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.dynos().clear();
        let shared = Arc::clone(&self.shared);
        if !shared.folders.dynos().is_empty() {
            return;
        }
        self.links.remove_bridge().await;
        let removed = shared.blocking(|shared| {
            network::remove(&shared.node)?;
            let name = shared.node.cgroup();
            shared.hierarchies.group(&name).remove().map_err(RuntimeError::file("remove cgroup", name))
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "cannot take the node's network down");
        }
    }
}

impl SandboxDriver {
    async fn adopt_one(&self, dyno_id: DynoId) -> Result<Option<DynoHandle>> {
        let shared = &self.shared;
        let plan = LaunchPlan::read(&shared.folders.run(dyno_id)).ok();
        let lives = shared.folders.has_owner(dyno_id);
        let (handle, running) = match plan {
            Some(plan) if lives => match connection::connect(shared, plan.clone(), None).await {
                Ok(parts) => parts,
                // It died between the two looks.
                Err(_) if shared.owner_gone(dyno_id, Duration::ZERO).await => {
                    connection::bury(shared, dyno_id, Some(&plan))
                }
                Err(error) => return Err(error),
            },
            Some(plan) => connection::bury(shared, dyno_id, Some(&plan)),
            // After a reboot: its last lines, and its end if it had one before, are on the disk.
            None if !lives && shared.folders.has_run(dyno_id) => connection::bury(shared, dyno_id, None),
            // Of a start that did not get far, there is nothing to tell.
            None => {
                Arc::clone(shared)
                    .blocking(move |shared| shared.folders.remove(&shared.node, &shared.hierarchies, dyno_id))
                    .await?;
                return Ok(None);
            }
        };
        self.links.occupy(running.slot.into_iter().collect());
        self.dynos().insert(dyno_id, Slot::Running(running));
        Ok(Some(handle))
    }
}

// === impl Shared ===

impl Shared {
    /// Runs what blocks apart from the tasks.
    async fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = tokio::task::spawn_blocking(move || work(&self)).await;
        done.map_err(|_| RuntimeError::ShutDown)?
    }

    fn plan(&self, spec: DynoSpec, lease: &Lease) -> Result<LaunchPlan> {
        let dyno_id = spec.dyno_id;
        let slug = match &spec.slug_digest {
            Some(digest) => {
                let plain =
                    !digest.is_empty() && digest.chars().all(|character| character.is_ascii_alphanumeric());
                let path = self.folders.data.join("slugs").join(digest);
                if !plain || !path.is_dir() {
                    let message =
                        format!("slug {digest} is not in {}", self.folders.data.join("slugs").display());
                    return Err(RuntimeError::Spec { dyno_id, message });
                }
                Some(path)
            }
            None => None,
        };
        let volumes = spec
            .volumes
            .iter()
            .map(|volume| {
                Ok(ResolvedVolume {
                    source: self.folders.resolve(dyno_id, volume)?,
                    target: PathBuf::from(&volume.target),
                    read_only: volume.read_only,
                })
            })
            .collect::<Result<_>>()?;
        Ok(LaunchPlan {
            nonce: uuid::Uuid::new_v4().simple().to_string(),
            digest: self.digest.clone(),
            program: self.program.clone(),
            create_program: self.create_program.clone(),
            oci_runtime: self.oci_runtime.clone(),
            state_folder: self.folders.state(dyno_id),
            run_folder: self.folders.run(dyno_id),
            slug,
            volumes,
            cgroup: self.node.dyno_cgroup(dyno_id),
            network: lease.slot.map(|(_, address)| NetworkPlan { address, gateway: self.node.gateway() }),
            spec,
        })
    }

    /// Waits until the dyno's dyno-init has let go of its lock.
    async fn owner_gone(&self, dyno_id: DynoId, limit: Duration) -> bool {
        let begun = Instant::now();
        while self.folders.has_owner(dyno_id) {
            if begun.elapsed() >= limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Kills and removes cgroups of dynos that have no folder, and so no owner.
    fn remove_strays(&self, known: &[DynoId]) -> Result<()> {
        for name in self.hierarchies.group(self.node.cgroup()).children() {
            if known.iter().any(|dyno_id| dyno_id.to_string() == name) {
                continue;
            }
            let path = format!("{}/{name}", self.node.cgroup());
            let group = self.hierarchies.group(&path);
            group.kill().map_err(RuntimeError::file("kill the processes of cgroup", &path))?;
            group.remove().map_err(RuntimeError::file("remove cgroup", &path))?;
        }
        Ok(())
    }
}
