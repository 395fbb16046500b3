//! Apps: their names, and what is stored of them.
//!
//! Names: Heroku's rule `^[a-z][a-z0-9-]{1,28}[a-z0-9]$`. An app's default host name is `NAME.DOMAIN`,
//! so a name is always a valid DNS label.

use crate::{AccountId, AppId, Millis, TeamId};

/// The stack of new apps, under Heroku's name for it: the host's own root file system.
pub const DEFAULT_STACK: &str = "heroku-24";
/// The node's only region, under the name of Heroku's default one, because clients send it.
pub const DEFAULT_REGION: &str = "us";
/// Shortest and longest app name, in bytes. Source: Heroku's schema.
pub const APP_NAME_BYTES: std::ops::RangeInclusive<usize> = 3..=30;

/// An app as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    pub id: AppId,
    pub name: String,
    /// Whose it is; of a team's app, who brought it in.
    pub owner_id: AccountId,
    pub team_id: Option<TeamId>,
    /// The team's members cannot join it by themselves.
    pub locked: bool,
    /// What the current release runs on.
    pub stack: String,
    /// What the next build uses.
    pub build_stack: String,
    pub region: String,
    pub maintenance: bool,
    /// Automatic certificate management is on.
    pub acm: bool,
    /// One of its process types is of size eco.
    pub eco: bool,
    /// First of the 65,536 uids on the host that this app's dynos run under; a multiple of 65,536.
    pub uid_base: u32,
    pub buildpack_provided_description: Option<String>,
    pub repo_size_bytes: i64,
    pub slug_size_bytes: i64,
    /// Raised by `ps:restart`: dynos started under a lower one are to be replaced.
    pub restart_generation: i64,
    pub released_at: Option<Millis>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl App {
    /// Whether it is this account's own, and no team's.
    pub fn belongs_to(&self, account_id: AccountId) -> bool {
        self.team_id.is_none() && self.owner_id == account_id
    }

    /// Its own host name on a node with this domain, `NAME.DOMAIN`.
    pub fn default_host(&self, node_domain: &str) -> String {
        format!("{}.{node_domain}", self.name)
    }
}

/// Whether an app may be called `name`.
///
/// # Errors
/// Heroku's message for the user.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let bytes = name.as_bytes();
    if !APP_NAME_BYTES.contains(&bytes.len()) {
        return Err("Name must be between 3 and 30 characters long.");
    }
    let ends = bytes[0].is_ascii_lowercase() && bytes[bytes.len() - 1] != b'-';
    let inside = bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    if !ends || !inside {
        return Err(
            "Name must start with a letter, end with a letter or digit and can only contain lowercase letters, digits, and dashes.",
        );
    }
    Ok(())
}

/// The stack that a client means by `name`: `cedar` is what older clients call the default.
pub fn resolve_stack(name: &str) -> Option<&'static str> {
    matches!(name, DEFAULT_STACK | "cedar").then_some(DEFAULT_STACK)
}

/// A name in Heroku's form, `adjective-noun-NNNNN`, chosen by `random`.
pub fn random_name(random: u64) -> String {
    let number = 10_000 + (random >> 32) % 90_000;
    format!("{}-{number}", random_words(random))
}

/// `adjective-noun`, chosen by the low 32 bits of `random`.
pub fn random_words(random: u64) -> String {
    let pick = |words: &'static [&'static str], at: u64| words[(at % words.len() as u64) as usize];
    format!("{}-{}", pick(ADJECTIVES, random), pick(NOUNS, random >> 16))
}

const ADJECTIVES: &[&str] = &[
    "ancient",
    "arcane",
    "autumn",
    "billowing",
    "blooming",
    "boiling",
    "calm",
    "cold",
    "cryptic",
    "damp",
    "dark",
    "dawn",
    "desolate",
    "dry",
    "enigmatic",
    "evening",
    "fast",
    "fathomless",
    "fierce",
    "floating",
    "frozen",
    "gentle",
    "glacial",
    "guarded",
    "hidden",
    "immense",
    "infinite",
    "intense",
    "limitless",
    "lit",
    "lively",
    "morning",
    "mysterious",
    "nameless",
    "obscure",
    "pacific",
    "peaceful",
    "polar",
    "powerful",
    "protected",
    "pure",
    "quiet",
    "radiant",
    "rocky",
    "rugged",
    "salty",
    "secret",
    "serene",
    "sheltered",
    "shielded",
    "silent",
    "sleepy",
    "snowy",
    "still",
    "stormy",
    "stark",
    "tranquil",
    "vast",
    "warm",
    "whispering",
    "wild",
    "young",
];
const NOUNS: &[&str] = &[
    "anchorage",
    "atoll",
    "badlands",
    "basin",
    "bastion",
    "bayou",
    "beach",
    "beyond",
    "brook",
    "brushlands",
    "castle",
    "caverns",
    "chamber",
    "cliffs",
    "coast",
    "cove",
    "crag",
    "depths",
    "dusk",
    "earth",
    "eyrie",
    "falls",
    "fjord",
    "forest",
    "fortress",
    "garden",
    "gorge",
    "harbor",
    "headland",
    "hollows",
    "inlet",
    "island",
    "journey",
    "lake",
    "lowlands",
    "meadow",
    "mesa",
    "mountain",
    "oasis",
    "ocean",
    "peak",
    "plains",
    "plateau",
    "reaches",
    "reef",
    "retreat",
    "ridge",
    "river",
    "savannah",
    "scrubland",
    "sea",
    "shelf",
    "shore",
    "sierra",
    "spire",
    "springs",
    "stream",
    "taiga",
    "temple",
    "thicket",
    "tor",
    "tundra",
    "valley",
    "waters",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_herokus_rule() {
        for good in ["abc", "a-1", "x23456789012345678901234567890"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let bad = [
            "",
            "ab",
            "x234567890123456789012345678901",
            "1abc",
            "-abc",
            "abc-",
            "Abc",
            "a_c",
            "a.c",
            "ab c",
            "äbc",
            "a\u{0}c",
            "../etc",
        ];
        for bad in bad {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_random_name_is_a_valid_one_in_herokus_form() {
        for adjective in 0..ADJECTIVES.len() as u64 {
            for noun in 0..NOUNS.len() as u64 {
                let name = random_name(adjective | noun << 16 | 89_999 << 32);
                assert_eq!(check_name(&name), Ok(()), "{name}");
                assert_eq!(name.split('-').count(), 3, "{name}");
            }
        }
        assert_eq!(random_name(0), "ancient-anchorage-10000");
    }

    #[test]
    fn cedar_is_the_default_stack_and_unknown_ones_are_none() {
        assert_eq!(resolve_stack("cedar"), Some(DEFAULT_STACK));
        assert_eq!(resolve_stack("heroku-24"), Some(DEFAULT_STACK));
        assert_eq!(resolve_stack("heroku-18"), None);
    }
}
