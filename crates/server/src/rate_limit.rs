//! How many requests an account may make: a bucket of tokens that fills up again with time.

use ferroku_core::{AccountId, Millis};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Requests that an account may make in an hour, and at once after a quiet hour. Ours: ten times Heroku's
/// 4,500, since a node serves few people; there to stop a client gone mad.
pub const REQUESTS_PER_HOUR: i64 = 45_000;
const HOUR_MS: Millis = 3_600_000;

/// The buckets of all accounts, in memory: a restart fills them.
#[derive(Debug, Default)]
pub struct RateLimits(Mutex<HashMap<AccountId, Bucket>>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Tokens times [`HOUR_MS`], so that parts of a token are not lost.
    level: i64,
    at: Millis,
}

impl RateLimits {
    /// Takes one token and gives how many are left, or None when there was none.
    pub fn spend(&self, account_id: AccountId, now: Millis) -> Option<i64> {
        self.change(account_id, now, HOUR_MS)
    }

    /// How many tokens are left.
    pub fn remaining(&self, account_id: AccountId, now: Millis) -> i64 {
        self.change(account_id, now, 0).unwrap_or(0)
    }

    fn change(&self, account_id: AccountId, now: Millis, cost: i64) -> Option<i64> {
        let full = REQUESTS_PER_HOUR * HOUR_MS;
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(account_id).or_insert(Bucket { level: full, at: now });
        let elapsed_ms = (now - bucket.at).clamp(0, HOUR_MS);
        bucket.level = (bucket.level + elapsed_ms * REQUESTS_PER_HOUR).min(full);
        bucket.at = now;
        if bucket.level < cost {
            return None;
        }
        bucket.level -= cost;
        Some(bucket.level / HOUR_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_bucket_empties_refuses_and_fills_up_again() {
        let limits = RateLimits::default();
        let account = AccountId(Uuid::from_u128(1));
        assert_eq!(limits.spend(account, 0), Some(REQUESTS_PER_HOUR - 1));
        for _ in 1..REQUESTS_PER_HOUR {
            limits.spend(account, 0);
        }
        assert_eq!(limits.spend(account, 0), None);
        assert_eq!(limits.spend(AccountId(Uuid::from_u128(2)), 0), Some(REQUESTS_PER_HOUR - 1));
        assert_eq!(limits.spend(account, 80), Some(0), "one token in 80 ms");
        assert_eq!(limits.remaining(account, 80 + HOUR_MS), REQUESTS_PER_HOUR);
        assert_eq!(limits.remaining(account, 0), REQUESTS_PER_HOUR, "a clock set back gives nothing away");
    }
}
