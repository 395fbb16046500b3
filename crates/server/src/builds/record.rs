//! What a build writes down: its row as it begins, and slug, release and event in one transaction as it ends.

use super::deploy::{ARCHIVE_JOB, Attempt, Built, chain};
use super::error::BuildError;
use super::text;
use crate::crash_point;
use crate::node::now_ms;
use ferroku_core::app::App;
use ferroku_core::build::{Build, BuildStatus};
use ferroku_core::config_var::{ConfigPatch, ConfigVars};
use ferroku_core::event::Actor;
use ferroku_core::release::{Release, ReleaseStatus, deploy_description};
use ferroku_core::slug::Slug;
use ferroku_core::{ReleaseId, SlugId};
use ferroku_store::builds::Outcome;
use ferroku_store::events::{self, NewEvent};
use ferroku_store::releases::{ConfigChange, NewRelease, SlugChange};
use ferroku_store::{StoreError, buildpack_installations, builds, jobs, limits, releases, slugs, write};
use uuid::Uuid;

impl Attempt {
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

    /// The deploy's one transaction.
    pub(super) async fn commit(&self, built: &Built) -> Result<Release, StoreError> {
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
