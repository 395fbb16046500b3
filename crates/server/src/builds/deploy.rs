//! One build, from its source to its release: of a pushed commit, or of an archive.
//!
//! A push's build speaks to whoever pushes; an archive's goes on by itself once its row is written.
//!
//! Invariants:
//! - Everything up to the release's transaction can be dropped at any point: a client that goes away, a cancelled
//!   build and the time limit all do just that, and what is left is then removed.
//! - The tree is looked at only after the driver has confirmed that nothing of the build dyno is left.
//! - A push is accepted if and only if the transaction was committed.

use super::archive::Archive;
use super::dyno::{BuildDyno, MEMORY_BYTES};
use super::error::BuildError;
use super::output::Output;
use super::seal::{Sealed, seal};
use super::settings::BuildSettings;
use super::workspace::Workspace;
use super::{Builds, Running, promote, spares, text};
use crate::crash_point;
use crate::git::push::{PushSession, TextWriter};
use ferroku_core::app::App;
use ferroku_core::build::BuildSource;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::event::Actor;
use ferroku_core::protocol::build::{BuildOutcome, BuildResult};
use ferroku_core::protocol::push::Commit;
use ferroku_core::release::{Release, ReleaseStatus};
use ferroku_core::{BuildId, DynoId};
use ferroku_runtime::Environment;
use ferroku_store::releases;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Time a build may take, from its first word to its slug: Heroku's limit.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Largest checkout, in bytes: Heroku's limit.
const MAX_CHECKOUT_BYTES: u64 = 1024 * 1024 * 1024;
/// The job that packs a slug's tree into an archive; its payload is the digest.
pub const ARCHIVE_JOB: &str = "slug.archive";

/// A build that is ready to be released.
pub(super) struct Built {
    pub result: BuildResult,
    pub sealed: Sealed,
}

/// Where a build's source is.
pub(super) enum Origin<'a> {
    /// The push's hook sends it.
    Push(&'a mut PushSession, &'a Commit),
    Archive(&'a Archive),
    /// An archive that is a slug already.
    Slug(&'a Archive),
}

/// Builds and releases `object`; whether the push is accepted. Says everything there is to say, but the verdict.
pub async fn deploy(service: &Builds, session: &mut PushSession, object: &str) -> bool {
    let commit = session.hello.commit.clone().filter(|commit| commit.id == object);
    let commit = commit.unwrap_or_else(|| Commit { id: object.to_owned(), ..Commit::default() });
    let (app, actor) = (session.push.app.clone(), session.push.actor.clone());
    let code = Code {
        version: Some(commit.id.clone()),
        description: Some(commit.subject.clone()).filter(|subject| !subject.is_empty()),
        ..Code::default()
    };
    let (attempt, cancel) = Attempt::new(service, app, actor, code, Some(session.writer())).await;
    let released = match attempt.begin().await {
        Ok(build) => attempt.run(Origin::Push(session, &commit), build.buildpacks, &cancel).await,
        Err(error) => Err(error.into()),
    };
    let accepted = match released {
        Ok(release) => {
            attempt.succeed(&release).await;
            if release.status == ReleaseStatus::Pending {
                session.follow(release.id);
            }
            attempt.output.write(text::VERIFIED).await;
            true
        }
        Err(error) => {
            let before = attempt.fail(&error).await;
            let words = text::rejected(&attempt.app.name, before.then_some(commit.id.as_str()));
            attempt.output.write(words).await;
            false
        }
    };
    attempt.end().await;
    accepted
}

/// What is built, and what is said of it.
#[derive(Debug, Default)]
pub(super) struct Code {
    /// The commit, or what the client calls it.
    pub version: Option<String>,
    /// The commit's subject, or what the client says of it.
    pub description: Option<String>,
    pub source: Option<BuildSource>,
    /// In place of the app's own.
    pub buildpacks: Option<Vec<String>>,
}

/// One run of the recipe, and what it works on.
pub(super) struct Attempt {
    pub service: Builds,
    pub(super) app: App,
    pub actor: Actor,
    pub(super) code: Code,
    pub build_id: BuildId,
    pub output: Output,
}

impl Attempt {
    /// A build that others see and may cancel from now on.
    pub async fn new(
        service: &Builds,
        app: App,
        actor: Actor,
        code: Code,
        client: Option<TextWriter>,
    ) -> (Self, CancellationToken) {
        let build_id = BuildId(Uuid::new_v4());
        let output = Output::new(client);
        let cancel = CancellationToken::new();
        let running = Running { app_id: app.id, cancel: cancel.clone(), output: output.clone() };
        service.running().insert(build_id, running);
        // Not before it is known to run: a text that is nobody's is garbage.
        output.keep(&service.0.data, build_id).await;
        (Self { service: service.clone(), app, actor, code, build_id, output }, cancel)
    }

    pub async fn end(&self) {
        self.output.end().await;
        self.service.running().remove(&self.build_id);
    }

    pub async fn run(
        &self,
        origin: Origin<'_>,
        buildpacks: Vec<String>,
        cancel: &CancellationToken,
    ) -> Result<Release, BuildError> {
        let workspace = self.workspace(true).await?;
        let released = match self.make(origin, &workspace, buildpacks, cancel).await {
            Ok(built) => self.promote_and_release(&workspace, built).await,
            Err(error) => Err(error),
        };
        self.clear(workspace);
        released
    }

    /// The build's folders; with what its app keeps for its next build, if wanted.
    pub async fn workspace(&self, with_spares: bool) -> Result<Workspace, BuildError> {
        let (data, build_id, app_id) = (self.service.0.data.clone(), self.build_id, self.app.id);
        blocking(move || {
            let workspace = Workspace::create(&data, build_id, app_id)?;
            if with_spares {
                spares::place(&data, app_id, &workspace.app());
            }
            Ok(workspace)
        })
        .await
    }

    /// Removes the folders, off the push's path: removing thousands of files takes a while.
    pub fn clear(&self, workspace: Workspace) {
        let (data, app_id) = (self.service.0.data.clone(), self.app.id);
        tokio::task::spawn_blocking(move || {
            workspace.remove();
            super::limit_cache(&data, app_id);
        });
    }

    /// Everything up to the sealed tree, and nothing left of the build dyno.
    pub async fn make(
        &self,
        mut origin: Origin<'_>,
        workspace: &Workspace,
        buildpacks: Vec<String>,
        cancel: &CancellationToken,
    ) -> Result<Built, BuildError> {
        let data = self.service.0.data.clone();
        let dyno = BuildDyno {
            driver: self.service.parts().driver.clone(),
            dynos: self.service.parts().dynos.clone(),
            dyno_id: DynoId(Uuid::new_v4()),
            data,
        };
        let gone = match &origin {
            Origin::Push(session, _) => session.gone.clone(),
            Origin::Archive(_) | Origin::Slug(_) => CancellationToken::new(),
        };
        let built = tokio::select! {
            built = self.build(&mut origin, workspace, &dyno, buildpacks) => built,
            () = gone.cancelled() => Err(BuildError::Cancelled),
            () = cancel.cancelled() => Err(BuildError::Cancelled),
            () = tokio::time::sleep(TIME_LIMIT) => Err(BuildError::TimedOut),
        };
        // Whatever happened, nothing of the build dyno may be left; after an orderly end this finds nothing.
        let removed = dyno.remove().await;
        match (built, removed) {
            (Ok(_), Ok(())) if gone.is_cancelled() || cancel.is_cancelled() => Err(BuildError::Cancelled),
            (Ok(built), Ok(())) => Ok(built),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Puts the source archive into the workspace.
    async fn fetch(&self, origin: &mut Origin<'_>, workspace: &Workspace) -> Result<(), BuildError> {
        match origin {
            Origin::Push(session, commit) => {
                let [before, after] = text::header(commit);
                self.output.write(before).await;
                if commit.size_bytes > MAX_CHECKOUT_BYTES {
                    self.output.write("failed.\n").await;
                    return Err(crate::git::push::ArchiveError::TooLarge.into());
                }
                session.archive(&commit.id, &workspace.source()).await?;
                self.output.write(after).await;
                Ok(())
            }
            Origin::Archive(archive) | Origin::Slug(archive) => {
                archive.fetch(&self.service.parts().fetcher, &workspace.source()).await
            }
        }
    }

    /// Everything up to the sealed tree.
    async fn build(
        &self,
        origin: &mut Origin<'_>,
        workspace: &Workspace,
        dyno: &BuildDyno,
        buildpacks: Vec<String>,
    ) -> Result<Built, BuildError> {
        self.fetch(origin, workspace).await?;
        let mut plan = workspace.plan(&self.app.build_stack, &self.app.name, buildpacks);
        plan.source_version = self.code.version.clone();
        plan.strip_leading_folder = matches!(origin, Origin::Archive(_));
        plan.is_slug = matches!(origin, Origin::Slug(_));
        plan.request_id = self.actor.request_id.clone();
        plan.memory_bytes = Some(MEMORY_BYTES);
        let vars = match plan.is_slug {
            true => ConfigVars::new(),
            false => releases::app_config_vars(&self.service.parts().store, self.app.id).await?,
        };
        let settings = BuildSettings::load(&self.service.0.data).map_err(BuildError::Settings)?;
        let environment = environment(&settings, dyno.dyno_id);
        let volumes = workspace.volumes(&plan);
        let compiler = self.service.0.compiler.get().cloned().unwrap_or_default();
        let filled = workspace.clone();
        blocking(move || filled.fill(&plan, &vars, &settings, &compiler)).await?;

        let status = dyno.compile(&self.app, volumes, environment, &self.output).await?;
        dyno.remove().await?;
        let result = match workspace.result() {
            Some(result) if (result.outcome == BuildOutcome::Succeeded) == (status == 0) => result,
            _ => return Err(BuildError::NoResult(status)),
        };
        if result.outcome != BuildOutcome::Succeeded {
            return Err(BuildError::Compile(result.outcome, result.error.unwrap_or_default()));
        }
        self.output.write("\n-----> Compressing...\n").await;
        if !matches!(origin, Origin::Slug(_)) {
            let (data, app_id, tree) = (self.service.0.data.clone(), self.app.id, workspace.app());
            blocking(move || {
                spares::take_back(&data, app_id, &tree).map_err(BuildError::io("take the spare tree out"))
            })
            .await?;
        }
        let sealed = self.seal(workspace).await?;
        Ok(Built { result, sealed })
    }

    async fn seal(&self, workspace: &Workspace) -> Result<Sealed, BuildError> {
        let (tree, ahead) = (workspace.app(), workspace.app());
        let syncing = tokio::task::spawn_blocking(move || promote::sync_ahead(&ahead));
        let sealed = blocking(move || seal(&tree).map_err(BuildError::Seal)).await?;
        // A head start only; `promote` syncs again and checks.
        let _ = syncing.await;
        if sealed.removed_count > 0 {
            let names: Vec<String> = sealed.removed.iter().map(|path| path.display().to_string()).collect();
            let count = sealed.removed_count;
            let names = names.join(", ");
            let line = format!("       Left out {count} sockets, pipes and devices: {names}\n");
            self.output.write(line).await;
        }
        if sealed.archive_bytes > text::MAX_SLUG_BYTES {
            return Err(BuildError::TooLarge(sealed.archive_bytes));
        }
        self.output.write(text::compressed(sealed.archive_bytes)).await;
        Ok(sealed)
    }

    /// From here on the push is not cancelled any more.
    async fn promote_and_release(&self, workspace: &Workspace, built: Built) -> Result<Release, BuildError> {
        self.output.write("-----> Launching...\n").await;
        if let Some(warning) = text::large_slug(built.sealed.archive_bytes) {
            self.output.write(warning).await;
        }
        let _held = self.promote(workspace, &built).await?;
        crash_point::hit("release.before_commit");
        let release = self.commit(&built).await?;
        crash_point::hit("release.committed");
        (self.service.parts().changed)(self.app.id);
        self.service.0.collect.notify_one();
        spares::keep_later(&self.service.0.data, self.app.id, &built.sealed.digest);
        Ok(release)
    }

    /// Moves the tree to its digest, where nobody removes it until what this gives is dropped.
    pub async fn promote(
        &self,
        workspace: &Workspace,
        built: &Built,
    ) -> Result<tokio::sync::MutexGuard<'_, ()>, BuildError> {
        let held = self.service.0.slugs.lock().await;
        let (data, tree) = (self.service.0.data.clone(), workspace.app());
        let digest = built.sealed.digest.clone();
        let replaces = self.service.0.scrub.is_damaged(&digest);
        blocking(move || {
            let moved = match replaces {
                true => promote::replace(&data, &tree, &digest),
                false => promote::promote(&data, &tree, &digest),
            };
            moved.map_err(BuildError::io("move the slug to its place"))
        })
        .await?;
        self.service.0.scrub.note(&built.sealed.digest, false);
        Ok(held)
    }
}

/// The environment of the compiler itself; config vars are files.
fn environment(settings: &BuildSettings, dyno_id: DynoId) -> Environment {
    let mut environment = Environment::default();
    for (name, value) in [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/app"),
        ("LANG", "C.UTF-8"),
        ("TMPDIR", "/tmp"),
    ] {
        environment.set(name, value);
    }
    environment.set("DYNO", format!("build.{}", &dyno_id.to_string()[..4]));
    for (name, value) in &settings.variables {
        environment.set(name.clone(), value.clone());
    }
    environment
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            Err(BuildError::Io { action: "run a step of the build", source: std::io::Error::other(error) })
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
