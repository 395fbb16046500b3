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
use crate::node::now_ms;
use ferroku_core::app::App;
use ferroku_core::build::{Build, BuildSource, BuildStatus};
use ferroku_core::config_var::{ConfigPatch, ConfigVars};
use ferroku_core::event::Actor;
use ferroku_core::protocol::build::{BuildOutcome, BuildResult};
use ferroku_core::protocol::push::Commit;
use ferroku_core::release::{Release, ReleaseStatus, deploy_description};
use ferroku_core::slug::Slug;
use ferroku_core::{BuildId, DynoId, ReleaseId, SlugId};
use ferroku_runtime::Environment;
use ferroku_store::builds::Outcome;
use ferroku_store::events::{self, NewEvent};
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use ferroku_store::{StoreError, buildpack_installations, builds, jobs, limits, releases, slugs, write};
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
    result: BuildResult,
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
    app: App,
    pub actor: Actor,
    code: Code,
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
        let output = Output::create(&service.0.data, build_id, client).await;
        let cancel = CancellationToken::new();
        let running = Running { app_id: app.id, cancel: cancel.clone(), output: output.clone() };
        service.running().insert(build_id, running);
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

    /// Writes the build down.
    pub async fn begin(&self) -> Result<Build, StoreError> {
        let parts = self.service.parts();
        // Building for minutes what cannot be released would be a waste.
        releases::refuse_while_pending(&parts.store, self.app.id).await?;
        let buildpacks = match &self.code.buildpacks {
            Some(buildpacks) => buildpacks.clone(),
            None => {
                let installed = buildpack_installations::list(&parts.store, self.app.id).await?;
                installed.into_iter().map(|one| one.url).collect()
            }
        };
        let now = now_ms();
        let build = Build {
            id: self.build_id,
            app_id: self.app.id,
            account_id: self.actor.account_id,
            status: BuildStatus::Pending,
            stack: self.app.build_stack.clone(),
            buildpacks,
            source: self.code.source.clone(),
            source_version: self.code.version.clone(),
            slug_id: None,
            release_id: None,
            created_at: now,
            updated_at: now,
        };
        crash_point::hit("build.before_create");
        write_build(&parts.store, &build, &self.app, &self.actor, now).await?;
        crash_point::hit("build.created");
        (parts.changed)(self.app.id);
        Ok(build)
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

    /// The deploy's one transaction.
    async fn commit(&self, built: &Built) -> Result<Release, StoreError> {
        let store = &self.service.parts().store;
        let now = now_ms();
        let slug = self.slug(built, now);
        let release_id = ReleaseId(Uuid::new_v4());
        let version = self.code.version.as_deref().unwrap_or(&slug.digest);
        let current = releases::current(store, self.app.id).await?;
        let first_deploy = current.as_ref().is_none_or(|release| release.slug_id.is_none());
        let present = releases::app_config_vars(store, self.app.id).await?;
        let config =
            if first_deploy { missing_vars(&built.result.config_vars, &present) } else { ConfigChange::Keep };
        let used: Vec<String> = built.result.buildpacks.iter().map(|one| one.url.clone()).collect();
        let outcome = Outcome::Succeeded { slug_id: slug.id, release_id, buildpacks: used.clone() };
        write!(store, tx => {
            slugs::create(&mut tx, &slug).await?;
            let new = NewRelease {
                id: release_id,
                app_id: self.app.id,
                actor: &self.actor,
                description: deploy_description(version),
                slug: SlugChange::Set(slug.id),
                config: config.clone(),
            };
            let release = releases::create(&mut tx, store.key(), new, now).await?;
            builds::finish(&mut tx, self.build_id, &outcome, now).await?;
            if built.result.detected {
                buildpack_installations::pin(&mut tx, self.app.id, &used).await?;
            }
            let message = Some(text::LOG_SUCCEEDED.to_owned());
            events::append(&mut tx, self.event("build.succeed", message), now).await?;
            jobs::create(&mut tx, ARCHIVE_JOB, Some(self.app.id), &slug.digest, now).await?;
            Ok(release)
        })
    }

    fn slug(&self, built: &Built, now: i64) -> Slug {
        let result = &built.result;
        let process_types = result.process_types.iter();
        let process_types = process_types.filter(|(name, _)| ferroku_core::procfile::is_process_type(name));
        Slug {
            id: SlugId(Uuid::new_v4()),
            app_id: self.app.id,
            digest: built.sealed.digest.clone(),
            commit: self.code.version.clone(),
            commit_description: self.code.description.clone(),
            stack: self.app.build_stack.clone(),
            size_bytes: i64::try_from(built.sealed.archive_bytes).unwrap_or(i64::MAX),
            process_types: process_types.map(|(name, command)| (name.clone(), command.clone())).collect(),
            buildpack_provided_description: result.description.clone(),
            archive_sha256: None,
            deleted_at: None,
            created_at: now,
        }
    }

    pub fn event(&self, kind: &'static str, log_message: Option<String>) -> NewEvent<'_> {
        NewEvent { app_id: Some(self.app.id), actor: &self.actor, kind, log_message }
    }

    /// Tells that the build made a release.
    pub async fn succeed(&self, release: &Release) {
        if release.status == ReleaseStatus::Pending {
            self.output.write(text::RELEASE_COMMAND_DECLARED).await;
        }
        let web_url = (self.service.parts().web_url)(&self.app.name);
        self.output.write(text::released(release.version, &web_url)).await;
    }

    /// Writes down that the build failed, and tells why; whether the same version was built before.
    pub async fn fail(&self, error: &BuildError) -> bool {
        if error.is_internal() {
            tracing::error!("build {} of {}: {:#}", self.build_id, self.app.name, chain(error));
        } else {
            tracing::info!("build {} of {}: {error}", self.build_id, self.app.name);
        }
        let store = &self.service.parts().store;
        let now = now_ms();
        let built_before = match &self.code.version {
            Some(version) => builds::was_built(store, self.app.id, version).await.unwrap_or(false),
            None => false,
        };
        let written: Result<(), StoreError> = async {
            write!(store, tx => {
                builds::finish(&mut tx, self.build_id, &Outcome::Failed, now).await?;
                let message = Some(text::LOG_FAILED.to_owned());
                events::append(&mut tx, self.event("build.fail", message), now).await?;
                Ok(())
            })
        }
        .await;
        match written {
            Ok(()) => (self.service.parts().changed)(self.app.id),
            // The build's row may be what could not be written; the next start fails what is pending.
            Err(why) => tracing::warn!("cannot write down that build {} failed: {why}", self.build_id),
        }
        self.output.write(error.text()).await;
        built_before
    }
}

async fn write_build(
    store: &ferroku_store::Store,
    build: &Build,
    app: &App,
    actor: &Actor,
    now: i64,
) -> Result<(), StoreError> {
    write!(store, tx => {
        limits::check_build(&mut tx, app.owner_id).await?;
        builds::create(&mut tx, build).await?;
        let log_message = Some("Build started".to_owned());
        let event = NewEvent { app_id: Some(build.app_id), actor, kind: "build.create", log_message };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
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

/// Of the vars that buildpacks ask for, those that the app does not have and may have.
fn missing_vars(wanted: &ConfigVars, present: &ConfigVars) -> ConfigChange {
    let missing: ConfigPatch = wanted
        .iter()
        .filter(|(name, _)| !present.contains_key(*name))
        .filter(|(name, value)| {
            let patch = ConfigPatch::from([((*name).clone(), Some((*value).clone()))]);
            ferroku_core::config_var::apply(present, &patch).is_ok()
        })
        .map(|(name, value)| (name.clone(), Some(value.clone())))
        .collect();
    if missing.is_empty() { ConfigChange::Keep } else { ConfigChange::Patch(missing) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buildpacks_config_vars_never_replace_the_users() {
        let vars = |list: &[(&str, &str)]| -> ConfigVars {
            list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let present = vars(&[("WEB_CONCURRENCY", "9")]);
        let wanted = vars(&[("WEB_CONCURRENCY", "1"), ("LANG", "C"), ("not a name", "x")]);
        let ConfigChange::Patch(patch) = missing_vars(&wanted, &present) else { panic!("one is missing") };
        assert_eq!(patch, ConfigPatch::from([("LANG".to_owned(), Some("C".to_owned()))]));
        assert_eq!(missing_vars(&present, &present), ConfigChange::Keep);
    }
}
