//! Dynos: one run of one process each.

use crate::{AppId, DynoId, Millis, ReleaseId};
use serde::{Deserialize, Serialize};

/// Why a dyno exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DynoKind {
    /// Wanted by the formation: `web.1`.
    Formation,
    /// `heroku run`: `run.1234`.
    Run,
    /// The release phase: `release.1234`.
    Release,
}

/// A dyno's state, as the API names it, and `Complete` for a one-off that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DynoState {
    /// Written down; nothing started yet.
    Created,
    Starting,
    Up,
    Crashed,
    Idle,
    Down,
    /// A one-off that ended. Rows in this state are history.
    Complete,
}

/// A dyno as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dyno {
    pub id: DynoId,
    pub app_id: AppId,
    pub kind: DynoKind,
    /// `web`, `worker`, `run` ...
    pub process_type: String,
    /// The number behind the dot; `web.1` is unique among dynos that are not retiring.
    pub ordinal: u32,
    pub release_id: ReleaseId,
    pub release_version: i64,
    pub restart_generation: i64,
    pub size: String,
    pub command: String,
    pub state: DynoState,
    /// Set once it is to go and never unset: its replacement may take its label.
    pub retired_at: Option<Millis>,
    /// `address:port` that the router reaches it at; web dynos only.
    pub address: Option<String>,
    pub exit_status: Option<i32>,
    pub created_at: Millis,
    /// Time of the last state change.
    pub updated_at: Millis,
}

impl Dyno {
    /// The label, such as `web.1`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.process_type, self.ordinal)
    }
}
