//! Which release gets the requests while one replaces another.
//!
//! Invariant: a client that was answered by a release is not answered by the one before it again, as long as
//! dynos do not crash. So all requests go to one release, and to the next only when it can carry them.

use std::collections::BTreeMap;

/// The release whose dynos get requests, of those that serve (`serving`: the release of each healthy web dyno).
/// `None`: all of them do, because none is healthy or because a formation of `max_surge` or more is replaced
/// one dyno after the other.
pub fn serving_release(serving: impl Iterator<Item = i64>, quantity: u32, max_surge: u32) -> Option<i64> {
    if quantity >= max_surge {
        return None;
    }
    let mut counts: BTreeMap<i64, u32> = BTreeMap::new();
    for version in serving {
        *counts.entry(version).or_default() += 1;
    }
    let complete = counts.iter().rev().find(|(_, count)| **count >= quantity);
    // None is complete after a scale-up or a crash: the largest, the newest of equal ones.
    let chosen = complete.or_else(|| counts.iter().max_by_key(|(version, count)| (**count, **version)));
    chosen.map(|(version, _)| *version)
}

#[cfg(test)]
mod tests {
    use super::serving_release;

    #[test]
    fn the_newest_release_that_can_carry_the_requests_gets_them() {
        for (serving, quantity, expected) in [
            (&[][..], 2, None),
            (&[3, 3], 2, Some(3)),
            (&[3, 3, 4], 2, Some(3)),
            (&[3, 3, 4, 4], 2, Some(4)),
            (&[3, 4, 4], 2, Some(4)),
            (&[3, 4], 2, Some(4)),
            (&[3, 3, 4], 5, Some(3)),
            (&[3, 4], 0, Some(4)),
            (&[3, 4], 10, None),
        ] {
            assert_eq!(serving_release(serving.iter().copied(), quantity, 10), expected, "{serving:?}");
        }
    }
}
