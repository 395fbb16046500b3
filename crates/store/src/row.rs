//! Reading columns and naming failed statements, for every noun of this crate.

use crate::{Result, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::any::AnyRow;
use std::str::FromStr;

/// For `map_err`: names the step that failed, and tells a broken unique index from other failures.
pub(crate) fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Query { action, source }
}

/// As [`failed`], but a broken unique index says that `what` is taken.
pub(crate) fn failed_or_taken(
    action: &'static str,
    what: &'static str,
) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| match &source {
        sqlx::Error::Database(error) if error.is_unique_violation() => StoreError::Taken { what },
        _ => StoreError::Query { action, source },
    }
}

/// Columns by name.
pub(crate) trait Columns {
    fn text(&self, column: &'static str) -> Result<String>;
    fn optional_text(&self, column: &'static str) -> Result<Option<String>>;
    fn integer(&self, column: &'static str) -> Result<i64>;
    fn optional_integer(&self, column: &'static str) -> Result<Option<i64>>;

    /// An id, or anything else that is written as one word.
    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T> {
        self.text(column)?.parse().map_err(|_| corrupt(column, "it has another form"))
    }

    /// As [`Columns::parsed`], where the column may be null.
    fn optional_parsed<T: FromStr>(&self, column: &'static str) -> Result<Option<T>> {
        let text = self.optional_text(column)?;
        text.map(|text| text.parse().map_err(|_| corrupt(column, "it has another form"))).transpose()
    }

    /// A column that holds JSON.
    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| corrupt(column, &error.to_string()))
    }

    /// A column that holds the name of an enum's variant, as [`word`] writes it.
    fn word<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        serde_json::from_value(serde_json::Value::String(self.text(column)?))
            .map_err(|error| corrupt(column, &error.to_string()))
    }

    /// A number that must fit a smaller type.
    fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T> {
        T::try_from(self.integer(column)?).map_err(|_| corrupt(column, "the number is out of range"))
    }

    /// A flag kept as 0 or 1.
    fn flag(&self, column: &'static str) -> Result<bool> {
        Ok(self.integer(column)? != 0)
    }
}

impl Columns for AnyRow {
    fn text(&self, column: &'static str) -> Result<String> {
        self.try_get(column).map_err(failed("read a text column"))
    }

    fn optional_text(&self, column: &'static str) -> Result<Option<String>> {
        self.try_get(column).map_err(failed("read a text column"))
    }

    fn integer(&self, column: &'static str) -> Result<i64> {
        self.try_get(column).map_err(failed("read a number column"))
    }

    fn optional_integer(&self, column: &'static str) -> Result<Option<i64>> {
        self.try_get(column).map_err(failed("read a number column"))
    }
}

/// How an enum's variant is kept in a TEXT column: its serde name.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => unreachable!("only enums whose variants are plain names are kept as words"),
    }
}

/// How a list or a map is kept in a TEXT column.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("lists and maps of strings have a JSON form")
}

fn corrupt(column: &'static str, detail: &str) -> StoreError {
    StoreError::Corrupt { what: column, detail: detail.to_owned() }
}
