//! What happens to headers on their way through, both ways.
//!
//! Hop-by-hop headers end here (RFC 9110 section 7.6.1); the dyno learns about the client through
//! X-Forwarded-For (appended at the right), -Proto and -Port, X-Request-Id, X-Request-Start and Via.
//! Invariant: a body's framing is never passed on as received; hyper writes it anew.

use std::net::IpAddr;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Version};

use crate::limits::{HEADER_LINE_LIMIT_BYTES, HEADER_NAME_LIMIT_BYTES};

/// Our name in `Via`, on requests and responses.
pub const VIA: HeaderValue = HeaderValue::from_static("1.1 ferroku-router");
const SERVER: HeaderValue = HeaderValue::from_static("Ferroku");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Servers that follow CGI would take it for the variable HTTP_PROXY (CVE-2016-5385, "httpoxy").
const PROXY: HeaderName = HeaderName::from_static("proxy");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");

/// What the router adds to every request of one client connection.
#[derive(Debug)]
pub struct ClientHeaders {
    address_text: HeaderValue,
    proto: HeaderValue,
    port: HeaderValue,
}

/// What the log line needs of the headers that were set.
#[derive(Debug, Clone)]
pub struct Identity {
    pub request_id: HeaderValue,
    pub forwarded_for: HeaderValue,
}

impl ClientHeaders {
    /// For a client at `address` that reached the public `port`.
    pub fn new(address: IpAddr, port: u16, tls: bool) -> Self {
        let address = address.to_canonical();
        let text =
            |text: String| HeaderValue::try_from(text).expect("addresses and numbers are visible ASCII");
        Self {
            address_text: text(address.to_string()),
            proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
            port: text(port.to_string()),
        }
    }

    /// The id and the client chain of a request, as they will stand in its headers.
    pub fn identify(&self, headers: &HeaderMap) -> Identity {
        let request_id = match headers.get(X_REQUEST_ID) {
            Some(given) if is_request_id(given.as_bytes()) => given.clone(),
            _ => new_request_id(),
        };
        Identity { request_id, forwarded_for: self.forwarded_for(headers) }
    }

    fn forwarded_for(&self, headers: &HeaderMap) -> HeaderValue {
        let mut values = headers.get_all(X_FORWARDED_FOR).iter().peekable();
        if values.peek().is_none() {
            return self.address_text.clone();
        }
        let mut chain = Vec::with_capacity(64);
        for value in values.chain(std::iter::once(&self.address_text)) {
            if !chain.is_empty() {
                chain.extend_from_slice(b", ");
            }
            chain.extend_from_slice(value.as_bytes());
        }
        HeaderValue::from_bytes(&chain).unwrap_or_else(|_| self.address_text.clone())
    }

    /// Rewrites the headers of a request for the dyno. `now_ms` is the time of arrival since the Unix epoch.
    pub fn rewrite_request(
        &self,
        headers: &mut HeaderMap,
        upgrade: Option<HeaderValue>,
        identity: &Identity,
        via: HeaderValue,
        now_ms: u64,
    ) {
        strip_look_alikes(headers);
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        strip_hop_by_hop(headers);
        headers.remove(header::EXPECT);
        if chunked {
            headers.remove(header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        } else if let Some(length) = headers.get_mut(header::CONTENT_LENGTH)
            && length.as_bytes().starts_with(b"0")
        {
            // hyper has read it as a decimal number; a dyno's server might take 010 for an octal one.
            let number: u64 = length.to_str().ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
            *length = HeaderValue::from(number);
        }
        if let Some(upgrade) = upgrade {
            headers.insert(header::UPGRADE, upgrade);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        headers.insert(X_FORWARDED_FOR, identity.forwarded_for.clone());
        headers.insert(X_FORWARDED_PROTO, self.proto.clone());
        headers.insert(X_FORWARDED_PORT, self.port.clone());
        headers.insert(X_REQUEST_ID, identity.request_id.clone());
        headers.insert(X_REQUEST_START, HeaderValue::from(now_ms));
        headers.append(header::VIA, via);
    }
}

/// Whether the client takes trailers (RFC 9110, section 10.1.4).
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| has_token(value.as_bytes(), b"trailers"))
}

/// Makes rewritten headers fit for a dyno that speaks HTTP/2: nothing about the connection (RFC 9113, section
/// 8.2.2), the host in the target; gRPC wants to be told that trailers are taken.
pub fn fit_http2(headers: &mut HeaderMap, accepts_trailers: bool) {
    headers.remove(header::HOST);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::CONNECTION);
    if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Rewrites the headers of a dyno's response for the client. `upgraded` keeps the switch to another protocol.
pub fn rewrite_response(headers: &mut HeaderMap, upgraded: bool) {
    let upgrade = if upgraded { headers.get(header::UPGRADE).cloned() } else { None };
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
    if upgraded {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(upgrade) = upgrade {
            headers.insert(header::UPGRADE, upgrade);
        }
    }
    headers.append(header::VIA, VIA);
    if let Entry::Vacant(entry) = headers.entry(header::SERVER) {
        entry.insert(SERVER);
    }
}

/// The protocol that the client wants to switch to. HTTP/2 in clear text is not offered: a tunnel with
/// requests of its own inside would bypass every rule above.
pub fn upgrade_of<B>(request: &Request<B>) -> Option<HeaderValue> {
    // HTTP/1.0 and HTTP/2 have no such thing (RFC 9110, section 7.8).
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let headers = request.headers();
    let upgrade = headers.get(header::UPGRADE)?;
    let asked =
        headers.get_all(header::CONNECTION).iter().any(|value| has_token(value.as_bytes(), b"upgrade"));
    let clear_text_http2 =
        headers.get_all(header::UPGRADE).iter().any(|value| has_token(value.as_bytes(), b"h2c"));
    (asked && !clear_text_http2).then(|| upgrade.clone())
}

/// Joins the pieces that HTTP/2 may cut a Cookie header into (RFC 9113, section 8.2.3).
pub fn join_cookies<B>(request: &mut Request<B>) {
    if request.version() != Version::HTTP_2
        || request.headers().get_all(header::COOKIE).iter().nth(1).is_none()
    {
        return;
    }
    let pieces: Vec<&[u8]> =
        request.headers().get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        request.headers_mut().insert(header::COOKIE, joined);
    }
}

/// What the router adds to the Via of a request that came in this version.
pub fn via(version: Version) -> HeaderValue {
    match version {
        Version::HTTP_2 => HeaderValue::from_static("2.0 ferroku-router"),
        Version::HTTP_10 => HeaderValue::from_static("1.0 ferroku-router"),
        _ => VIA,
    }
}

/// Whether a header line is longer than Heroku's router takes.
pub fn has_oversized_line(headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, value)| {
        name.as_str().len() > HEADER_NAME_LIMIT_BYTES
            || name.as_str().len() + 2 + value.len() > HEADER_LINE_LIMIT_BYTES
    })
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        strip_named_by_connection(headers);
        headers.remove(header::CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY,
        HTTP2_SETTINGS,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Removes headers that a dyno's server takes for one that the router vouches for: CGI, WSGI and Rack make the same
/// variable of `X_Forwarded_For` and `X-Forwarded-For`, and of `Content_Length` and `Content-Length`.
fn strip_look_alikes(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| name.as_str().contains('_')) {
        return;
    }
    let is_ours = |name: &str| {
        let name = name.replace('_', "-");
        name.starts_with("x-forwarded-")
            || ["content-length", "transfer-encoding", "host", "via", "x-request-id", "x-request-start"]
                .contains(&name.as_str())
    };
    let look_alikes: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_') && is_ours(name.as_str()))
        .cloned()
        .collect();
    for name in look_alikes {
        headers.remove(name);
    }
}

fn strip_named_by_connection(headers: &mut HeaderMap) {
    let mut named: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            let ordinary = token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close");
            if !ordinary && let Ok(name) = HeaderName::from_bytes(token) {
                named.push(name);
            }
        }
    }
    for name in named {
        // These say where the message goes and where it ends; a client cannot take them away.
        if name != header::HOST && name != header::CONTENT_LENGTH && name != header::COOKIE {
            headers.remove(name);
        }
    }
}

fn has_token(value: &[u8], wanted: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted))
}

/// Heroku's rule: 20 to 200 characters of `[A-Za-z0-9+/=-]`.
fn is_request_id(given: &[u8]) -> bool {
    (20..=200).contains(&given.len())
        && given.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=-".contains(byte))
}

fn new_request_id() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(crate::random::bytes()).into_uuid();
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("a UUID is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    fn rewritten(lines: &[(&str, &str)]) -> HeaderMap {
        let client = ClientHeaders::new("203.0.113.9".parse().unwrap(), 8080, false);
        let mut request = Request::new(());
        *request.headers_mut() = map(lines);
        let upgrade = upgrade_of(&request);
        let mut headers = request.into_parts().0.headers;
        let identity = client.identify(&headers);
        client.rewrite_request(&mut headers, upgrade, &identity, VIA, 1234);
        headers
    }

    #[test]
    fn request_ids_are_kept_or_made_by_herokus_rule() {
        for (given, kept) in [
            ("abcdefghij0123456789", true),
            ("abcdefghij012345678", false),
            ("abc+/=-def0123456789", true),
            ("abcdefghij_123456789", false),
            (&*"a".repeat(200), true),
            (&*"a".repeat(201), false),
        ] {
            let id = rewritten(&[("x-request-id", given)])[X_REQUEST_ID].clone();
            assert_eq!(id == given, kept, "{given}");
            assert!(kept || id.len() == 36, "{given}");
        }
    }

    #[test]
    fn the_client_is_appended_at_the_right_of_every_line_of_the_chain() {
        assert_eq!(rewritten(&[])[X_FORWARDED_FOR], "203.0.113.9");
        let headers = rewritten(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 3.3.3.3")]);
        assert_eq!(headers[X_FORWARDED_FOR], "1.1.1.1, 2.2.2.2, 3.3.3.3, 203.0.113.9");
        assert_eq!(headers.get_all(X_FORWARDED_FOR).iter().count(), 1);
        let mapped = ClientHeaders::new("::ffff:10.0.0.1".parse().unwrap(), 1, false);
        assert_eq!(mapped.identify(&HeaderMap::new()).forwarded_for, "10.0.0.1");
    }

    #[test]
    fn connection_cannot_take_away_what_the_router_says() {
        let headers = rewritten(&[
            ("connection", "x-forwarded-for, host, content-length, x-secret, close"),
            ("host", "a"),
            ("content-length", "3"),
            ("x-secret", "1"),
            ("x-forwarded-proto", "https"),
        ]);
        assert_eq!(headers["host"], "a");
        assert_eq!(headers["content-length"], "3");
        assert_eq!(headers[X_FORWARDED_FOR], "203.0.113.9");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");
        assert!(!headers.contains_key("x-secret") && !headers.contains_key("connection"));
    }

    #[test]
    fn only_an_upgrade_asked_for_by_connection_and_not_to_clear_text_http2_passes() {
        assert_eq!(
            rewritten(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")])["upgrade"],
            "websocket"
        );
        assert!(!rewritten(&[("upgrade", "websocket")]).contains_key("upgrade"));
        assert!(!rewritten(&[("upgrade", "h2c"), ("connection", "upgrade")]).contains_key("upgrade"));
    }
}
