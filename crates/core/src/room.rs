//! Room for dynos: whether one more may start beside those that are there.
//!
//! The admin allots a number of bytes of memory; each dyno and each build claims what its size gives it. A dyno
//! takes the place of the one that it replaces: for the moment in which both are there, the larger one counts, or no
//! full node could ever deploy.

use crate::AppId;
use std::collections::BTreeMap;
use thiserror::Error;

/// A place of the formation: app, process type and number.
pub type Slot = (AppId, String, u32);

/// What one dyno takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `None` for what replaces nothing: one-offs and builds.
    pub slot: Option<Slot>,
    pub memory_bytes: u64,
}

/// What there is too little of. Display says why, for logs and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Shortage {
    #[error(
        "it takes {} MB of memory, and {} of the {} MB that this node allots to dynos and builds are taken",
        megabytes(*.needed_bytes), megabytes(*.taken_bytes), megabytes(*.allotted_bytes)
    )]
    Memory { needed_bytes: u64, taken_bytes: u64, allotted_bytes: u64 },
    #[error("the node's disk is full")]
    Disk,
}

impl Shortage {
    /// What a dyno waits for, in one word.
    pub fn waits_for(self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::Disk => "disk",
        }
    }
}

const fn megabytes(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

/// What claims take together.
pub fn taken_bytes<'a>(claims: impl Iterator<Item = &'a Claim>) -> u64 {
    let mut slots: BTreeMap<&Slot, u64> = BTreeMap::new();
    let mut others = 0;
    for claim in claims {
        match &claim.slot {
            Some(slot) => {
                let largest = slots.entry(slot).or_default();
                *largest = claim.memory_bytes.max(*largest);
            }
            None => others += claim.memory_bytes,
        }
    }
    others + slots.values().sum::<u64>()
}

/// Whether `new` may start beside `claims`. What takes no more than is taken already always may.
///
/// # Errors
/// It may not.
pub fn admit<'a>(
    allotted_bytes: u64,
    claims: impl Iterator<Item = &'a Claim> + Clone,
    new: &'a Claim,
) -> Result<(), Shortage> {
    let before = taken_bytes(claims.clone());
    let after = taken_bytes(claims.chain(std::iter::once(new)));
    if after <= allotted_bytes || after == before {
        return Ok(());
    }
    Err(Shortage::Memory { needed_bytes: new.memory_bytes, taken_bytes: before, allotted_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MB: u64 = 1024 * 1024;

    fn claim(slot: Option<(&str, u32)>, megabytes: u64) -> Claim {
        let app = AppId(Uuid::nil());
        let slot = slot.map(|(process_type, ordinal)| (app, process_type.to_owned(), ordinal));
        Claim { slot, memory_bytes: megabytes * MB }
    }

    #[test]
    fn what_replaces_another_takes_its_place_and_everything_else_needs_room() {
        let there = [claim(Some(("web", 1)), 512), claim(Some(("web", 2)), 512), claim(None, 512)];
        let admitted = |allotted: u64, new: Claim| admit(allotted * MB, there.iter(), &new).is_ok();
        for (allotted, slot, megabytes, expected) in [
            (2048, Some(("web", 3)), 512, true),
            (2047, Some(("web", 3)), 512, false),
            // A deploy or a restart, on a node that is full to the last byte, or was given less since.
            (1536, Some(("web", 2)), 512, true),
            (100, Some(("web", 2)), 512, true),
            // A larger size needs the difference.
            (2047, Some(("web", 2)), 1024, false),
            (2048, Some(("web", 2)), 1024, true),
            (2048, None, 512, true),
            (2047, None, 512, false),
        ] {
            assert_eq!(
                admitted(allotted, claim(slot, megabytes)),
                expected,
                "{allotted} {slot:?} {megabytes}"
            );
        }
        assert_eq!(taken_bytes(there.iter()), 1536 * MB);
    }

    #[test]
    fn a_shortage_says_how_much_of_what() {
        let full = [claim(None, 2560)];
        let shortage = admit(3000 * MB, full.iter(), &claim(None, 512)).expect_err("no room");
        assert_eq!(
            shortage.to_string(),
            "it takes 512 MB of memory, and 2560 of the 3000 MB that this node allots to dynos and builds are taken"
        );
    }
}
