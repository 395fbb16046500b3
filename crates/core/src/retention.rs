//! What of builds is kept on the disk, and what goes: slugs, archives, caches, build folders, texts of builds.
//!
//! In: what rows and folders say. Out: the slugs to be marked as deleted, and the entries of folders to be removed. The
//! server's collector does it (`server/src/builds/garbage.rs`).
//!
//! Invariants, held by the property test below: what is current, what a dyno, a build or a pending release still needs
//! is never in the answer; carried out bit by bit, however often it is cut off, it comes to an end after which
//! nothing is left to do.
//!
//! Source: Heroku keeps slugs of older releases for as long as it pleases; ours are the numbers below.

use crate::{AppId, BuildId, Millis, SlugId};
use std::collections::{BTreeMap, BTreeSet};

const DAY_MS: Millis = 24 * 60 * 60 * 1000;
/// Slugs of an app that took effect and stay, however old.
pub const KEEP_RELEASES: usize = 20;
/// How long a slug stays after its last release, in milliseconds, however many there are since.
pub const KEEP_FOR_MS: Millis = 30 * DAY_MS;
/// The newest slugs stay, though none of their releases took effect: their release is to be tried again.
pub const KEEP_UNRELEASED: usize = 3;
/// Slugs of an app that took effect and stay, when its owner's disk space is nearly used up.
pub const KEEP_CROWDED: usize = 3;
/// A slug stays so long after it was made, in milliseconds: who made it is about to release it.
pub const KEEP_NEW_MS: Millis = DAY_MS;
/// A build cache or spare tree goes when its app was not built for so long, in milliseconds.
pub const KEEP_CACHES_MS: Millis = 30 * DAY_MS;
/// The same while the disk is scarce.
pub const KEEP_CACHES_SCARCE_MS: Millis = DAY_MS;
/// Texts of an app's newest builds stay, however old; others for [`KEEP_FOR_MS`].
pub const KEEP_TEXTS: usize = 20;
/// Texts of an app beyond this number go, however young: at 10 MB each, 2 GB an app.
pub const MAX_TEXTS: usize = 200;

/// What the admin chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// See [`KEEP_RELEASES`].
    pub releases: usize,
    /// See [`KEEP_FOR_MS`].
    pub age_ms: Millis,
}

impl Default for Retention {
    fn default() -> Self {
        Self { releases: KEEP_RELEASES, age_ms: KEEP_FOR_MS }
    }
}

impl Retention {
    /// What is kept for an owner whose disk space is nearly used up: the newest few alone, or there would be no room to
    /// push for as long as the rest is young.
    pub fn when_crowded(self) -> Self {
        Self { releases: self.releases.min(KEEP_CROWDED), age_ms: 0 }
    }
}

/// The moment of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub now: Millis,
    /// The disk is about to fill: age keeps nothing, only number does.
    pub is_scarce: bool,
}

/// A slug of an app, with its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlugUse {
    pub id: SlugId,
    pub created_at: Millis,
    /// Its newest release of any status, by version and time.
    pub released: Option<(i64, Millis)>,
    /// Version of its newest release that succeeded.
    pub took_effect: Option<i64>,
    /// The app is at it, a dyno runs it, or a release command decides about it.
    pub is_needed: bool,
}

/// The slugs of one app that go.
pub fn expired_slugs(retention: Retention, moment: Moment, slugs: &[SlugUse]) -> Vec<SlugId> {
    let mut by_release: Vec<&SlugUse> = slugs.iter().filter(|slug| slug.took_effect.is_some()).collect();
    by_release.sort_by_key(|slug| std::cmp::Reverse((slug.took_effect, slug.id.0)));
    let mut newest: Vec<&SlugUse> = slugs.iter().collect();
    newest.sort_by_key(|slug| std::cmp::Reverse((slug.created_at, slug.id.0)));
    let kept: BTreeSet<SlugId> = by_release
        .iter()
        .take(retention.releases)
        .chain(newest.iter().take(KEEP_UNRELEASED))
        .map(|slug| slug.id)
        .collect();
    let is_young = |slug: &SlugUse| {
        let since = slug.released.map_or(slug.created_at, |(_, at)| at.max(slug.created_at));
        let unreleased = slug.released.is_none() && moment.now - slug.created_at < KEEP_NEW_MS;
        unreleased || (!moment.is_scarce && moment.now - since < retention.age_ms)
    };
    let goes = |slug: &&SlugUse| !slug.is_needed && !kept.contains(&slug.id) && !is_young(slug);
    slugs.iter().filter(goes).map(|slug| slug.id).collect()
}

/// The builds of one app, as (build, when, still under way), whose texts go.
pub fn expired_texts(
    retention: Retention,
    moment: Moment,
    builds: &[(BuildId, Millis, bool)],
) -> Vec<BuildId> {
    let mut newest: Vec<_> = builds.iter().collect();
    newest.sort_by_key(|(id, at, _)| std::cmp::Reverse((*at, id.0)));
    let old = |at: Millis| moment.is_scarce || moment.now - at >= retention.age_ms;
    newest
        .iter()
        .enumerate()
        .skip(KEEP_TEXTS)
        .filter(|(place, (_, at, under_way))| !under_way && (old(*at) || *place >= MAX_TEXTS))
        .map(|(_, (id, ..))| *id)
        .collect()
}

/// Folders of the data folder whose entries are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Trees, by digest; `<digest>.aside-...` are damaged ones that dynos may still have mounted.
    Slugs,
    /// Archives, `<digest>.tar.zst`.
    Archives,
    /// Folders of builds, by build.
    Builds,
    /// Their config vars, on tmpfs.
    BuildSecrets,
    /// Texts of builds.
    BuildTexts,
    /// Build caches, by app.
    Caches,
    /// Spare trees, by app.
    Spares,
    /// Repositories, `<app>.git`.
    Repositories,
}

impl Place {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::Slugs,
        Self::Archives,
        Self::Builds,
        Self::BuildSecrets,
        Self::BuildTexts,
        Self::Caches,
        Self::Spares,
        Self::Repositories,
    ];

    /// The folder, below the data folder; also its name in reports.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Slugs => "slugs",
            Self::Archives => "slug-archives",
            Self::Builds => "builds",
            Self::BuildSecrets => "run/builds",
            Self::BuildTexts => "build-output",
            Self::Caches => "cache",
            Self::Spares => "spares",
            Self::Repositories => "repos",
        }
    }
}

/// What rows say is needed. To be read after the folders were listed: what is made in between is then in no list.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Digests of slugs that have their tree.
    pub digests: BTreeSet<String>,
    /// Apps, and when each was last built, or made.
    pub apps: BTreeMap<AppId, Millis>,
    /// Builds under way, and their apps.
    pub running: BTreeMap<BuildId, AppId>,
    /// Builds whose text is kept.
    pub texts: BTreeSet<BuildId>,
}

impl Needs {
    /// Whether the entry `name` of a folder is garbage.
    pub fn is_garbage(&self, moment: Moment, place: Place, name: &str) -> bool {
        let digest = |name: &str| self.digests.contains(name.split('.').next().unwrap_or_default());
        let build = name.parse::<BuildId>().ok();
        let runs = build.is_some_and(|id| self.running.contains_key(&id));
        match place {
            // `<digest>.aside-...` and `<digest>.tar.zst` go with their digest.
            Place::Slugs | Place::Archives => !digest(name),
            Place::Builds | Place::BuildSecrets => !runs,
            Place::BuildTexts => !runs && !build.is_some_and(|id| self.texts.contains(&id)),
            Place::Caches | Place::Spares => !self.needs_cache(moment, name),
            // What else is there is git's, or about to become a repository.
            Place::Repositories => name
                .strip_suffix(".git")
                .and_then(|name| name.parse::<AppId>().ok())
                .is_some_and(|id| !self.apps.contains_key(&id)),
        }
    }

    fn needs_cache(&self, moment: Moment, name: &str) -> bool {
        let Ok(app_id) = name.parse::<AppId>() else { return false };
        if self.running.values().any(|building| *building == app_id) {
            return true;
        }
        let keep_ms = if moment.is_scarce { KEEP_CACHES_SCARCE_MS } else { KEEP_CACHES_MS };
        self.apps.get(&app_id).is_some_and(|built_at| moment.now - built_at < keep_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn slug(number: u128, released: Option<(i64, Millis)>, took_effect: bool) -> SlugUse {
        SlugUse {
            id: SlugId(Uuid::from_u128(number)),
            created_at: released.map_or(0, |(_, at)| at),
            released,
            took_effect: released.filter(|_| took_effect).map(|(version, _)| version),
            is_needed: false,
        }
    }

    fn numbers(slugs: &[SlugId]) -> Vec<u128> {
        slugs.iter().map(|id| id.0.as_u128()).collect()
    }

    #[test]
    fn number_and_age_each_keep_a_slug_and_on_a_scarce_disk_number_alone() {
        let slugs: Vec<SlugUse> =
            (1..=30).map(|n| slug(n, Some((n as i64, n as Millis * DAY_MS)), true)).collect();
        let at = |day: Millis, is_scarce| Moment { now: day * DAY_MS, is_scarce };
        let expired = |moment| numbers(&expired_slugs(Retention::default(), moment, &slugs));
        assert_eq!(expired(at(30, false)), Vec::<u128>::new());
        assert_eq!(expired(at(34, false)), [1, 2, 3, 4]);
        assert_eq!(expired(at(400, false)), (1..=10).collect::<Vec<_>>(), "the newest twenty stay for good");
        assert_eq!(expired(at(30, true)), (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_gone_back_to_is_new_again_and_what_failed_takes_no_place() {
        let retention = Retention { releases: 2, age_ms: DAY_MS };
        let moment = Moment { now: 1_000 * DAY_MS, is_scarce: false };
        let mut slugs: Vec<SlugUse> = (1..=4).map(|n| slug(n, Some((n as i64, n as Millis)), true)).collect();
        slugs[0].released = Some((9, 9));
        slugs[0].took_effect = Some(9);
        slugs.extend((5..=9).map(|n| slug(n, Some((n as i64, n as Millis)), false)));
        assert_eq!(
            numbers(&expired_slugs(retention, moment, &slugs)),
            [2, 3, 5, 6],
            "1 and 4 took effect last, 7 to 9 are new"
        );
        slugs[1].is_needed = true;
        assert_eq!(numbers(&expired_slugs(retention, moment, &slugs)), [3, 5, 6]);
    }

    #[test]
    fn who_has_little_room_left_keeps_the_newest_few_however_young() {
        let slugs: Vec<SlugUse> =
            (1..=9).map(|n| slug(n, Some((n as i64, n as Millis * DAY_MS)), true)).collect();
        let moment = Moment { now: 9 * DAY_MS, is_scarce: false };
        let expired = |retention| numbers(&expired_slugs(retention, moment, &slugs));
        assert_eq!(expired(Retention::default()), Vec::<u128>::new());
        assert_eq!(expired(Retention::default().when_crowded()), (1..=6).collect::<Vec<_>>());
        let fewer = Retention { releases: 1, ..Retention::default() }.when_crowded();
        assert_eq!(fewer.releases, 1, "never more than without");
    }

    #[test]
    fn texts_of_old_builds_go_but_not_of_the_newest() {
        let builds: Vec<(BuildId, Millis, bool)> =
            (1..=25).map(|n| (BuildId(Uuid::from_u128(n)), n as Millis, n == 2)).collect();
        let moment = Moment { now: 100 * DAY_MS, is_scarce: false };
        let gone: Vec<u128> =
            expired_texts(Retention::default(), moment, &builds).iter().map(|id| id.0.as_u128()).collect();
        assert_eq!(gone, [5, 4, 3, 1]);
        let young = Moment { now: DAY_MS, is_scarce: false };
        assert!(expired_texts(Retention::default(), young, &builds).is_empty());
        let scarce = Moment { is_scarce: true, ..young };
        assert_eq!(expired_texts(Retention::default(), scarce, &builds).len(), 4, "number alone keeps them");
        let many: Vec<(BuildId, Millis, bool)> =
            (1..=203).map(|n| (BuildId(Uuid::from_u128(n)), n as Millis, n == 2)).collect();
        let gone = expired_texts(Retention::default(), young, &many);
        assert_eq!(gone.iter().map(|id| id.0.as_u128()).collect::<Vec<_>>(), [3, 1], "two hundred at most");
    }

    #[test]
    fn names_that_nobody_gave_are_garbage_but_not_among_repositories() {
        let app = AppId(Uuid::from_u128(7));
        let needs = Needs { apps: [(app, 0)].into(), ..Needs::default() };
        let moment = Moment { now: 1, is_scarce: false };
        for place in Place::ALL {
            assert_eq!(
                needs.is_garbage(moment, place, "dropped-1"),
                place != Place::Repositories,
                "{place:?}"
            );
        }
        let needs = Needs { digests: ["abc".to_owned()].into(), ..needs };
        for (place, name, goes) in [
            (Place::Slugs, "abc", false),
            (Place::Slugs, "abc.aside-1", false),
            (Place::Archives, "abc.tar.zst", false),
            (Place::Slugs, "abd", true),
            (Place::Slugs, "abd.aside-1", true),
        ] {
            assert_eq!(needs.is_garbage(moment, place, name), goes, "{name}");
        }
        assert!(!needs.is_garbage(moment, Place::Repositories, &format!("{app}.git")));
        assert!(needs.is_garbage(moment, Place::Repositories, &format!("{}.git", Uuid::from_u128(8))));
    }

    /// One app's world: slugs with digests (shared ones, too), and folders with more than rows know.
    #[derive(Debug, Clone)]
    struct World {
        slugs: Vec<(SlugUse, String)>,
        folders: BTreeSet<(Place, String)>,
        needs: Needs,
        moment: Moment,
        retention: Retention,
    }

    fn arbitrary_slug() -> impl Strategy<Value = (SlugUse, String)> {
        let released = proptest::option::of((1..40_i64, 0..90_i64, any::<bool>()));
        (any::<u128>(), 0..90_i64, released, proptest::bool::weighted(0.1), 0..12_u8).prop_map(
            |(id, made, released, is_needed, digest)| {
                let use_of = SlugUse {
                    id: SlugId(Uuid::from_u128(id)),
                    created_at: made * DAY_MS,
                    released: released.map(|(version, day, _)| (version, day * DAY_MS)),
                    took_effect: released.filter(|one| one.2).map(|one| one.0),
                    is_needed,
                };
                (use_of, format!("d{digest}"))
            },
        )
    }

    fn arbitrary_world() -> impl Strategy<Value = World> {
        let names = proptest::collection::btree_set((0..8_usize, 0..16_u8), 0..60);
        let slugs = proptest::collection::vec(arbitrary_slug(), 0..40);
        let apps = proptest::collection::btree_map(0..16_u8, 0..90_i64, 0..10);
        let running = proptest::collection::btree_map(0..16_u8, 0..16_u8, 0..3);
        let texts = proptest::collection::btree_set(0..16_u8, 0..8);
        (slugs, names, apps, running, texts, (0..120_i64, any::<bool>()), (0..6_usize, 0..60_i64)).prop_map(
            |(slugs, names, apps, running, texts, (day, is_scarce), (releases, age))| {
                let id = |n: u8| Uuid::from_u128(u128::from(n));
                let name = |place: Place, n: u8| match place {
                    Place::Slugs => format!("d{n}"),
                    Place::Archives => format!("d{n}.tar.zst"),
                    Place::Repositories => format!("{}.git", id(n)),
                    _ => id(n).to_string(),
                };
                let folders =
                    names.into_iter().map(|(at, n)| (Place::ALL[at], name(Place::ALL[at], n))).collect();
                let needs = Needs {
                    digests: BTreeSet::new(),
                    apps: apps.into_iter().map(|(n, day)| (AppId(id(n)), day * DAY_MS)).collect(),
                    running: running.into_iter().map(|(n, app)| (BuildId(id(n)), AppId(id(app)))).collect(),
                    texts: texts.into_iter().map(|n| BuildId(id(n))).collect(),
                };
                let moment = Moment { now: day * DAY_MS, is_scarce };
                World {
                    slugs,
                    folders,
                    needs,
                    moment,
                    retention: Retention { releases, age_ms: age * DAY_MS },
                }
            },
        )
    }

    impl World {
        /// What one round would do.
        fn plan(&mut self) -> (Vec<SlugId>, Vec<(Place, String)>) {
            let uses: Vec<SlugUse> = self.slugs.iter().map(|(slug, _)| *slug).collect();
            self.needs.digests = self.slugs.iter().map(|(_, digest)| digest.clone()).collect();
            let garbage = |(place, name): &&(Place, String)| self.needs.is_garbage(self.moment, *place, name);
            (
                expired_slugs(self.retention, self.moment, &uses),
                self.folders.iter().filter(garbage).cloned().collect(),
            )
        }

        fn assert_needed_are_there(&self, before: &World) {
            for (slug, digest) in before.slugs.iter().filter(|(slug, _)| slug.is_needed) {
                assert!(self.slugs.iter().any(|(left, _)| left.id == slug.id), "{slug:?} was needed");
                for entry in [(Place::Slugs, digest.clone()), (Place::Archives, format!("{digest}.tar.zst"))]
                {
                    assert!(!before.folders.contains(&entry) || self.folders.contains(&entry), "{entry:?}");
                }
            }
            for (build, app) in &before.needs.running {
                let app = app.to_string();
                for (place, name) in [
                    (Place::Builds, build.to_string()),
                    (Place::BuildTexts, build.to_string()),
                    (Place::Caches, app.clone()),
                    (Place::Spares, app),
                ] {
                    let entry = (place, name);
                    assert!(!before.folders.contains(&entry) || self.folders.contains(&entry), "{entry:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn rounds_that_are_cut_off_anywhere_never_take_what_is_needed_and_come_to_an_end(
            mut world in arbitrary_world(),
            cuts in proptest::collection::vec((0..4_usize, 0..4_usize), 0..12),
        ) {
            let before = world.clone();
            // Marks and removals happen in this order; each round does some of both, the last ones do all.
            for (marks, removals) in cuts.into_iter().chain([(usize::MAX, 0), (0, usize::MAX)]) {
                let (expired, _) = world.plan();
                let marked: Vec<SlugId> = expired.into_iter().take(marks).collect();
                world.slugs.retain(|(slug, _)| !marked.contains(&slug.id));
                let (_, garbage) = world.plan();
                for entry in garbage.iter().take(removals) {
                    world.folders.remove(entry);
                }
                world.assert_needed_are_there(&before);
            }
            let (expired, garbage) = world.plan();
            prop_assert!(expired.is_empty() && garbage.is_empty(), "{expired:?} {garbage:?}");
            // However much was asked to go, as many as were asked to stay are there.
            let effective = |world: &World| world.slugs.iter().filter(|one| one.0.took_effect.is_some()).count();
            prop_assert!(effective(&world) >= effective(&before).min(before.retention.releases));
        }
    }
}
