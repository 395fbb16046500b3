//! Times on the wire: `2012-01-01T12:00:00Z`, whole seconds, always UTC.

use ferroku_core::Millis;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A time with a second's precision on the wire; milliseconds since the epoch inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub Millis);

impl From<Millis> for Timestamp {
    fn from(at_ms: Millis) -> Self {
        Self(at_ms)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_second(self.0.div_euclid(1000)).unwrap_or(jiff::Timestamp::MAX);
        at.strftime("%Y-%m-%dT%H:%M:%SZ").fmt(formatter)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at: jiff::Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Self(at.as_millisecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_whole_seconds_of_utc() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_325_419_200_999, "2012-01-01T12:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ];
        for (millis, expected) in cases {
            assert_eq!(Timestamp(millis).to_string(), expected);
        }
        let read: Timestamp = serde_json::from_str("\"2012-01-01T12:00:00Z\"").expect("a time");
        assert_eq!(read, Timestamp(1_325_419_200_000));
    }
}
