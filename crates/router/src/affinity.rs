//! Session affinity: a client stays with the dyno that answered it first, by a cookie.
//!
//! Heroku's cookie (Dev Center, "Session Affinity"): `heroku-session-affinity`, opaque, HttpOnly, for a day. It pins
//! for as long as the dyno gets requests; afterwards the next answer pins anew. The app sees the cookie too.

use ferroku_core::DynoId;
use http::header::{self, HeaderMap, HeaderValue};
use uuid::Uuid;

const COOKIE: &str = "heroku-session-affinity";
/// How long a client keeps the cookie, in seconds (Heroku: a day).
const MAX_AGE_SECONDS: u32 = 86_400;

/// The dyno that a request's cookie names.
pub fn wanted(headers: &HeaderMap) -> Option<DynoId> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = cookies.flat_map(|value| value.split(';')).filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then(|| value.trim_matches('"'))
    });
    Uuid::try_parse(values.next()?).ok().map(DynoId)
}

/// The Set-Cookie that pins to a dyno.
pub fn pin(dyno_id: DynoId) -> HeaderValue {
    let text = format!("{COOKIE}={}; Max-Age={MAX_AGE_SECONDS}; Path=/; HttpOnly", dyno_id.0.simple());
    HeaderValue::try_from(text).expect("a UUID is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_among_others_and_nonsense_pins_nothing() {
        let dyno_id = DynoId(Uuid::from_u128(7));
        let pair = pin(dyno_id).to_str().unwrap().split(';').next().unwrap().to_owned();
        for (cookie, found) in [
            (format!("a=1; {pair}; b=2"), true),
            (format!("x{pair}"), false),
            (format!("{COOKIE}=x"), false),
            (format!("{COOKIE}="), false),
            ("a=1".to_owned(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            assert_eq!(wanted(&headers), found.then_some(dyno_id), "{cookie}");
        }
    }
}
