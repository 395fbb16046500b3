//! How many requests somebody may make: a bucket of tokens that fills up again with time.
//!
//! Buckets are in memory: a restart of control fills them. One that is full says nothing, so that there are only as many as
//! there were busy ones within the hour.

use ferroku_core::Millis;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Requests that an account may make in an hour, and at once after a quiet hour; 75 come back each minute. Source:
/// <https://devcenter.heroku.com/articles/platform-api-reference#rate-limits>.
pub const REQUESTS_PER_HOUR: i64 = 4_500;
/// Pushes and fetches of an account to one app. Source: <https://devcenter.heroku.com/articles/git#additional-resources>.
pub const GIT_REQUESTS_PER_HOUR: i64 = 75;
const HOUR_MS: Millis = 3_600_000;
/// When there are so many buckets, those that are full are dropped.
const MANY_BUCKETS: usize = 10_000;

/// The buckets of all that are limited alike.
#[derive(Debug)]
pub struct RateLimits<K> {
    per_hour: i64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Tokens times [`HOUR_MS`], so that parts of a token are not lost.
    level: i64,
    at: Millis,
}

impl<K: Eq + Hash> RateLimits<K> {
    /// So many in an hour.
    pub fn new(per_hour: i64) -> Self {
        Self { per_hour, buckets: Mutex::default() }
    }

    /// Takes one token and gives how many are left, or None when there was none.
    pub fn spend(&self, key: K, now: Millis) -> Option<i64> {
        self.change(key, now, HOUR_MS)
    }

    /// How many tokens are left.
    pub fn remaining(&self, key: K, now: Millis) -> i64 {
        self.change(key, now, 0).unwrap_or(0)
    }

    fn change(&self, key: K, now: Millis, cost: i64) -> Option<i64> {
        let full = self.per_hour * HOUR_MS;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MANY_BUCKETS && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| self.filled(*bucket, now).level < full);
        }
        let bucket = buckets.entry(key).or_insert(Bucket { level: full, at: now });
        *bucket = self.filled(*bucket, now);
        if bucket.level < cost {
            return None;
        }
        bucket.level -= cost;
        Some(bucket.level / HOUR_MS)
    }

    /// The bucket with what has come back until `now`. A clock that was set back gives nothing away.
    fn filled(&self, bucket: Bucket, now: Millis) -> Bucket {
        let elapsed_ms = (now - bucket.at).clamp(0, HOUR_MS);
        Bucket { level: (bucket.level + elapsed_ms * self.per_hour).min(self.per_hour * HOUR_MS), at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_refuses_and_fills_up_again() {
        let limits = RateLimits::new(REQUESTS_PER_HOUR);
        assert_eq!(limits.spend(1, 0), Some(REQUESTS_PER_HOUR - 1));
        for _ in 1..REQUESTS_PER_HOUR {
            limits.spend(1, 0);
        }
        assert_eq!(limits.spend(1, 0), None);
        assert_eq!(limits.spend(2, 0), Some(REQUESTS_PER_HOUR - 1));
        assert_eq!(limits.spend(1, 799), None);
        assert_eq!(limits.spend(1, 800), Some(0), "75 come back in a minute");
        assert_eq!(limits.remaining(1, 800 + HOUR_MS), REQUESTS_PER_HOUR);
        assert_eq!(limits.remaining(1, 0), REQUESTS_PER_HOUR, "a clock set back gives nothing away");
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten_and_no_others() {
        let limits = RateLimits::new(GIT_REQUESTS_PER_HOUR);
        for _ in 0..GIT_REQUESTS_PER_HOUR {
            limits.spend(0, HOUR_MS);
        }
        for key in 1..2 * MANY_BUCKETS {
            limits.remaining(key, HOUR_MS);
        }
        assert!(limits.buckets.lock().expect("ours").len() <= MANY_BUCKETS);
        assert_eq!(limits.spend(0, HOUR_MS), None, "who is limited stays so");
    }
}
