//! `/apps/X/dynos`.

use crate::Timestamp;
use crate::dyno_size;
use crate::reference::Named;
use ferroku_core::app::App;
use ferroku_core::dyno::{Dyno as Stored, DynoState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A dyno.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dyno {
    pub app: Named,
    /// Where to attach to a one-off dyno, told once to whoever started it.
    pub attach_url: Option<String>,
    pub command: String,
    pub created_at: Timestamp,
    pub id: Uuid,
    pub name: String,
    pub release: Release,
    /// As printed: `Basic`, `Standard-1X`.
    pub size: String,
    /// `crashed`, `down`, `idle`, `starting` or `up`, or what it waits for.
    pub state: String,
    #[serde(rename = "type")]
    pub process_type: String,
    /// Time of the last state change.
    pub updated_at: Timestamp,
}

/// The release a dyno runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub id: Uuid,
    pub version: i64,
}

/// Body of `POST /apps/X/dynos`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Create {
    pub command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<bool>,
    /// Values may be strings or numbers (`COLUMNS`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_no_tty: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub process_type: Option<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_live: Option<i64>,
}

impl Dyno {
    /// The dyno as the API shows it.
    pub fn new(dyno: &Stored, app: &App, attach_url: Option<String>) -> Self {
        Self {
            app: Named::app(app),
            attach_url,
            command: dyno.command.clone(),
            created_at: dyno.created_at.into(),
            id: dyno.id.0,
            name: dyno.name(),
            release: Release { id: dyno.release_id.0, version: dyno.release_version },
            size: dyno_size::reference(&dyno.size).name,
            state: state(dyno.state).to_owned(),
            process_type: dyno.process_type.clone(),
            updated_at: dyno.updated_at.into(),
        }
    }
}

/// Heroku's name for a state; one that the API does not know is told by the nearest that it does.
fn state(state: DynoState) -> &'static str {
    match state {
        DynoState::Created | DynoState::Starting => "starting",
        DynoState::Up => "up",
        DynoState::Crashed => "crashed",
        DynoState::Idle => "idle",
        DynoState::Down | DynoState::Complete => "down",
    }
}
