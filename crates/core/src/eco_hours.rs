//! Eco hours: how long an account's eco dynos have been awake in a month, and what is left of what they may.
//!
//! In: stretches of time in which a dyno was awake, in wall-clock time. Out: how much of each counts for which month, and
//! how an account stands. Months are those of UTC.
//!
//! Whoever counts does so every few minutes ([`COUNT_EVERY_MS`]), so a stretch is short; one that is longer than
//! [`MOST_AT_ONCE_MS`] is a clock that was set forward, or a machine that was off, and counts for no more than that.
//!
//! Source: Heroku Dev Center, "Eco Dyno Hours".

use crate::Millis;
use jiff::civil::date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// How often the time of dynos that are awake is counted, in milliseconds: what a jump of the clock can hide.
pub const COUNT_EVERY_MS: Millis = 10 * 60 * 1000;
/// Most that one stretch counts for, in milliseconds: several counts that failed.
pub const MOST_AT_ONCE_MS: Millis = 60 * 60 * 1000;

/// A month of UTC, written as 202612.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(pub i64);

/// How an account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub quota_ms: Millis,
    pub used_ms: Millis,
    /// How many of its eco dynos are awake.
    pub awake: u32,
}

// === impl Month ===

impl Month {
    /// The month of this time.
    pub fn of(at: Millis) -> Self {
        let at = utc(at);
        Self(i64::from(at.year()) * 100 + i64::from(at.month()))
    }

    /// When the month after this time's begins.
    pub fn end(at: Millis) -> Millis {
        let at = utc(at);
        let (year, month) = if at.month() == 12 { (at.year() + 1, 1) } else { (at.year(), at.month() + 1) };
        let begin = date(year, month, 1).to_zoned(TimeZone::UTC);
        begin.map_or(Millis::MAX, |begin| begin.timestamp().as_millisecond())
    }
}

/// A time that no calendar has is the calendar's first.
fn utc(at: Millis) -> Zoned {
    Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC)
}

// === impl Standing ===

impl Standing {
    /// Whether nothing is left.
    pub fn is_used_up(&self) -> bool {
        self.used_ms >= self.quota_ms
    }

    /// How long what is left lasts if nothing changes; `None`: for ever, or it is used up.
    pub fn lasts_ms(&self) -> Option<Millis> {
        let left = self.quota_ms - self.used_ms;
        // Rounded up, so that it is used up then.
        (left > 0 && self.awake > 0).then(|| (left - 1) / Millis::from(self.awake) + 1)
    }
}

/// What a stretch in which a dyno was awake counts for: its last part, if it is too long; nothing, if the clock went back.
pub fn count(from: Millis, to: Millis) -> Vec<(Month, Millis)> {
    let mut from = from.max(to.saturating_sub(MOST_AT_ONCE_MS));
    let mut counted = Vec::new();
    while from < to {
        let until = Month::end(from).min(to);
        counted.push((Month::of(from), until - from));
        from = until;
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Millis = 3_600_000;

    fn at(text: &str) -> Millis {
        text.parse::<Timestamp>().expect("a time").as_millisecond()
    }

    #[test]
    fn time_counts_for_the_month_that_it_falls_into() {
        let (november, december, january) = (Month(202611), Month(202612), Month(202701));
        for (from, to, expected) in [
            ("2026-11-22T10:00:00Z", "2026-11-22T10:00:01Z", vec![(november, 1_000)]),
            ("2026-11-30T23:50:00Z", "2026-12-01T00:10:00Z", vec![(november, 600_000), (december, 600_000)]),
            ("2026-12-31T23:59:59Z", "2027-01-01T00:00:01Z", vec![(december, 1_000), (january, 1_000)]),
            ("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z", vec![]),
            ("2026-11-22T10:00:00Z", "2026-11-22T09:00:00Z", vec![]),
            // The clock jumped, or the machine was off.
            ("2026-11-22T10:00:00Z", "2026-11-29T10:00:00Z", vec![(november, HOUR)]),
            (
                "2026-11-01T00:00:00Z",
                "2026-12-01T00:30:00Z",
                vec![(november, HOUR / 2), (december, HOUR / 2)],
            ),
        ] {
            assert_eq!(count(at(from), at(to)), expected, "{from} {to}");
        }
    }

    #[test]
    fn what_is_left_is_shared_by_those_that_are_awake() {
        for (quota_ms, used_ms, awake, used_up, lasts) in [
            (1000 * HOUR, 0, 0, false, None),
            (1000 * HOUR, 0, 2, false, Some(500 * HOUR)),
            (1000, 999, 3, false, Some(1)),
            (1000, 0, 3, false, Some(334)),
            (1000, 1000, 3, true, None),
            (1000, 5000, 0, true, None),
            (0, 0, 1, true, None),
        ] {
            let standing = Standing { quota_ms, used_ms, awake };
            assert_eq!((standing.is_used_up(), standing.lasts_ms()), (used_up, lasts), "{standing:?}");
        }
    }

    proptest! {
        /// However often it is counted, no time is lost, none counts twice, and none for another month.
        #[test]
        fn counting_in_parts_gives_the_whole(
            begin in 0..4_000_000_000_000i64,
            steps in prop::collection::vec(0..=MOST_AT_ONCE_MS, 1..20),
        ) {
            let mut now = begin;
            let mut counted = std::collections::BTreeMap::new();
            for step in steps {
                for (month, ms) in count(now, now + step) {
                    prop_assert!(ms > 0);
                    *counted.entry(month).or_insert(0) += ms;
                }
                now += step;
            }
            prop_assert_eq!(counted.values().sum::<Millis>(), now - begin);
            for month in counted.keys() {
                prop_assert!((Month::of(begin)..=Month::of(now)).contains(month));
            }
        }
    }
}
