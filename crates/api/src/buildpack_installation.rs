//! `/apps/X/buildpack-installations`.

use ferroku_core::buildpack_installation::BuildpackInstallation as Stored;
use serde::{Deserialize, Serialize};

/// One buildpack of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildpackInstallation {
    pub buildpack: Buildpack,
    pub ordinal: i64,
}

/// A buildpack as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buildpack {
    /// The short name where there is one (`heroku/python`), else the URL.
    pub name: String,
    pub url: String,
}

/// Body of `PUT /apps/X/buildpack-installations`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Update {
    pub updates: Vec<UpdateItem>,
}

/// One entry of the new list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateItem {
    pub buildpack: String,
}

impl Buildpack {
    /// A buildpack by its name or URL. Heroku's own have URLs like `urn:buildpack:heroku/python`.
    pub fn new(name_or_url: &str) -> Self {
        let name = name_or_url.strip_prefix("urn:buildpack:").unwrap_or(name_or_url);
        let is_short = !name.contains("://") && name.split('/').count() == 2;
        let url = if is_short { format!("urn:buildpack:{name}") } else { name.to_owned() };
        Self { name: name.to_owned(), url }
    }
}

impl From<&Stored> for BuildpackInstallation {
    fn from(stored: &Stored) -> Self {
        Self { buildpack: Buildpack::new(&stored.url), ordinal: stored.ordinal }
    }
}
