//! Cycling: each dyno is replaced once it has been there for a day, and a little longer by its id, so that those of
//! one deploy do not all go at once.
//!
//! Source: Heroku's "Automatic dyno restarts": 24 hours plus up to 216 minutes.

use crate::{DynoId, Millis};

/// How much later than due a dyno may be cycled, in percent of its time: Heroku's 216 minutes of a day.
const JITTER_PERCENT: Millis = 15;

/// When a dyno is to be cycled. Ids are random, which spreads the dynos; also those that were due already when somebody
/// began to watch, at `watched_since`.
pub(super) fn cycle_at(
    dyno_id: DynoId,
    created_at: Millis,
    after_ms: Millis,
    watched_since: Millis,
) -> Millis {
    let spread = (after_ms * JITTER_PERCENT / 100).max(0) as u128;
    let later = (dyno_id.0.as_u128() % (spread + 1)) as Millis;
    (created_at + after_ms).max(watched_since) + later
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn dynos_of_one_moment_are_cycled_over_216_minutes() {
        const MINUTE_MS: Millis = 60_000;
        let mut seen = [0; 6];
        for number in 0..600_u128 {
            // As random as an id is.
            let id = DynoId(Uuid::from_u128(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)));
            let late = cycle_at(id, 7, 24 * 60 * MINUTE_MS, 0) - 7 - 24 * 60 * MINUTE_MS;
            assert!((0..=216 * MINUTE_MS).contains(&late), "{late}");
            let overdue = 1_000 * 60 * MINUTE_MS;
            assert_eq!(late, cycle_at(id, 7, 24 * 60 * MINUTE_MS, overdue) - overdue, "spread as well");
            seen[((late * 6 / (216 * MINUTE_MS)) as usize).min(5)] += 1;
        }
        assert!(seen.iter().all(|count| (50..=150).contains(count)), "{seen:?}");
    }
}
