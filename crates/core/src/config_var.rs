//! Config vars: names, sizes, and how a patch applies.
//!
//! Names are `[A-Za-z_][A-Za-z0-9_]*` without a leading `__`: what Heroku's documentation allows, and at the
//! same time what a shell can name. A value is any text without NUL, which no process environment can hold.
//! Source: <https://devcenter.heroku.com/articles/config-vars>.

use std::collections::BTreeMap;
use thiserror::Error;

/// A whole set of config vars, by name.
pub type ConfigVars = BTreeMap<String, String>;

/// A change: `None` removes the name.
pub type ConfigPatch = BTreeMap<String, Option<String>>;

/// Most bytes of all names and values of an app together. Source: Heroku's limit.
pub const MAX_CONFIG_BYTES: usize = 64 * 1024;
/// Longest name, in bytes. Ours: far over any real name, and one line of a log.
pub const MAX_NAME_BYTES: usize = 256;

/// Why a patch is refused. Display is for the user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigVarError {
    #[error(
        "Config var name {0:?} is not allowed: names consist of letters, digits and underscores, and do not begin with a digit or with two underscores."
    )]
    Name(String),
    #[error("The name of config var {0}... is longer than {MAX_NAME_BYTES} bytes.")]
    NameTooLong(String),
    #[error("The value of config var {0} holds a NUL character, which no process environment can hold.")]
    Nul(String),
    #[error(
        "The config vars would be {0} bytes long in all; the limit is {MAX_CONFIG_BYTES} bytes (64 KB) for names and values together."
    )]
    TooLarge(usize),
}

/// What a patch does to a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The whole set afterwards.
    pub vars: ConfigVars,
    /// Names that got a value they did not have, in order.
    pub set: Vec<String>,
    /// Names that are gone, in order.
    pub removed: Vec<String>,
}

impl Change {
    /// The description of the release that this change makes, or None when nothing changed.
    pub fn description(&self) -> Option<String> {
        let (set, removed) = (self.set.join(", "), self.removed.join(", "));
        match (set.is_empty(), removed.is_empty()) {
            (true, true) => None,
            (false, true) => Some(format!("Set {set} config vars")),
            (true, false) => Some(format!("Remove {removed} config vars")),
            (false, false) => Some(format!("Set {set} and remove {removed} config vars")),
        }
    }
}

/// Applies `patch` to `current`.
///
/// # Errors
/// A name, a value or the size of the whole is not allowed. Removing a name is always allowed.
pub fn apply(current: &ConfigVars, patch: &ConfigPatch) -> Result<Change, ConfigVarError> {
    let mut change = Change { vars: current.clone(), set: Vec::new(), removed: Vec::new() };
    for (name, value) in patch {
        match value {
            Some(value) => {
                check_name(name)?;
                if value.contains('\0') {
                    return Err(ConfigVarError::Nul(name.clone()));
                }
                if change.vars.insert(name.clone(), value.clone()).as_ref() != Some(value) {
                    change.set.push(name.clone());
                }
            }
            None => {
                if change.vars.remove(name).is_some() {
                    change.removed.push(name.clone());
                }
            }
        }
    }
    let size_bytes = change.vars.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size_bytes > MAX_CONFIG_BYTES {
        return Err(ConfigVarError::TooLarge(size_bytes));
    }
    Ok(change)
}

/// Whether a config var may be called `name`.
///
/// # Errors
/// It may not.
pub fn check_name(name: &str) -> Result<(), ConfigVarError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(ConfigVarError::NameTooLong(name.chars().take(32).collect()));
    }
    let bytes = name.as_bytes();
    let start = bytes.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    let inside = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if start && inside && !name.starts_with("__") {
        Ok(())
    } else {
        Err(ConfigVarError::Name(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(entries: &[(&str, Option<&str>)]) -> ConfigPatch {
        entries.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
    }

    #[test]
    fn a_patch_sets_replaces_and_removes_and_says_so() {
        let current = ConfigVars::from([("A".into(), "1".into()), ("B".into(), "2".into())]);
        let cases: [(&[(&str, Option<&str>)], Option<&str>); 7] = [
            (&[("C", Some("3"))], Some("Set C config vars")),
            (&[("C", Some("")), ("A", Some("9"))], Some("Set A, C config vars")),
            (&[("A", Some("1"))], None),
            (&[("A", Some("1")), ("B", Some("3"))], Some("Set B config vars")),
            (&[("A", None)], Some("Remove A config vars")),
            (&[("NOT_THERE", None)], None),
            (&[("A", None), ("C", Some("3"))], Some("Set C and remove A config vars")),
        ];
        for (entries, description) in cases {
            let change = apply(&current, &patch(entries)).expect("allowed");
            assert_eq!(change.description().as_deref(), description, "{entries:?}");
        }
        let change = apply(&current, &patch(&[("A", None), ("C", Some("3"))])).expect("allowed");
        assert_eq!(change.vars, ConfigVars::from([("B".into(), "2".into()), ("C".into(), "3".into())]));
    }

    #[test]
    fn names_and_sizes_have_limits_at_their_exact_edges() {
        for good in ["A", "_", "a_1", "HEROKU_X", "_A"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "1A", "__A", "A-B", "A B", "A=B", "A\n", "Ä", "A.B"] {
            assert_eq!(check_name(bad), Err(ConfigVarError::Name(bad.to_owned())));
        }
        assert_eq!(check_name(&"A".repeat(MAX_NAME_BYTES)), Ok(()));
        assert!(check_name(&"A".repeat(MAX_NAME_BYTES + 1)).is_err());
        let fill = |bytes: usize| patch(&[("A", Some(&"x".repeat(bytes - 1)))]);
        assert!(apply(&ConfigVars::new(), &fill(MAX_CONFIG_BYTES)).is_ok());
        assert_eq!(
            apply(&ConfigVars::new(), &fill(MAX_CONFIG_BYTES + 1)),
            Err(ConfigVarError::TooLarge(MAX_CONFIG_BYTES + 1))
        );
        assert_eq!(
            apply(&ConfigVars::new(), &patch(&[("A", Some("a\0b"))])),
            Err(ConfigVarError::Nul("A".into()))
        );
    }
}
