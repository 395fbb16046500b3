//! Config vars: names, sizes, and how a patch applies.

use std::collections::BTreeMap;

/// A whole set of config vars, by name.
pub type ConfigVars = BTreeMap<String, String>;

/// A change: `None` removes the name.
pub type ConfigPatch = BTreeMap<String, Option<String>>;
