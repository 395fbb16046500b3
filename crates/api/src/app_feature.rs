//! `/apps/X/features`.

use crate::Timestamp;
use ferroku_core::app::App;
use ferroku_core::app_feature::{AppFeature as Switched, Feature};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A feature of an app, on or off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFeature {
    pub created_at: Timestamp,
    pub description: String,
    pub display_name: String,
    pub doc_url: String,
    pub enabled: bool,
    pub feedback_email: String,
    pub id: Uuid,
    pub name: String,
    /// `general` or `beta`: the first are shown by `features`, the others by `labs`.
    pub state: String,
    pub updated_at: Timestamp,
}

impl AppFeature {
    /// The feature as the API shows it; `switched` are those of the app that were ever switched. Whose node it is is told to
    /// no member.
    pub fn new(feature: &Feature, app: &App, switched: &[Switched]) -> Self {
        let own = switched.iter().find(|one| one.name == feature.name);
        Self {
            created_at: own.map_or(app.created_at, |one| one.created_at).into(),
            description: feature.description.to_owned(),
            display_name: feature.display_name.to_owned(),
            doc_url: feature.doc_url.to_owned(),
            enabled: own.is_some_and(|one| one.enabled),
            feedback_email: String::new(),
            id: id(feature),
            name: feature.name.to_owned(),
            state: feature.state.to_owned(),
            updated_at: own.map_or(app.created_at, |one| one.updated_at).into(),
        }
    }
}

/// A feature's id is made of its name: it is the same on every node.
fn id(feature: &Feature) -> Uuid {
    let mut bytes = *b"app-feature\0\0\0\0\0";
    for (index, byte) in feature.name.bytes().enumerate() {
        let place = &mut bytes[index % 16];
        *place = place.rotate_left(3) ^ byte;
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_core::app_feature::FEATURES;
    use std::collections::BTreeSet;

    #[test]
    fn features_have_ids_of_their_own() {
        let ids: BTreeSet<Uuid> = FEATURES.iter().map(id).collect();
        assert_eq!(ids.len(), FEATURES.len());
    }
}
