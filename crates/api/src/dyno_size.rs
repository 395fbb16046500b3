//! `/dyno-sizes`.

use crate::reference::{Named, cedar};
use ferroku_core::dyno_size::{DynoSize as Stored, find};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A dyno size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DynoSize {
    pub architecture: String,
    pub compute: u32,
    /// A node bills nobody.
    pub cost: Option<Value>,
    pub dedicated: bool,
    pub generation: Named,
    pub id: Uuid,
    /// Gigabytes.
    pub memory: f64,
    pub name: String,
    /// Heroku: hours billed per hour of running.
    pub precise_dyno_units: f64,
    pub private_space_only: bool,
}

impl From<&Stored> for DynoSize {
    fn from(size: &Stored) -> Self {
        let Named { id, name } = reference(size.name);
        Self {
            architecture: std::env::consts::ARCH.to_owned(),
            compute: size.compute,
            cost: None,
            dedicated: size.dedicated,
            generation: cedar(),
            id,
            memory: size.memory_bytes as f64 / (1024.0 * 1024.0 * 1024.0),
            name,
            precise_dyno_units: 0.0,
            private_space_only: false,
        }
    }
}

/// The reference to a dyno size by its API name in any case; a name that is not in the table stays as it is.
pub fn reference(name: &str) -> Named {
    const IDS: u128 = 0x3d2c_9d02_7a4f_4e5b_b6a0_0000_0000_0000;
    // Fixed for ever: the letters of the API name, folded to 48 bits (FNV-1a).
    let fold = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    });
    let id = Uuid::from_u128(IDS | u128::from(fold & 0xffff_ffff_ffff));
    let name = find(name).map_or_else(|| name.to_owned(), |size| size.display_name.to_owned());
    Named { id, name }
}
