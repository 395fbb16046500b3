//! Automatic certificate management: when to order a certificate, and when to try again.
//!
//! Pure: callers give times in milliseconds since the Unix epoch. Sources: Let's Encrypt's integration guide (renew
//! when a third of the lifetime is left) and its rate limits (5 failed validations per account, host name and hour).

use crate::Millis;

const MINUTE_MS: Millis = 60 * 1000;
/// How long to wait after each failed attempt. Together they stay below 5 failures an hour.
const RETRY_MS: [Millis; 5] = [MINUTE_MS, 5 * MINUTE_MS, 30 * MINUTE_MS, 60 * MINUTE_MS, 3 * 60 * MINUTE_MS];
/// A domain whose attempts have all failed is looked at again after a day: its DNS may have been put right.
const AFTER_GIVING_UP_MS: Millis = 24 * 60 * MINUTE_MS;

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    TryAgainAt(Millis),
    /// Until this time, or until somebody asks.
    GiveUpUntil(Millis),
}

/// What to do after attempt number `attempts` (from 1) has failed.
pub fn after_failure(attempts: i64, now: Millis) -> AfterFailure {
    let index = usize::try_from(attempts - 1).unwrap_or(0);
    match RETRY_MS.get(index) {
        Some(wait_ms) => AfterFailure::TryAgainAt(now + wait_ms),
        None => AfterFailure::GiveUpUntil(now + AFTER_GIVING_UP_MS),
    }
}

/// When a certificate that is good from `starts_at` to `expires_at` is to be replaced.
pub fn renew_at(starts_at: Millis, expires_at: Millis) -> Millis {
    expires_at - (expires_at - starts_at) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stay_below_the_authoritys_limit() {
        let mut now = 0;
        let mut failed_at = Vec::new();
        let mut attempts = 0;
        loop {
            attempts += 1;
            failed_at.push(now);
            match after_failure(attempts, now) {
                AfterFailure::TryAgainAt(at) => now = at,
                AfterFailure::GiveUpUntil(at) => {
                    assert_eq!(at - now, 24 * 60 * MINUTE_MS);
                    break;
                }
            }
        }
        assert_eq!(failed_at.len(), 6);
        for (index, at) in failed_at.iter().enumerate() {
            let within = failed_at[index..].iter().filter(|other| **other - at < 60 * MINUTE_MS).count();
            assert!(within < 5, "{within} failures within an hour");
        }
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
        let day = 24 * 60 * MINUTE_MS;
        assert_eq!(renew_at(0, 90 * day), 60 * day);
        assert_eq!(renew_at(0, 6 * day), 4 * day);
    }
}
