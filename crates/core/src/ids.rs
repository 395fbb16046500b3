//! Newtypes for ids, so that an app's id cannot be passed where a release's is meant.
//!
//! Each is a lower-case hyphenated UUID in the database and on the wire.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    )*};
}

ids! {
    /// A person's account.
    AccountId,
    /// An app.
    AppId,
    /// An app on its way from one account to another.
    AppTransferId,
    /// An OAuth authorization: what an API key belongs to.
    AuthorizationId,
    /// A login in a browser.
    BrowserSessionId,
    /// A build.
    BuildId,
    /// One immutable set of config vars, shared by all releases that have exactly it.
    ConfigSnapshotId,
    /// A custom domain.
    DomainId,
    /// A dyno: one run of one process. `web.1` is only its label.
    DynoId,
    /// A row of the event table.
    EventId,
    /// A process type of an app and how many of it should run.
    FormationId,
    /// An OAuth client.
    OauthClientId,
    /// An app in a pipeline.
    PipelineCouplingId,
    /// A pipeline.
    PipelineId,
    /// A promotion.
    PipelinePromotionId,
    /// An app that a promotion goes to.
    PipelinePromotionTargetId,
    /// A release.
    ReleaseId,
    /// A slug.
    SlugId,
    /// A certificate with its private key.
    SniEndpointId,
    /// A source archive that a client uploads.
    SourceId,
    /// An SSH key of an account.
    SshKeyId,
    /// A team.
    TeamId,
}
