//! The numeric users of a node. None needs a row in the host's passwd file.

/// The router runs as this; the only uid that may reach a dyno's `$PORT`.
pub const ROUTER_UID: u32 = 199_998;
/// Git repositories belong to this, and `git http-backend` and its hooks run as it.
pub const GIT_UID: u32 = 199_999;
/// Slugs, build folders and build caches belong to this on disk; dynos see them through idmapped mounts.
pub const SLUG_UID: u32 = 200_000;
/// `uid_base` of the first app; app number n has `FIRST_APP_UID + n * APP_UIDS`.
pub const FIRST_APP_UID: u32 = 1_048_576;
/// How many uids an app has.
pub const APP_UIDS: u32 = 65_536;
/// The uid and gid of an app's processes inside its dynos.
pub const DYNO_UID: u32 = 1000;
