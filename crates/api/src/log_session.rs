//! `POST /apps/X/log-sessions`.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A log session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSession {
    pub created_at: Timestamp,
    pub id: Uuid,
    /// Plain text, or server-sent events when asked with `Accept: text/event-stream`. Holds its own secret.
    pub logplex_url: String,
    pub updated_at: Timestamp,
}

/// Body of `POST /apps/X/log-sessions`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Create {
    /// `web.1`, or `web` for all of that type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dyno: Option<String>,
    /// The older and the newer names of `dyno`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dyno_name: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub process_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<i64>,
    /// `app` or `heroku`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<bool>,
}
