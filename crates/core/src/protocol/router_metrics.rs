//! What a router counts, for the Prometheus endpoint and the dashboard.
//!
//! Out: sent every 5 s while a control is connected. Counters only rise within one `instance`; a reader that sees
//! another instance starts a new series.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::AppId;

/// Upper bounds of the latency histogram's buckets, inclusive, in milliseconds; one more bucket has no bound.
/// Prometheus' default bounds, and Heroku's 30 s for a first byte.
pub const LATENCY_BOUNDS_MS: [u64; 13] =
    [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];

/// Everything since this run of the router began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsReport {
    pub instance: u64,
    /// Clients' connections that are open now.
    pub open_connections: u64,
    /// Clients' connections in all.
    pub accepted_connections: u64,
    /// Apps that had a request.
    #[serde(default)]
    pub apps: Vec<AppMetrics>,
}

/// One app's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppMetrics {
    pub app_id: AppId,
    /// Requests that have arrived and not ended.
    pub open_requests: u64,
    /// Ended requests by the class of the logged status: 1xx, 2xx, 3xx, 4xx, 5xx. A forced close has none.
    pub statuses: [u64; 5],
    /// Ended requests by H code; those without one are not here.
    #[serde(default)]
    pub failures: BTreeMap<String, u64>,
    /// Ended requests by the time from arrival to end: not cumulative, a count for each of
    /// [`LATENCY_BOUNDS_MS`] and one for what took longer.
    pub latency_counts: Vec<u64>,
    /// Of all ended requests.
    pub latency_sum_ms: u64,
    /// Bodies of requests.
    pub bytes_in: u64,
    /// Bodies of responses.
    pub bytes_out: u64,
}
