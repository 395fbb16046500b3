//! The formation: process types and how many dynos of each should run.

use crate::dyno_size::{self, DynoSize};
use crate::{AppId, FormationId, Millis};
use thiserror::Error;

/// One process type of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formation {
    pub id: FormationId,
    pub app_id: AppId,
    pub process_type: String,
    pub command: String,
    pub quantity: u32,
    /// API name of a dyno size: `basic`, `standard-1x` ...
    pub size: String,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// How a quantity is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantityChange {
    /// `2` or `"2"`.
    Set(u32),
    /// `"+1"` or `"-1"`; never goes below 0.
    Add(i64),
}

/// Why a formation cannot become what was asked for. Display is for the user.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormationError {
    #[error("Invalid quantity \"{0}\": give a number such as 2, or a change such as +1 or -1.")]
    Quantity(String),
    #[error("Couldn't find the dyno size {0}. Sizes: {sizes}.", sizes = size_names())]
    Size(String),
    #[error(
        "Cannot scale {process_type} to {quantity}: {size} dynos are limited to {limit} per process type."
    )]
    TooMany { process_type: String, quantity: u64, size: &'static str, limit: u32 },
}

fn size_names() -> String {
    dyno_size::DYNO_SIZES.iter().map(|size| size.display_name).collect::<Vec<_>>().join(", ")
}

impl std::str::FromStr for QuantityChange {
    type Err = FormationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || FormationError::Quantity(text.to_owned());
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if plain { digits.parse::<u32>().map_err(|_| invalid()) } else { Err(invalid()) }
        };
        match text.split_at_checked(1) {
            Some(("+", digits)) => Ok(Self::Add(i64::from(number(digits)?))),
            Some(("-", digits)) => Ok(Self::Add(-i64::from(number(digits)?))),
            _ => Ok(Self::Set(number(text)?)),
        }
    }
}

impl Formation {
    /// What quantity and size it has after a change.
    ///
    /// # Errors
    /// An unknown size, or more dynos than the size allows.
    pub fn changed(
        &self,
        quantity: Option<QuantityChange>,
        size: Option<&str>,
    ) -> Result<(u32, &'static DynoSize), FormationError> {
        let name = size.unwrap_or(&self.size);
        let size = dyno_size::find(name).ok_or_else(|| FormationError::Size(name.to_owned()))?;
        let wanted = match quantity {
            None => u64::from(self.quantity),
            Some(QuantityChange::Set(quantity)) => u64::from(quantity),
            Some(QuantityChange::Add(change)) => {
                i64::from(self.quantity).saturating_add(change).max(0) as u64
            }
        };
        if wanted > u64::from(size.max_quantity) {
            return Err(FormationError::TooMany {
                process_type: self.process_type.clone(),
                quantity: wanted,
                size: size.display_name,
                limit: size.max_quantity,
            });
        }
        Ok((wanted as u32, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn quantities_are_numbers_or_signed_changes() {
        assert_eq!("2".parse(), Ok(QuantityChange::Set(2)));
        assert_eq!("+1".parse(), Ok(QuantityChange::Add(1)));
        assert_eq!("-3".parse(), Ok(QuantityChange::Add(-3)));
        for bad in ["", "+", "-", "two", "1.5", "++1", "99999999999", "é", "+ 1"] {
            assert_eq!(bad.parse::<QuantityChange>(), Err(FormationError::Quantity(bad.into())));
        }
    }

    #[test]
    fn a_change_keeps_to_the_limits_of_the_size() {
        let web = Formation {
            id: FormationId(Uuid::nil()),
            app_id: AppId(Uuid::nil()),
            process_type: "web".into(),
            command: String::new(),
            quantity: 2,
            size: "basic".into(),
            created_at: 0,
            updated_at: 0,
        };
        let changed =
            |quantity, size| web.changed(quantity, size).map(|(quantity, size)| (quantity, size.name));
        assert_eq!(changed(None, None), Ok((2, "basic")));
        assert_eq!(changed(Some(QuantityChange::Add(-5)), None), Ok((0, "basic")));
        assert_eq!(changed(Some(QuantityChange::Set(3)), Some("Standard-1X")), Ok((3, "standard-1x")));
        assert_eq!(changed(None, Some("huge")), Err(FormationError::Size("huge".into())));
        let error = web.changed(None, Some("eco")).expect_err("two of a size that allows one");
        assert_eq!(error.to_string(), "Cannot scale web to 2: Eco dynos are limited to 1 per process type.");
    }
}
