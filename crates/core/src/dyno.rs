//! Dynos: one run of one process each.

use crate::{AppId, DynoId, Millis, ReleaseId};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// `$PORT` is drawn from these: five digits as on Heroku, and below the range from which the kernel takes
/// ports for outgoing connections, so that none of those is in the way.
pub const PORTS: RangeInclusive<u16> = 10_000..=32_000;
/// Numbers of one-off dynos, as Heroku draws them: `run.1234`.
pub const ONE_OFF_NUMBERS: RangeInclusive<u16> = 1_000..=9_999;

/// One of `numbers`, as `random` falls.
pub fn pick(numbers: &RangeInclusive<u16>, random: u32) -> u16 {
    let count = u32::from(numbers.end() - numbers.start()) + 1;
    // At most the distance of two u16s.
    numbers.start() + (random % count) as u16
}

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
    /// What its environment names `PORT`.
    pub port: Option<u16>,
    /// `address:port` that the router reaches it at; web dynos only.
    pub address: Option<String>,
    /// A one-off whose terminal or pipe a client is to attach to; it starts when the client comes.
    pub attached: bool,
    pub exit_status: Option<i32>,
    /// Set by a restart of this dyno alone.
    pub restart_requested_at: Option<Millis>,
    /// Set by `ps:stop`.
    pub stop_requested_at: Option<Millis>,
    /// Set once it is to go and never unset: its successor may take its label. It may still serve.
    pub retired_at: Option<Millis>,
    /// From then on it gets no new request.
    pub draining_at: Option<Millis>,
    /// When SIGTERM was sent.
    pub stopping_at: Option<Millis>,
    /// When its process was gone.
    pub ended_at: Option<Millis>,
    /// When a one-off is to be stopped.
    pub expires_at: Option<Millis>,
    pub created_at: Millis,
    /// Time of the last state change.
    pub updated_at: Millis,
}

impl Dyno {
    /// Whether the label is its own: not retiring, and not a past one-off.
    pub fn holds_label(&self) -> bool {
        self.retired_at.is_none() && self.state != DynoState::Complete
    }

    /// The label, such as `web.1`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.process_type, self.ordinal)
    }
}
