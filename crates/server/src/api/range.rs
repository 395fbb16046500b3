//! Lists in parts: the `Range` request header and the `Next-Range` answer.
//!
//! In: `Range: FIELD START..END; max=N, order=desc`, where every piece may be missing and separators vary between
//! clients: `version ..; max=15, order=desc`, `version ..; order=desc,max=1`, `id ..; max=1000;`, `id ..; ;`, or
//! nothing at all. A `]` before START leaves START itself out. Out: 200 with all, or 206 with `Next-Range`, which a client
//! sends back as it is.
//!
//! A field that the list cannot be sorted by is ignored as long as no bounds come with it, because heroku3 names such
//! (`domain ..; ;`); so are ranges of another unit (`bytes=0-99`). Whatever would give other items than those asked for
//! is refused with 416: bounds of an unknown field, a bound that is none, a `max` or an `order` that means nothing.
//!
//! Invariant: following `Next-Range` gives every item once. Items that the field does not tell apart are never parted: a
//! page goes on to the last of them.
//!
//! Source: <https://devcenter.heroku.com/articles/platform-api-reference#ranges>.

use crate::api::representation::NEXT_RANGE;
use crate::error::ApiError;
use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, RANGE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use std::cmp::Ordering;
use std::convert::Infallible;

/// Items of a list when the client does not say how many. Source: Heroku.
const DEFAULT_MAX: usize = 200;
/// Most items of a list at once. Source: Heroku.
const LARGEST_MAX: usize = 1000;

/// What a client asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ListRange {
    field: Option<String>,
    start: Option<String>,
    start_excluded: bool,
    end: Option<String>,
    max: usize,
    descending: bool,
    /// What of the header makes no sense.
    nonsense: Option<String>,
}

/// How a list is sorted by a field, and where an item has it.
#[derive(Debug, Clone, Copy)]
pub enum SortBy<T> {
    Number(fn(&T) -> i64),
    Text(fn(&T) -> String),
    /// Names with a number: `web.2` is before `web.10`.
    Numbered(fn(&T) -> String),
}

/// A field that a list can be sorted by, with its name in the header.
pub type SortField<T> = (&'static str, SortBy<T>);

/// What one item is sorted by. All of a list are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Number(i64),
    Text(String),
    Numbered(String, u64),
}

impl<T> SortBy<T> {
    fn key(&self, item: &T) -> SortKey {
        match self {
            Self::Number(of) => SortKey::Number(of(item)),
            Self::Text(of) => SortKey::Text(of(item)),
            Self::Numbered(of) => numbered(&of(item)),
        }
    }

    /// What a client means by a bound; None when it is no value of this field.
    fn bound(&self, text: &str) -> Option<SortKey> {
        // An end that is left out is nothing that Heroku has.
        if text.contains(['[', ']']) {
            return None;
        }
        match self {
            Self::Number(_) => text.parse().ok().map(SortKey::Number),
            Self::Text(_) => Some(SortKey::Text(text.to_owned())),
            Self::Numbered(_) => Some(numbered(text)),
        }
    }
}

/// `web.2` in its two parts; what has no number comes before what has one.
fn numbered(name: &str) -> SortKey {
    let parts = name.rsplit_once('.').and_then(|(kind, number)| Some((kind, number.parse().ok()?)));
    let (kind, number) = parts.unwrap_or((name, 0));
    SortKey::Numbered(kind.to_owned(), number)
}

impl ListRange {
    /// Reads the header's value.
    pub fn parse(text: &str) -> Self {
        let mut range = Self { max: DEFAULT_MAX, ..Self::default() };
        let (span, options) = text.split_once(';').unwrap_or((text, ""));
        range.read_span(span.trim());
        for option in options.split([';', ',']).map(str::trim) {
            match option.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("max", number)) => match number.parse::<usize>() {
                    Ok(max) if max > 0 => range.max = max.min(LARGEST_MAX),
                    _ => range.nonsense = Some(option.to_owned()),
                },
                Some(("order", order)) if order.eq_ignore_ascii_case("desc") => range.descending = true,
                Some(("order", order)) if order.eq_ignore_ascii_case("asc") => range.descending = false,
                Some(("order", _)) => range.nonsense = Some(option.to_owned()),
                None if option == "max" || option == "order" => range.nonsense = Some(option.to_owned()),
                _ => {}
            }
        }
        range
    }

    /// Reads `FIELD START..END`.
    fn read_span(&mut self, span: &str) {
        // `bytes=0-99` is a range of another unit, which a server may ignore (RFC 9110, 14.2).
        if span.is_empty() || span.contains('=') {
            return;
        }
        let piece = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let (field, span_of_field) = span.split_once(' ').unwrap_or((span, ".."));
        let Some((start, end)) = span_of_field.trim().split_once("..") else {
            self.nonsense = Some(span.to_owned());
            return;
        };
        self.field = piece(field);
        self.start_excluded = start.trim().starts_with(']');
        let start = start.trim();
        self.start = piece(start.strip_prefix([']', '[']).unwrap_or(start));
        self.end = piece(end);
    }

    /// The part of `items` that was asked for, as an answer. `fields` are those it can be sorted by, the
    /// default first; `id`, or the default where there is none, must be unique among the items. 416 when there is no such part.
    pub fn answer<T: Serialize>(&self, items: Vec<T>, fields: &[SortField<T>]) -> Response {
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        let asked = fields.iter().find(|(name, _)| Some(*name) == self.field.as_deref());
        let (name, by) = asked.unwrap_or(&fields[0]);
        let refuse = |nonsense: &str| {
            let mut response = unsatisfiable(nonsense, &names).into_response();
            insert(response.headers_mut(), ACCEPT_RANGES, &names);
            response
        };
        let (start, end) = match self.bounds(asked.map(|(_, by)| by)) {
            Ok(bounds) => bounds,
            Err(nonsense) => return refuse(&nonsense),
        };
        let direction = |order: Ordering| if self.descending { order.reverse() } else { order };
        let (_, unique) = fields.iter().find(|(name, _)| *name == "id").unwrap_or(&fields[0]);
        let mut items: Vec<(SortKey, SortKey, T)> =
            items.into_iter().map(|item| (by.key(&item), unique.key(&item), item)).collect();
        items.sort_by(|one, other| direction((&one.0, &one.1).cmp(&(&other.0, &other.1))));
        items.retain(|(key, ..)| {
            let after_start = start.as_ref().is_none_or(|start| match direction(key.cmp(start)) {
                Ordering::Less => false,
                Ordering::Equal => !self.start_excluded,
                Ordering::Greater => true,
            });
            after_start && end.as_ref().is_none_or(|end| direction(key.cmp(end)) != Ordering::Greater)
        });
        let mut length = items.len().min(self.max);
        while length > 0 && length < items.len() && items[length].0 == items[length - 1].0 {
            length += 1;
        }
        let is_cut = items.len() > length;
        items.truncate(length);
        let ends = items.first().zip(items.last()).map(|(first, last)| (text(by, first), text(by, last)));
        let items: Vec<T> = items.into_iter().map(|(.., item)| item).collect();
        let status = if is_cut { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut response = (status, Json(items)).into_response();
        let headers = response.headers_mut();
        insert(headers, ACCEPT_RANGES, &names);
        if let Some((first, last)) = ends {
            insert(headers, CONTENT_RANGE, &format!("{name} {first}..{last}"));
            if is_cut {
                let order = if self.descending { ", order=desc" } else { "" };
                let end = self.end.as_deref().unwrap_or("");
                let next = format!("{name} ]{last}..{end}; max={}{order}", self.max);
                insert(headers, NEXT_RANGE, &next);
            }
        }
        response
    }

    /// Where the part begins and ends; `by` is the field that was named, if there is such. What makes no sense, otherwise.
    fn bounds<T>(&self, by: Option<&SortBy<T>>) -> Result<(Option<SortKey>, Option<SortKey>), String> {
        if let Some(nonsense) = &self.nonsense {
            return Err(nonsense.clone());
        }
        let read = |bound: &Option<String>| match (bound, by) {
            (None, _) => Ok(None),
            (Some(_), None) => Err(self.field.clone().unwrap_or_default()),
            (Some(bound), Some(by)) => by.bound(bound).map(Some).ok_or_else(|| bound.clone()),
        };
        Ok((read(&self.start)?, read(&self.end)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ListRange {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let value = parts.headers.get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or("");
        Ok(Self::parse(value))
    }
}

fn unsatisfiable(nonsense: &str, names: &str) -> ApiError {
    let message = format!(
        "The Range header asks for a part that this list does not have ({nonsense}). Send `FIELD START..END; max=N, \
         order=asc`, where FIELD is one of: {names}; N is 1 to {LARGEST_MAX}."
    );
    ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "requested_range_not_satisfiable", message)
}

/// The field of an item as a client names it.
fn text<T>(by: &SortBy<T>, (_, _, item): &(SortKey, SortKey, T)) -> String {
    match by {
        SortBy::Number(of) => of(item).to_string(),
        SortBy::Text(of) | SortBy::Numbered(of) => of(item),
    }
}

fn insert(headers: &mut http::HeaderMap, name: HeaderName, value: &str) {
    // Keys are names and ids; one with other letters could not be sent back in a header anyway.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn ask(range: &str, count: i64) -> (u16, Vec<i64>, Option<String>) {
        let fields: [SortField<i64>; 2] = [
            ("version", SortBy::Number(|number| *number)),
            ("id", SortBy::Text(|number| format!("{number:03}"))),
        ];
        let response = ListRange::parse(range).answer((1..=count).collect(), &fields);
        let status = response.status().as_u16();
        let next = response.headers().get(NEXT_RANGE).map(|value| value.to_str().expect("text").to_owned());
        let body = response.into_body().collect().await.expect("in memory").to_bytes();
        // A refusal is no list.
        (status, serde_json::from_slice(&body).unwrap_or_default(), next)
    }

    #[tokio::test]
    async fn every_form_that_clients_send_is_understood_and_nonsense_is_refused() {
        let cases: [(&str, u16, &[i64], Option<&str>); 31] = [
            ("", 200, &[1, 2, 3], None),
            ("id ..; ;", 200, &[1, 2, 3], None),
            ("id ..; max=1000;", 200, &[1, 2, 3], None),
            ("version ..; ;", 200, &[1, 2, 3], None),
            ("version ..; max=15, order=desc", 200, &[3, 2, 1], None),
            ("version ..; order=desc,max=1", 206, &[3], Some("version ]3..; max=1, order=desc")),
            ("version ]3..; max=1, order=desc", 206, &[2], Some("version ]2..; max=1, order=desc")),
            ("version ]2..; max=1, order=desc", 200, &[1], None),
            ("version 2..; max=1", 206, &[2], Some("version ]2..; max=1")),
            ("version 1..2", 200, &[1, 2], None),
            ("id ]001..; max=1", 206, &[2], Some("id ]002..; max=1")),
            ("hostname ..; max=2", 206, &[1, 2], Some("version ]2..; max=2")),
            ("domain ..; ;", 200, &[1, 2, 3], None),
            ("domain ..; order=desc", 200, &[3, 2, 1], None),
            ("bytes=0-100", 200, &[1, 2, 3], None),
            ("version ..; max=9999999", 200, &[1, 2, 3], None),
            ("id", 200, &[1, 2, 3], None),
            (";;;==,, ..", 200, &[1, 2, 3], None),
            ("version 7..9", 200, &[], None),
            ("domain x..y; order=desc", 416, &[], None),
            ("version x..", 416, &[], None),
            ("version ..99999999999999999999", 416, &[], None),
            ("version 1-2", 416, &[], None),
            ("version ..; max=0", 416, &[], None),
            ("version ..; max=-1", 416, &[], None),
            ("version ..; max=many", 416, &[], None),
            ("version ..; order=up", 416, &[], None),
            ("version ..; max", 416, &[], None),
            ("version 1..3[", 416, &[], None),
            ("id 001..003[", 416, &[], None),
            ("id ]]001..", 416, &[], None),
        ];
        for (range, status, items, next) in cases {
            let (seen_status, seen_items, seen_next) = ask(range, 3).await;
            assert_eq!(
                (seen_status, &seen_items[..], seen_next.as_deref()),
                (status, items, next),
                "{range:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_bound_is_none_of_an_empty_list_either() {
        assert_eq!(ask("version x..", 0).await.0, 416);
        assert_eq!(ask("version 1..", 0).await.0, 200);
    }

    #[tokio::test]
    async fn items_with_the_same_key_are_not_parted() {
        // Tens, and ten of each.
        let fields: [SortField<i64>; 2] =
            [("tens", SortBy::Number(|number| number / 10)), ("id", SortBy::Number(|number| *number))];
        for (order, first) in [("", 0..20), (", order=desc", 10..30)] {
            let response =
                ListRange::parse(&format!("tens ..; max=11{order}")).answer((0..30).collect(), &fields);
            let next = response.headers()[NEXT_RANGE].to_str().expect("text").to_owned();
            let body = response.into_body().collect().await.expect("in memory").to_bytes();
            let mut seen: Vec<i64> = serde_json::from_slice(&body).expect("a list");
            let response = ListRange::parse(&next).answer((0..30).collect(), &fields);
            assert!(!response.headers().contains_key(NEXT_RANGE));
            let body = response.into_body().collect().await.expect("in memory").to_bytes();
            let rest: Vec<i64> = serde_json::from_slice(&body).expect("a list");
            seen.sort_unstable();
            assert_eq!((seen, rest.len()), (first.collect(), 10), "{order}");
        }
    }

    #[tokio::test]
    async fn names_with_numbers_are_in_the_order_of_the_numbers() {
        let fields: [SortField<i64>; 1] = [("name", SortBy::Numbered(|number| format!("web.{number}")))];
        let response = ListRange::parse("name web.2..web.11").answer((1..=20).rev().collect(), &fields);
        assert_eq!(response.headers()[CONTENT_RANGE], "name web.2..web.11");
        let body = response.into_body().collect().await.expect("in memory").to_bytes();
        let items: Vec<i64> = serde_json::from_slice(&body).expect("a list");
        assert_eq!(items, (2..=11).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn following_next_range_gives_every_item_once() {
        for order in ["", ", order=desc"] {
            let mut range = format!("version ..; max=7{order}");
            let mut all = Vec::new();
            for _ in 0..100 {
                let (_, items, next) = ask(&range, 50).await;
                all.extend(items);
                let Some(next) = next else { break };
                range = next;
            }
            let mut expected: Vec<i64> = (1..=50).collect();
            if !order.is_empty() {
                expected.reverse();
            }
            assert_eq!(all, expected);
        }
        assert_eq!(ask("", 300).await.1.len(), DEFAULT_MAX);
    }
}
