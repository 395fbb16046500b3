//! Automatic certificate management: when to order a certificate, when to try again, and whose turn it is.
//!
//! Pure: callers give times in milliseconds since the Unix epoch. Sources: Let's Encrypt's integration guide (renew
//! when a third of the lifetime is left) and its rate limits (5 failed validations per account, host name and hour; 300
//! orders per account and three hours). All apps of a node share its account, so what one uses up the others lack.

use crate::{AppId, Millis};
use std::collections::HashMap;
use uuid::Uuid;

const MINUTE_MS: Millis = 60 * 1000;
/// How long to wait after each failed attempt. Together they stay below 5 failures an hour.
const RETRY_MS: [Millis; 5] = [MINUTE_MS, 5 * MINUTE_MS, 30 * MINUTE_MS, 60 * MINUTE_MS, 3 * 60 * MINUTE_MS];
/// A domain whose attempts have all failed is looked at again after a day: its DNS may have been put right.
const AFTER_GIVING_UP_MS: Millis = 24 * 60 * MINUTE_MS;
/// So many attempts may follow each other as fast as the user asks for them: DNS is being put right.
const FREE_ATTEMPTS: i64 = 3;
/// Later ones that the user asks for keep this distance; with the free ones that makes 5 an hour.
const ASKED_FOR_GAP_MS: Millis = 20 * MINUTE_MS;
/// How long an order counts against the authority's limit.
pub const ORDERS_WINDOW_MS: Millis = 3 * 60 * MINUTE_MS;
/// Orders of a node in that time: below Let's Encrypt's 300, of which the account may use some elsewhere.
const ORDERS_OF_NODE: usize = 250;
/// How many of these are kept for apps that have had none in that time.
const ORDERS_FOR_NEWCOMERS: usize = 50;
/// Orders of an app in that time: a shop with fifty domains gets all its certificates at once.
const ORDERS_OF_APP: usize = 60;
/// Orders of an app at once. One that fails takes minutes, and must not keep the others waiting.
const CONCURRENT_ORDERS_OF_APP: usize = 2;

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

/// When to try again, if the user asks for it, after `attempts` attempts of which the last ended at `last_at`.
pub fn when_asked_for(attempts: i64, last_at: Millis, now: Millis) -> Millis {
    match attempts < FREE_ATTEMPTS {
        true => now,
        false => now.max(last_at + ASKED_FOR_GAP_MS),
    }
}

/// A job that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueOrder {
    pub job_id: Uuid,
    pub app_id: AppId,
    /// It goes on with an order that the authority has taken already.
    pub is_begun: bool,
}

/// Whose turn it is: at most `free` jobs of `due` (longest due first). Those that go on with an order come first; then
/// the apps that have had the fewest orders. `recent`: orders of each app within [`ORDERS_WINDOW_MS`]. `running`: of each
/// app, now.
pub fn choose(
    due: &[DueOrder],
    recent: &HashMap<AppId, usize>,
    running: &HashMap<AppId, usize>,
    free: usize,
) -> Vec<Uuid> {
    let (mut recent, mut running) = (recent.clone(), running.clone());
    let mut ordered: usize = recent.values().sum();
    let mut left: Vec<DueOrder> = due.to_vec();
    let mut chosen = Vec::new();
    while chosen.len() < free {
        let count = |of: &HashMap<AppId, usize>, app_id| of.get(&app_id).copied().unwrap_or(0);
        let may = |order: &&DueOrder| {
            let had = count(&recent, order.app_id);
            let share = ORDERS_OF_NODE - if had == 0 { 0 } else { ORDERS_FOR_NEWCOMERS };
            count(&running, order.app_id) < CONCURRENT_ORDERS_OF_APP
                && (order.is_begun || (had < ORDERS_OF_APP && ordered < share))
        };
        // The first of those that are least, and so the one that is due for longest.
        let next =
            left.iter().filter(may).min_by_key(|order| (!order.is_begun, count(&recent, order.app_id)));
        let Some(next) = next.copied() else { break };
        left.retain(|order| order.job_id != next.job_id);
        *running.entry(next.app_id).or_default() += 1;
        if !next.is_begun {
            *recent.entry(next.app_id).or_default() += 1;
            ordered += 1;
        }
        chosen.push(next.job_id);
    }
    chosen
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
    fn a_user_who_asks_every_minute_stays_below_the_authoritys_limit() {
        let mut failed_at: Vec<Millis> = Vec::new();
        let (mut attempts, mut due) = (0, 0);
        for minute in 0..600 {
            let now = minute * MINUTE_MS;
            if attempts > 0 {
                due = due.min(when_asked_for(attempts, *failed_at.last().expect("one"), now));
            }
            if due <= now {
                attempts += 1;
                failed_at.push(now);
                due = match after_failure(attempts, now) {
                    AfterFailure::TryAgainAt(at) => at,
                    AfterFailure::GiveUpUntil(_) => {
                        // The domain gets another job when the user asks, as the store does it.
                        let at = when_asked_for(attempts, now, now);
                        attempts = 0;
                        at
                    }
                };
            }
        }
        assert_eq!(
            failed_at[..3],
            [0, MINUTE_MS, 2 * MINUTE_MS],
            "the first ones come as they are asked for"
        );
        for (index, at) in failed_at.iter().enumerate() {
            let within = failed_at[index..].iter().filter(|other| **other - at < 60 * MINUTE_MS).count();
            assert!(within <= 5, "{within} failures within an hour from {at}");
        }
    }

    fn app(number: u128) -> AppId {
        AppId(Uuid::from_u128(number))
    }

    fn due(count: u128, app_number: u128) -> Vec<DueOrder> {
        let order = |number| DueOrder {
            job_id: Uuid::from_u128(app_number * 10_000 + number),
            app_id: app(app_number),
            is_begun: false,
        };
        (0..count).map(order).collect()
    }

    #[test]
    fn no_app_keeps_another_waiting() {
        let none = HashMap::new();
        // A thousand domains of one app that were due before another's only one.
        let mut all = due(1000, 1);
        all.extend(due(1, 2));
        let chosen = choose(&all, &none, &none, 8);
        assert_eq!(chosen, [all[0].job_id, all[1000].job_id, all[1].job_id], "two at once of one app");
        let running = HashMap::from([(app(1), 2), (app(2), 1)]);
        assert_eq!(choose(&all, &none, &running, 8), [all[1000].job_id]);
        let recent = HashMap::from([(app(1), 59), (app(2), 3)]);
        assert_eq!(choose(&all, &recent, &none, 1), [all[1000].job_id], "the one that had fewer");
        assert!(choose(&all, &recent, &none, 0).is_empty());
    }

    #[test]
    fn an_authoritys_limit_is_not_used_up_by_those_who_had_enough() {
        let none = HashMap::new();
        let (greedy, other, newcomer) = (due(9, 1), due(9, 2), due(9, 3));
        let full = HashMap::from([(app(1), ORDERS_OF_APP)]);
        assert!(choose(&greedy, &full, &none, 9).is_empty());
        let mut busy = HashMap::from([(app(1), 55), (app(2), 55), (app(4), 55), (app(5), 35)]);
        let both = [greedy.clone(), other].concat();
        assert!(choose(&both, &busy, &none, 9).is_empty(), "what is left is for newcomers");
        assert_eq!(choose(&newcomer, &busy, &none, 9), [newcomer[0].job_id], "who then are none any more");
        busy.insert(app(6), 50);
        assert!(choose(&newcomer, &busy, &none, 9).is_empty(), "all is used up");
        let begun: Vec<DueOrder> =
            greedy.iter().take(1).map(|order| DueOrder { is_begun: true, ..*order }).collect();
        assert_eq!(choose(&begun, &busy, &none, 9), [begun[0].job_id], "what was ordered is fetched");
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
        let day = 24 * 60 * MINUTE_MS;
        assert_eq!(renew_at(0, 90 * day), 60 * day);
        assert_eq!(renew_at(0, 6 * day), 4 * day);
    }
}
