//! What an account may take of a node, and when it is refused more.
//!
//! Limits are those of an app's owner, whoever acts. An admin trusts an account with more; the node's owner and its admins
//! have none but the node's own. To want less is always allowed, also for one who has too much.

use crate::account::Role;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// From this share of its disk space on, in percent, an account keeps fewer slugs
/// ([`crate::retention::Retention::when_crowded`]): there is to be room for the next ones.
const CROWDED_PERCENT: u64 = 80;

/// How far the node's admin trusts an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Every new account.
    Stranger,
    Trusted,
}

/// What an account may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Heroku gives an unverified account 5 apps, a verified one 100.
    pub apps: u64,
    /// Builds at the same time; each is promised 2.5 GB of memory.
    pub concurrent_builds: u64,
    /// Dynos of all apps together, one-offs included.
    pub dynos: u64,
    /// Memory of the largest dyno, in bytes, by its size.
    pub largest_dyno_bytes: u64,
    /// Memory of all dynos together, in bytes, by their sizes.
    pub memory_bytes: u64,
    /// Repositories, slugs and config vars of all apps and their releases together, in bytes.
    pub disk_bytes: u64,
}

/// What an account has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub apps: u64,
    pub dynos: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

const STRANGERS: Limits = Limits {
    apps: 5,
    concurrent_builds: 1,
    dynos: 10,
    largest_dyno_bytes: GIB,
    memory_bytes: 5 * GIB,
    disk_bytes: 5 * GIB,
};

const TRUSTED: Limits = Limits {
    apps: 100,
    concurrent_builds: 4,
    dynos: 200,
    largest_dyno_bytes: 64 * GIB,
    memory_bytes: 128 * GIB,
    disk_bytes: 100 * GIB,
};

/// The limits of an account; `None`: those of the node only.
pub fn limits(role: Role, trust: Trust) -> Option<Limits> {
    match (role, trust) {
        (Role::Owner | Role::Admin, _) => None,
        (Role::Member, Trust::Stranger) => Some(STRANGERS),
        (Role::Member, Trust::Trusted) => Some(TRUSTED),
    }
}

impl Limits {
    /// Why an account may not go from `before` to `after`, for its user; `None`: it may.
    pub fn refuse(&self, before: &Usage, after: &Usage) -> Option<String> {
        let megabytes = |bytes: u64| format!("{} MB", bytes / MIB);
        let number = |number: u64| number.to_string();
        let rows: [(&str, fn(&Usage) -> u64, u64, &dyn Fn(u64) -> String); 4] = [
            ("apps", |usage| usage.apps, self.apps, &number),
            ("dynos", |usage| usage.dynos, self.dynos, &number),
            ("memory for dynos", |usage| usage.memory_bytes, self.memory_bytes, &megabytes),
            ("disk space", |usage| usage.disk_bytes, self.disk_bytes, &megabytes),
        ];
        rows.into_iter().find_map(|(what, of, most, text)| {
            let (before, after) = (of(before), of(after));
            (after > most && after > before).then(|| over(what, &text(after), &text(most)))
        })
    }

    /// Why an account may not have a dyno of this size, for its user.
    pub fn refuse_dyno(&self, size: &str, memory_bytes: u64) -> Option<String> {
        (memory_bytes > self.largest_dyno_bytes).then(|| {
            format!(
                "Dynos of the size {size} have {} MB of memory, and those of this account may have {} MB. Choose a smaller \
                 size, or {ASK}.",
                memory_bytes / MIB,
                self.largest_dyno_bytes / MIB
            )
        })
    }

    /// Why an account that has so many builds under way may not begin another, for its user.
    pub fn refuse_build(&self, under_way: u64) -> Option<String> {
        (under_way >= self.concurrent_builds).then(|| {
            format!(
                "{under_way} builds of this account are under way, and it may have {} at a time. Wait until one has ended and \
                 push again, or {ASK}.",
                self.concurrent_builds
            )
        })
    }

    /// Whether an account's disk space is nearly used up.
    pub fn is_disk_crowded(&self, used_bytes: u64) -> bool {
        used_bytes >= self.disk_bytes / 100 * CROWDED_PERCENT
    }

    /// Why an account whose disk space is used up may not add to it, for its user.
    pub fn refuse_on_disk(&self, used_bytes: u64) -> Option<String> {
        let text = |bytes: u64| format!("{} MB", bytes / MIB);
        (used_bytes >= self.disk_bytes).then(|| over("disk space", &text(used_bytes), &text(self.disk_bytes)))
    }
}

const ASK: &str = "ask the node's admin to trust the account with more";

fn over(what: &str, would_be: &str, most: &str) -> String {
    format!(
        "This account's limit is reached: it would have {would_be} of {what}, and may have {most}. Give something up first \
         (`heroku ps:scale`, `heroku apps:destroy`), or {ASK}."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_refused_over_a_limit_and_less_never() {
        let stranger = limits(Role::Member, Trust::Stranger).expect("limited");
        let usage = |apps, dynos, memory_bytes, disk_bytes| Usage { apps, dynos, memory_bytes, disk_bytes };
        let full = usage(5, 10, 5 * GIB, 5 * GIB);
        assert_eq!(stranger.refuse(&Usage::default(), &full), None, "up to the limit");
        let over = [
            (usage(6, 0, 0, 0), "apps"),
            (usage(0, 11, 0, 0), "dynos"),
            (usage(0, 1, 5 * GIB + 1, 0), "memory"),
            (usage(0, 0, 0, 5 * GIB + 1), "disk"),
        ];
        for (after, what) in over {
            let why = stranger.refuse(&full, &after).expect("refused");
            assert!(why.contains(what) && why.contains("admin"), "{why}");
            let more = usage(after.apps + 1, after.dynos + 1, after.memory_bytes + 1, after.disk_bytes + 1);
            assert_eq!(stranger.refuse(&more, &after), None, "less than before, though still too much");
        }
        assert!(stranger.refuse_dyno("performance-m", 2_560 * MIB).is_some());
        assert_eq!(stranger.refuse_dyno("standard-2x", GIB), None);
        assert_eq!(stranger.refuse_build(0), None);
        assert!(stranger.refuse_build(1).is_some());
        assert!(stranger.refuse_on_disk(5 * GIB).is_some());
        assert!(stranger.is_disk_crowded(4 * GIB) && !stranger.is_disk_crowded(4 * GIB - MIB));
    }

    #[test]
    fn trust_gives_more_of_everything_and_admins_have_no_limits() {
        let [stranger, trusted] =
            [Trust::Stranger, Trust::Trusted].map(|trust| limits(Role::Member, trust).expect("limited"));
        assert!(trusted.apps > stranger.apps && trusted.concurrent_builds > stranger.concurrent_builds);
        assert!(trusted.dynos > stranger.dynos && trusted.largest_dyno_bytes > stranger.largest_dyno_bytes);
        assert!(trusted.memory_bytes > stranger.memory_bytes && trusted.disk_bytes > stranger.disk_bytes);
        assert_eq!(limits(Role::Admin, Trust::Stranger), None);
        assert_eq!(limits(Role::Owner, Trust::Stranger), None);
    }
}
