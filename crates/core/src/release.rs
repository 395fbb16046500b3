//! Releases: the ledger. A release is a slug plus a config snapshot, numbered from 1 per app.
//!
//! A slug whose process types include `release` has a release command: a release of it is pending until that command
//! has ended with status 0 in a one-off dyno of its own, and until then the app stays as it is.
//!
//! Invariants: versions have no gaps; a release never changes but for its status; the current release is the
//! newest that succeeded; at most one release of an app, its newest, is pending.
//!
//! Source: Heroku's "Release Phase".

use crate::{AccountId, AppId, ConfigSnapshotId, Millis, ReleaseId, SlugId};
use serde::{Deserialize, Serialize};

/// The first two releases of every app, as Heroku makes them.
pub const FIRST_DESCRIPTIONS: [&str; 2] = ["Initial release", "Enable Logplex"];

/// The process type whose command runs before a release takes effect.
pub const RELEASE: &str = "release";
/// How long a release command may take, in milliseconds. Heroku's limit.
pub const COMMAND_LIMIT_MS: Millis = 60 * 60 * 1000;

/// Where a release stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseStatus {
    Pending,
    Succeeded,
    Failed,
    Expired,
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub id: ReleaseId,
    pub app_id: AppId,
    pub version: i64,
    pub description: String,
    pub status: ReleaseStatus,
    /// None until the first deploy.
    pub slug_id: Option<SlugId>,
    pub config_snapshot_id: ConfigSnapshotId,
    pub account_id: AccountId,
    /// Label of the dyno that runs its release command, `release.1234`; None: it has none.
    pub command_dyno: Option<String>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl Release {
    /// Whether the app may go back to this release, given the one it is at: it succeeded, and going
    /// back would not take away the app's code.
    pub fn is_eligible_for_rollback(&self, current: Option<&Release>) -> bool {
        let app_has_code = current.is_some_and(|current| current.slug_id.is_some());
        self.status == ReleaseStatus::Succeeded && (self.slug_id.is_some() || !app_has_code)
    }
}

/// Description of the release that a deploy makes; `commit` may be of any length.
pub fn deploy_description(commit: &str) -> String {
    format!("Deploy {}", commit.chars().take(8).collect::<String>())
}

/// Description of the release that a rollback makes.
pub fn rollback_description(version: i64) -> String {
    format!("Rollback to v{version}")
}

/// What a client means by a release: its id, its number, or its number after a `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseRef {
    Id(ReleaseId),
    Version(i64),
}

impl ReleaseRef {
    /// Reads `3`, `v3` or an id; None for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(id) = text.parse() {
            return Some(Self::Id(id));
        }
        let digits = text.strip_prefix('v').unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse().ok().map(Self::Version) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn release(version: i64, slug: Option<u128>, status: ReleaseStatus) -> Release {
        Release {
            id: ReleaseId(Uuid::from_u128(version as u128)),
            app_id: AppId(Uuid::nil()),
            version,
            description: String::new(),
            status,
            slug_id: slug.map(|slug| SlugId(Uuid::from_u128(slug))),
            config_snapshot_id: ConfigSnapshotId(Uuid::nil()),
            account_id: AccountId(Uuid::nil()),
            command_dyno: None,
            created_at: 0,
            updated_at: 0,
        }
    }

    #[test]
    fn a_rollback_never_takes_away_the_code_nor_goes_to_what_failed() {
        use ReleaseStatus::{Expired, Failed, Pending, Succeeded};
        let with_code = release(9, Some(1), Succeeded);
        let without_code = release(9, None, Succeeded);
        for (slug, status, at_code, at_none) in [
            (Some(1), Succeeded, true, true),
            (None, Succeeded, false, true),
            (Some(1), Failed, false, false),
            (Some(1), Pending, false, false),
            (Some(1), Expired, false, false),
        ] {
            let target = release(3, slug, status);
            assert_eq!(target.is_eligible_for_rollback(Some(&with_code)), at_code, "{slug:?} {status:?}");
            assert_eq!(target.is_eligible_for_rollback(Some(&without_code)), at_none, "{slug:?} {status:?}");
        }
    }

    #[test]
    fn a_release_is_named_by_id_number_or_v_number() {
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(ReleaseRef::parse(id), Some(ReleaseRef::Id(id.parse().expect("an id"))));
        assert_eq!(ReleaseRef::parse("v12"), Some(ReleaseRef::Version(12)));
        assert_eq!(ReleaseRef::parse("12"), Some(ReleaseRef::Version(12)));
        for bad in ["", "v", "-1", "+1", "v-1", "1.0", "latest", "99999999999999999999"] {
            assert_eq!(ReleaseRef::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_deploy_is_described_by_eight_digits_of_its_commit() {
        assert_eq!(deploy_description("abcdef1234567890"), "Deploy abcdef12");
        assert_eq!(deploy_description("v1"), "Deploy v1");
    }
}
