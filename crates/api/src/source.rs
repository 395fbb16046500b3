//! `/sources`.

use serde::{Deserialize, Serialize};

/// Where a source archive is put and got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub source_blob: SourceBlob,
}

/// Links that are good for an hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBlob {
    pub get_url: String,
    pub put_url: String,
}
