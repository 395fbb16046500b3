//! What the router counts, for control.
//!
//! In: every record on its way to the outbox, so that counting costs the workers nothing. Out: a report of all
//! counters since the router began. Apps that the table no longer names are forgotten.

use std::collections::HashMap;

use ferroku_core::AppId;
use ferroku_core::protocol::router::{AppMetrics, LATENCY_BOUNDS_MS, MetricsReport};

use crate::exchange::PendingRecord;
use crate::shared::Shared;

/// Buckets of the histogram: one for each bound and one for what took longer.
const BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;

/// The numbers of one request that has ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// As logged; 0 for none.
    pub status: u16,
    /// The H code; empty for none.
    pub code: &'static str,
    /// From arrival to end.
    pub took_ms: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Every app's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    apps: HashMap<AppId, Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    statuses: [u64; 5],
    failures: HashMap<&'static str, u64>,
    latency_counts: [u64; BUCKETS],
    latency_sum_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Metrics {
    /// Takes in records that are about to be sent.
    pub fn count(&mut self, records: &[PendingRecord]) {
        for PendingRecord { app_id, sample, .. } in records {
            self.apps.entry(*app_id).or_default().add(sample);
        }
    }

    /// Everything until now. Forgets apps that are not in the table.
    pub fn report(&mut self, instance: u64, shared: &Shared) -> MetricsReport {
        let table = shared.table.load();
        let mut open: HashMap<AppId, u64> = HashMap::new();
        if let Some(table) = table.as_ref() {
            open.extend(table.apps().map(|app| (app.id(), app.state.open() as u64)));
            self.apps.retain(|app_id, _| open.contains_key(app_id));
        }
        let idle = Counters::default();
        let mut apps: Vec<AppMetrics> = open
            .iter()
            .filter(|(app_id, open)| **open > 0 || self.apps.contains_key(app_id))
            .map(|(app_id, open)| self.apps.get(app_id).unwrap_or(&idle).of(*app_id, *open))
            .collect();
        apps.sort_by_key(|app| app.app_id);
        MetricsReport {
            instance,
            open_connections: shared.connections() as u64,
            accepted_connections: shared.accepted(),
            apps,
        }
    }
}

impl Counters {
    fn add(&mut self, sample: &Sample) {
        if let Some(class) = self.statuses.get_mut(usize::from(sample.status / 100).wrapping_sub(1)) {
            *class += 1;
        }
        if !sample.code.is_empty() {
            *self.failures.entry(sample.code).or_default() += 1;
        }
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < sample.took_ms);
        self.latency_counts[bucket] += 1;
        self.latency_sum_ms += sample.took_ms;
        self.bytes_in += sample.bytes_in;
        self.bytes_out += sample.bytes_out;
    }

    fn of(&self, app_id: AppId, open_requests: u64) -> AppMetrics {
        AppMetrics {
            app_id,
            open_requests,
            statuses: self.statuses,
            failures: self.failures.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect(),
            latency_counts: self.latency_counts.to_vec(),
            latency_sum_ms: self.latency_sum_ms,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_the_last_bucket_has_none() {
        let mut counters = Counters::default();
        for took_ms in [0, 1, 2, 30_000, 30_001, 1_000_000] {
            counters.add(&Sample { took_ms, status: 200, ..Sample::default() });
        }
        assert_eq!((counters.latency_counts[0], counters.latency_counts[1]), (2, 1));
        assert_eq!((counters.latency_counts[BUCKETS - 2], counters.latency_counts[BUCKETS - 1]), (1, 2));
        assert_eq!(counters.statuses, [0, 6, 0, 0, 0]);
        counters.add(&Sample { status: 0, code: "H24", ..Sample::default() });
        assert_eq!((counters.statuses, counters.failures["H24"]), ([0, 6, 0, 0, 0], 1));
    }
}
