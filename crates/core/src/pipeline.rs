//! Pipelines: apps in stages. What runs in one stage is promoted to the next: the same slug, with the config vars and the
//! release command of the app that it comes to.
//!
//! Invariant: an app is in one pipeline at most.
//!
//! Source: Heroku's "Pipelines", and the Platform API's schema (names, stages, states).

use crate::release::ReleaseStatus;
use crate::{
    AccountId, AppId, Millis, PipelineCouplingId, PipelineId, PipelinePromotionId, PipelinePromotionTargetId,
    ReleaseId, TeamId,
};
use serde::{Deserialize, Serialize};

/// Most pipelines that an account or a team has: as many as it may have apps.
pub const MAX_PIPELINES: u64 = 100;
/// Most apps that one promotion goes to.
pub const MAX_TARGETS: usize = 50;
/// Length of a name, in characters.
const NAME_CHARACTERS: std::ops::RangeInclusive<usize> = 3..=30;

/// Where an app is in its pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Test,
    Review,
    Development,
    Staging,
    Production,
}

/// Whose a pipeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipelineOwner {
    User(AccountId),
    Team(TeamId),
}

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    pub id: PipelineId,
    pub name: String,
    pub owner: PipelineOwner,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// An app in a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupling {
    pub id: PipelineCouplingId,
    pub pipeline_id: PipelineId,
    pub pipeline_name: String,
    pub app_id: AppId,
    pub stage: Stage,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// What was promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    pub id: PipelinePromotionId,
    pub pipeline_id: PipelineId,
    pub source_app_id: AppId,
    pub source_release_id: ReleaseId,
    pub targets: Vec<Target>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// An app that it went to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub id: PipelinePromotionTargetId,
    pub app_id: AppId,
    /// What it released there, and how far that is.
    pub release: Option<(ReleaseId, Option<ReleaseStatus>)>,
    pub error_message: Option<String>,
}

/// How far a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetStatus {
    Pending,
    Succeeded,
    Failed,
}

/// What a promotion's target says when its release's command failed.
pub const COMMAND_FAILED: &str = "The release command failed.";

impl Target {
    /// How far it is: as far as its release.
    pub fn status(&self) -> TargetStatus {
        match (&self.error_message, self.release) {
            (Some(_), _) | (None, Some((_, Some(ReleaseStatus::Failed)))) => TargetStatus::Failed,
            (None, None | Some((_, Some(ReleaseStatus::Pending)))) => TargetStatus::Pending,
            // Its app, and the release with it, may be gone since; or its slug.
            (None, Some(_)) => TargetStatus::Succeeded,
        }
    }

    /// Why it failed, if it did.
    pub fn why_failed(&self) -> Option<&str> {
        let failed = self.status() == TargetStatus::Failed;
        failed.then(|| self.error_message.as_deref().unwrap_or(COMMAND_FAILED))
    }
}

impl Promotion {
    /// Whether every target is done.
    pub fn is_complete(&self) -> bool {
        self.targets.iter().all(|target| target.status() != TargetStatus::Pending)
    }
}

/// The description of the release that a promotion makes.
pub fn description(source_app: &str, version: i64, commit: Option<&str>) -> String {
    let commit: String = commit.unwrap_or_default().chars().take(8).collect();
    format!("Promote {source_app} v{version} {commit}").trim_end().to_owned()
}

/// Why a name cannot be a pipeline's.
///
/// # Errors
/// The rule, for its user.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    if plain && begins && NAME_CHARACTERS.contains(&name.len()) {
        return Ok(());
    }
    Err("Name must start with a letter, can only contain lowercase letters, numbers, and dashes, and is 3 to 30 characters long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_target_is_as_far_as_its_release() {
        let target = |release: Option<Option<ReleaseStatus>>, error: Option<&str>| Target {
            id: PipelinePromotionTargetId(Uuid::nil()),
            app_id: AppId(Uuid::nil()),
            release: release.map(|status| (ReleaseId(Uuid::nil()), status)),
            error_message: error.map(str::to_owned),
        };
        for (target, status, why) in [
            (target(None, None), TargetStatus::Pending, None),
            (target(None, Some("no")), TargetStatus::Failed, Some("no")),
            (target(Some(Some(ReleaseStatus::Pending)), None), TargetStatus::Pending, None),
            (target(Some(Some(ReleaseStatus::Failed)), None), TargetStatus::Failed, Some(COMMAND_FAILED)),
            (target(Some(Some(ReleaseStatus::Succeeded)), None), TargetStatus::Succeeded, None),
            (target(Some(Some(ReleaseStatus::Expired)), None), TargetStatus::Succeeded, None),
            (target(Some(None), None), TargetStatus::Succeeded, None),
        ] {
            assert_eq!((target.status(), target.why_failed()), (status, why), "{target:?}");
        }
    }

    #[test]
    fn names_are_herokus() {
        for good in ["abc", "my-pipe", "a12", &"a".repeat(30)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "ab", "1ab", "-ab", "Abc", "a b", "a_b", "é12", &"a".repeat(31)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(description("shop-staging", 7, Some("abcdef0123456")), "Promote shop-staging v7 abcdef01");
        assert_eq!(description("shop", 7, None), "Promote shop v7");
    }
}
