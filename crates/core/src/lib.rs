//! The domain of Ferroku, pure: types, rules, the planner.
//!
//! Nothing here does I/O, reads a clock or draws randomness: whoever calls
//! passes `now` (milliseconds since the Unix epoch) and ids. That is what lets
//! the planner run unchanged in a property test and in the control process.
//!
//! One module a noun, in Heroku's words; the same file name is used in
//! `ferroku-store` and in `ferroku-server`'s `api` folder.

pub mod account;
pub mod acm;
pub mod app;
pub mod app_feature;
pub mod app_transfer;
pub mod authorize;
pub mod browser_session;
pub mod build;
pub mod buildpack_installation;
pub mod collaborator;
pub mod config_var;
pub mod domain;
pub mod dyno;
pub mod dyno_size;
pub mod eco_hours;
pub mod event;
pub mod formation;
pub mod ids;
pub mod limits;
pub mod mailed_token;
pub mod oauth_authorization;
pub mod oauth_client;
pub mod pipeline;
pub mod planner;
pub mod procfile;
pub mod protocol;
pub mod release;
pub mod retention;
pub mod room;
pub mod slug;
pub mod sni_endpoint;
pub mod ssh_key;
pub mod team;
pub mod uids;

pub use ids::{
    AccountId, AppId, AppTransferId, AuthorizationId, BrowserSessionId, BuildId, ConfigSnapshotId, DomainId,
    DynoId, EventId, FormationId, OauthClientId, PipelineCouplingId, PipelineId, PipelinePromotionId,
    PipelinePromotionTargetId, ReleaseId, SlugId, SniEndpointId, SourceId, SshKeyId, TeamId,
};

/// Milliseconds since the Unix epoch. Every stored time has this unit.
pub type Millis = i64;
