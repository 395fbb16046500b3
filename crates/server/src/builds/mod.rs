//! Builds: from a source to a slug and a release.
//!
//! In: a push's conversation with its hook ([`crate::git::push`]), or a source archive. Out: a slug's tree, and one transaction with the
//! slug, the release, the formation and the build's end; or nothing at all and a refused push.
//!
//! ```text
//! deploy      the steps of one build, in order       record    what it writes down
//! archive     builds of source archives, which go on by themselves
//! uploads     source archives that clients upload
//! slugs       slugs that clients upload, and their archives
//! workspace   the build's folder          dyno      the build dyno
//! seal        the tree made harmless      promote   the tree moved to slugs/<digest>
//! output      the build's text            text      its words
//! stream      the text over HTTP
//! settings    what a build gets of the node's certificates and package indexes
//! spares      installed dependencies, kept ready for the app's next build
//! collect     archives, and off the push's path:
//! garbage     what nobody needs goes      repositories  git's own garbage      scrub  slugs read again
//! ```
//!
//! Invariants:
//! - Until the release is written, a push that is cut off (client gone, time up, control killed) leaves only folders,
//!   which are removed; after it, the release stands.
//! - The node's disk is never filled by a build: below [`crate::git::DISK_RESERVE`] it is stopped.

pub mod archive;
pub mod collect;
pub mod deploy;
mod dyno;
pub mod error;
pub mod garbage;
pub mod output;
pub mod promote;
mod record;
mod repositories;
pub mod scrub;
pub mod seal;
mod settings;
pub mod slugs;
mod spares;
pub mod stream;
pub mod text;
pub mod uploads;
pub mod workspace;

use crate::dynos::DynoManager;
use crate::fetch::Fetcher;
use crate::git::GitService;
use crate::git::push::{self, Follower, Hook, PushSession, serve_hooks};
use crate::git::repository::Packing;
use crate::node::{Node, now_ms};
use crate::release_output::{OutputError, ReleaseOutput};
use ferroku_core::app::App;
use ferroku_core::protocol::push::{PushPlan, Verdict, plan_push};
use ferroku_core::release::ReleaseStatus;
use ferroku_core::retention::{Place, Retention};
use ferroku_core::{AppId, BuildId};
use ferroku_logplex::Logplex;
use ferroku_runtime::SandboxDriver;
use ferroku_store::apps::Destroyed;
use ferroku_store::{Store, StoreError, builds, limits, pipelines, releases};
use garbage::Freed;
use output::Output;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use uploads::Uploads;

/// Largest build cache of an app, in bytes on disk.
const MAX_CACHE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Most files and folders in a build cache.
const MAX_CACHE_ENTRIES: u64 = 500_000;

/// What builds work with.
#[derive(Clone)]
struct Parts {
    store: Store,
    logplex: Logplex,
    driver: Arc<SandboxDriver>,
    fetcher: Fetcher,
    /// Knows what room there is for a build.
    dynos: DynoManager,
    /// The address of the app with this name.
    web_url: Arc<dyn Fn(&str) -> String + Send + Sync>,
    /// Told when an app has a new release, and when there are new events.
    changed: Arc<dyn Fn(AppId) + Send + Sync>,
    /// What git runs as its hook: this program.
    hook: PathBuf,
    /// The slug compiler that came with this release.
    compiler: PathBuf,
    /// How long slugs are kept.
    retention: Retention,
}

/// Runs builds. Clones are the same service.
#[derive(Clone)]
pub struct Builds(Arc<Inner>);

struct Inner {
    data: PathBuf,
    git: GitService,
    parts: OnceLock<Parts>,
    compiler: OnceLock<PathBuf>,
    running: Mutex<HashMap<BuildId, Running>>,
    /// Held while a tree is promoted and its row written, and while unused trees are collected.
    slugs: tokio::sync::Mutex<()>,
    /// Held by a round of the collector.
    sweeping: tokio::sync::Mutex<()>,
    collect: Notify,
    /// Slugs that are unpacked at a time: they count in no account's builds.
    unpacking: Semaphore,
    packed: repositories::Packed,
    scrub: scrub::Scrub,
}

/// A build under way.
#[derive(Clone)]
struct Running {
    app_id: AppId,
    cancel: CancellationToken,
    output: Output,
}

impl Builds {
    /// A service for the data folder `data` that does nothing until [`Builds::start`].
    pub fn new(data: &Path) -> Self {
        Self(Arc::new(Inner {
            data: data.to_owned(),
            git: GitService::new(data),
            parts: OnceLock::new(),
            compiler: OnceLock::new(),
            running: Mutex::default(),
            slugs: tokio::sync::Mutex::default(),
            sweeping: tokio::sync::Mutex::default(),
            collect: Notify::new(),
            unpacking: Semaphore::new(slugs::MAX_UNPACKING),
            packed: repositories::Packed::default(),
            scrub: scrub::Scrub::default(),
        }))
    }

    /// Fails what was cut off, puts the hook and the compiler in place, and from then on takes pushes. To be called
    /// once, after the node's dynos are adopted and before requests are served.
    ///
    /// # Errors
    /// The data folder or the store cannot be used; the programs beside this one are missing.
    pub async fn start(&self, node: &Arc<Node>) -> anyhow::Result<()> {
        let program = std::env::current_exe()?;
        let compiler = crate::control::beside("slug-compiler")?;
        self.start_with(Self::parts_of(node, program, compiler)).await
    }

    fn parts_of(node: &Arc<Node>, hook: PathBuf, compiler: PathBuf) -> Parts {
        let config = node.config.clone();
        let weak = Arc::downgrade(node);
        let changed = move |app_id| {
            if let Some(node) = weak.upgrade() {
                node.dynos.poke(app_id);
                node.events.poke();
            }
        };
        Parts {
            store: node.store.clone(),
            logplex: node.logplex.clone(),
            driver: node.driver().clone(),
            fetcher: Fetcher::new(&node.config.fetch),
            dynos: node.dynos.clone(),
            web_url: Arc::new(move |name| config.web_url(name)),
            changed: Arc::new(changed),
            hook,
            compiler,
            retention: node.config.retention,
        }
    }

    async fn start_with(&self, parts: Parts) -> anyhow::Result<()> {
        let inner = &self.0;
        inner.git.repositories.prepare(&parts.hook)?;
        let compiler = install_compiler(&parts.compiler, &inner.data.join("bin"))?;
        for (name, mode) in [
            ("slugs", 0o711),
            ("builds", 0o711),
            ("build-output", 0o700),
            ("slug-archives", 0o700),
            ("spares", 0o700),
        ] {
            let folder = inner.data.join(name);
            std::fs::create_dir_all(&folder)?;
            std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        self.uploads().remove_old(SystemTime::UNIX_EPOCH, true)?;
        let listener = push::bind(&inner.git.repositories.hook_socket())?;
        for build in builds::fail_pending(&parts.store, now_ms()).await? {
            tracing::info!("build {} of app {} was cut off and has failed", build.id, build.app_id);
        }
        pipelines::fail_cut_off(&parts.store).await?;
        let _ = inner.compiler.set(compiler);
        let _ = inner.parts.set(parts);
        // A test collects when it wants to.
        if !cfg!(test) {
            tokio::spawn(collect::run(self.clone()));
        }
        let service = self.clone();
        let handle = move |hook| {
            let service = service.clone();
            async move {
                match hook {
                    Hook::Push(session) => service.answer(session).await,
                    Hook::Follower(follower) => service.show_release_command(follower).await,
                }
            }
        };
        tokio::spawn(serve_hooks(listener, inner.git.pushes.clone(), handle));
        Ok(())
    }

    /// Where the admin puts buildpacks that apps may use as folders.
    pub fn buildpacks_folder(&self) -> PathBuf {
        workspace::buildpacks_folder(&self.0.data)
    }

    /// Git's side: repositories and pushes.
    pub fn git(&self) -> &GitService {
        &self.0.git
    }

    /// What clients upload to be built.
    pub fn uploads(&self) -> Uploads {
        Uploads::new(&self.0.data)
    }

    /// Cancels a build; whether it was under way.
    pub fn cancel(&self, build_id: BuildId) -> bool {
        let running = self.running().get(&build_id).cloned();
        running.inspect(|running| running.cancel.cancel()).is_some()
    }

    /// The text of a build under way.
    pub fn output(&self, build_id: BuildId) -> Option<Output> {
        self.running().get(&build_id).map(|running| running.output.clone())
    }

    /// Where the text of every build is kept.
    pub fn output_path(&self, build_id: BuildId) -> PathBuf {
        output::path(&self.0.data, build_id)
    }

    /// Takes away what an app leaves on disk, after its rows are gone: repository and build cache go to the trash at once, the
    /// collector does the rest. Its builds are stopped and it takes no push any more. May be called again after a crash.
    ///
    /// # Errors
    /// Something is still there.
    pub async fn app_destroyed(&self, destroyed: &Destroyed) -> anyhow::Result<()> {
        let app_id = destroyed.app_id;
        self.0.git.pushes.close(app_id);
        for running in self.running().values().filter(|running| running.app_id == app_id) {
            running.cancel.cancel();
        }
        self.discard(Place::Repositories, format!("{app_id}.git")).await?;
        self.purge_cache(app_id).await?;
        Ok(())
    }

    /// Removes what no release needs any more, as the collector does by itself.
    ///
    /// # Errors
    /// The store or the disk failed.
    pub async fn collect_garbage(&self) -> anyhow::Result<Freed> {
        match self.0.parts.get() {
            Some(_) => garbage::sweep(self).await.inspect(garbage::log),
            None => Ok(Freed::default()),
        }
    }

    /// Tells what that would free.
    ///
    /// # Errors
    /// The store or the disk failed.
    pub async fn preview_garbage(&self) -> anyhow::Result<Freed> {
        match self.0.parts.get() {
            Some(_) => garbage::preview(self).await,
            None => Ok(Freed::default()),
        }
    }

    /// Forgets what builds of the app keep for the next one: that starts from nothing.
    ///
    /// # Errors
    /// It is still there.
    pub async fn purge_cache(&self, app_id: AppId) -> std::io::Result<()> {
        self.discard(Place::Caches, app_id.to_string()).await?;
        self.discard(Place::Spares, app_id.to_string()).await
    }

    /// Takes an entry of a folder away; the collector removes it.
    async fn discard(&self, place: Place, name: String) -> std::io::Result<()> {
        let data = self.0.data.clone();
        tokio::task::spawn_blocking(move || garbage::discard(&data, place, &name)).await??;
        self.0.collect.notify_one();
        Ok(())
    }

    /// What follows a push's program: the repository's size, and packing it now and then.
    pub fn after_push(&self, app_id: AppId) {
        if self.0.parts.get().is_none() {
            return;
        }
        let service = self.clone();
        tokio::spawn(async move {
            service.note_size(app_id).await;
            let packed = service.0.git.repositories.collect_garbage(app_id, Packing::WhenMany).await;
            if let Err(error) = packed {
                tracing::warn!("cannot pack the repository of app {app_id}: {error}");
            }
        });
    }

    /// Handles one push.
    async fn answer(self, mut session: PushSession) {
        let app_name = session.push.app.name.clone();
        let mut head = None;
        let adds = session.hello.updates.iter().any(|update| !update.is_deletion());
        let full = if adds { self.why_disk_is_used_up(&session.push.app).await } else { None };
        let accept = if let Some(why) = full {
            session.text(text::refused(&app_name, &why)).await;
            false
        } else if session.has_slot {
            match plan_push(&session.hello.updates) {
                PushPlan::Store => {
                    if adds {
                        session.text(text::NOT_BUILT).await;
                    }
                    true
                }
                PushPlan::Refuse(why) => {
                    session.text(text::refused(&app_name, &why)).await;
                    false
                }
                PushPlan::Deploy { object, branch } => {
                    head = Some(branch);
                    deploy::deploy(&self, &mut session, &object).await
                }
            }
        } else {
            let pending = releases::refuse_while_pending(&self.parts().store, session.push.app.id).await;
            let why = match &pending {
                Err(StoreError::Refused(why)) => why,
                _ => {
                    "Another push to this app, or a build of it, is under way. Wait until it has ended, and push again."
                }
            };
            session.text(text::refused(&app_name, why)).await;
            false
        };
        session.finish(Verdict { accept, head }).await;
    }

    /// Why the app's owner may add nothing to the disk, if so: a branch that is not built takes its room, too. What can go
    /// of old slugs goes first.
    async fn why_disk_is_used_up(&self, app: &App) -> Option<String> {
        let why = self.check_disk(app.id).await?;
        match garbage::make_room(self, app.owner_id).await {
            Ok(0) => Some(why),
            Ok(_) => self.check_disk(app.id).await,
            Err(error) => {
                tracing::warn!("cannot make room for a push to app {}: {error:#}", app.id);
                Some(why)
            }
        }
    }

    async fn check_disk(&self, app_id: AppId) -> Option<String> {
        let mut connection = self.parts().store.reader().acquire().await.ok()?;
        match limits::check_disk(&mut connection, app_id).await {
            Err(StoreError::Refused(why)) => Some(why),
            // A store that is away refuses the push where it is needed.
            _ => None,
        }
    }

    /// Shows what a release's command prints to whoever pushed it.
    async fn show_release_command(self, follower: Follower) {
        follower.text(text::RUNNING_RELEASE_COMMAND).await;
        tokio::select! {
            shown = self.pass_on_output(&follower) => match shown {
                Ok(status) => {
                    // It may have expired since: succeeded all the same.
                    let failed = matches!(status, ReleaseStatus::Failed | ReleaseStatus::Pending);
                    follower.text(text::release_command_ended(!failed)).await;
                }
                Err(error) => {
                    tracing::error!(
                        release = %follower.release_id,
                        error = &error as &dyn std::error::Error,
                        "cannot show a release command's output"
                    );
                    follower.text(text::RELEASE_COMMAND_UNSEEN).await;
                }
            },
            () = follower.gone.cancelled() => {}
        }
        follower.finish().await;
    }

    async fn pass_on_output(&self, follower: &Follower) -> Result<ReleaseStatus, OutputError> {
        let parts = self.parts();
        let release = releases::by_id(&parts.store, follower.release_id).await?;
        let Some(release) = release else { return Ok(ReleaseStatus::Failed) };
        let Some(mut output) = ReleaseOutput::open(&parts.store, &parts.logplex, release).await? else {
            return Ok(ReleaseStatus::Succeeded);
        };
        while let Some(lines) = output.next().await? {
            follower.text(lines).await;
        }
        Ok(output.status())
    }

    fn parts(&self) -> &Parts {
        self.0.parts.get().expect("hooks are served only after the start")
    }

    /// The builds under way and their apps.
    fn building(&self) -> BTreeMap<BuildId, AppId> {
        self.running().iter().map(|(id, build)| (*id, build.app_id)).collect()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<BuildId, Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]

impl std::fmt::Debug for Builds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Builds").field("data", &self.0.data).finish_non_exhaustive()
    }
}

/// Drops the app's build cache when it has grown over [`MAX_CACHE_BYTES`] or [`MAX_CACHE_ENTRIES`], or has folders nested
/// deeper than a path is long, after a failed build
/// too: whatever a build writes there would stay on the node's disk for good.
fn limit_cache(data: &Path, app_id: AppId) {
    let folder = data.join("cache").join(app_id.to_string());
    let (mut bytes, mut entries) = (0, 0);
    for entry in walkdir::WalkDir::new(&folder) {
        // What no path reaches cannot be counted.
        let is_hidden = entry.as_ref().is_err_and(|error| {
            error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidFilename)
        });
        let metadata = entry.ok().and_then(|entry| entry.metadata().ok());
        bytes += metadata.map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512);
        entries += 1;
        if is_hidden || bytes > MAX_CACHE_BYTES || entries > MAX_CACHE_ENTRIES {
            tracing::warn!("the build cache of app {app_id} has grown too large and is dropped");
            if let Err(error) = garbage::discard(data, Place::Caches, &app_id.to_string()) {
                tracing::warn!("cannot drop the build cache of app {app_id}: {error}");
            }
            return;
        }
    }
}

/// A file's SHA-256 in lower-case hex. Blocks.
fn digest_of(file: &Path) -> std::io::Result<String> {
    let (mut file, mut hash) = (std::fs::File::open(file)?, Sha256::new());
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Copies the compiler to `bin/slug-compiler-<digest>`, where an upgrade does not take it from a running build.
fn install_compiler(source: &Path, bin: &Path) -> anyhow::Result<PathBuf> {
    let bytes = std::fs::read(source).map_err(|error| {
        anyhow::anyhow!("cannot read {}, which belongs beside ferrokud: {error}", source.display())
    })?;
    let digest = hex::encode(Sha256::digest(&bytes));
    let place = bin.join(format!("slug-compiler-{}", &digest[..16]));
    if !place.exists() {
        let next = place.with_extension("new");
        std::fs::write(&next, &bytes)?;
        std::fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        std::fs::rename(&next, &place)?;
    }
    Ok(place)
}

#[cfg(test)]
mod tests;
