//! App features: switches of how the node treats an app.
//!
//! `http-session-affinity` and `runtime-heroku-exec` are Heroku's own; the others have names in its manner, because Heroku has no such switch.

use crate::Millis;

/// A feature that every app has, on or off.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub display_name: &'static str,
    pub description: &'static str,
    /// A page, or a file of this repository.
    pub doc_url: &'static str,
    /// `general` ones are shown by `heroku features`, others by `heroku labs`.
    pub state: &'static str,
}

/// Requests of a client go to the same dyno while it lives.
pub const SESSION_AFFINITY: &str = "http-session-affinity";
/// Plain HTTP requests are answered with a redirect to https.
pub const HTTPS_REDIRECT: &str = "http-redirect-to-https";
/// The router speaks HTTP/2 (prior knowledge, no TLS) to the dynos: what gRPC needs.
pub const END_TO_END_HTTP2: &str = "http-end-to-end-http2";

/// `heroku ps:exec` and its like may be used.
pub const EXEC: &str = "runtime-heroku-exec";

/// The app is frozen while nobody asks for it, whatever the size of its dynos.
pub const SLEEP_WHEN_IDLE: &str = "sleep-when-idle";

/// Every feature, by name.
pub const FEATURES: [Feature; 5] = [
    Feature {
        name: END_TO_END_HTTP2,
        display_name: "End-to-end HTTP/2",
        description: "Speak HTTP/2 to the app, without TLS and from the first byte, as gRPC servers want it",
        doc_url: "docs/domains-and-certificates.md#app-features",
        state: "beta",
    },
    Feature {
        name: HTTPS_REDIRECT,
        display_name: "Redirect to HTTPS",
        description: "Answer plain HTTP requests with a redirect to https",
        doc_url: "docs/domains-and-certificates.md#app-features",
        state: "general",
    },
    Feature {
        name: SESSION_AFFINITY,
        display_name: "Session affinity",
        description: "Enable session affinity for all requests",
        doc_url: "https://devcenter.heroku.com/articles/session-affinity",
        state: "general",
    },
    Feature {
        name: EXEC,
        display_name: "Heroku Exec",
        description: "Take SSH sessions into running dynos (ps:exec, ps:copy, ps:forward, ps:socks)",
        doc_url: "docs/inside-a-dyno.md#by-ssh",
        state: "general",
    },
    Feature {
        name: SLEEP_WHEN_IDLE,
        display_name: "Sleep when idle",
        description: "Put the app to sleep when nobody asks for it, as eco dynos do, and wake it at the next request",
        doc_url: "docs/sleep.md",
        state: "general",
    },
];

/// Whether one feature is on for an app; only those that were ever switched are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppFeature {
    pub name: String,
    pub enabled: bool,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// The feature of this name.
pub fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

/// Whether `name` is on.
pub fn is_enabled(switched: &[AppFeature], name: &str) -> bool {
    switched.iter().any(|feature| feature.name == name && feature.enabled)
}
