//! What a request says about where it goes and where it ends: refused here when it is in doubt, so that no dyno's
//! server can read it in another way than the router did.
//!
//! In: the head of a request as hyper parsed it. Out: the host that the request is for, or the status of a refusal.
//! Source: RFC 9112 sections 3.2 (targets, Host), 6.1 and 6.3 (framing), RFC 9110 section 4.2.1 (empty hosts).

use http::header::{self, HeaderMap};
use http::{HeaderValue, Method, Request, StatusCode, Version};

use crate::limits::{METHOD_LIMIT_BYTES, REQUEST_TARGET_LIMIT_BYTES};

/// The host that the request is for, once its target and its framing are in no doubt.
///
/// # Errors
/// The status of the answer.
pub fn host<B>(request: &Request<B>) -> Result<HeaderValue, StatusCode> {
    check_target(request)?;
    if request.version() < Version::HTTP_2 {
        check_coding(request.headers())?;
    }
    let host = host_of(request).ok_or(StatusCode::BAD_REQUEST)?;
    if is_host(host.as_bytes()) { Ok(host) } else { Err(StatusCode::BAD_REQUEST) }
}

fn check_target<B>(request: &Request<B>) -> Result<(), StatusCode> {
    if request.method() == Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if request.method().as_str().len() > METHOD_LIMIT_BYTES {
        return Err(StatusCode::BAD_REQUEST);
    }
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > REQUEST_TARGET_LIMIT_BYTES {
        return Err(StatusCode::URI_TOO_LONG);
    }
    // The authority form belongs to CONNECT, the asterisk to OPTIONS.
    let is_authority = uri.authority().is_some() && uri.scheme().is_none();
    if is_authority || (target == "*" && request.method() != Method::OPTIONS) {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(())
}

/// The only coding that the router undoes is one `chunked`. A dyno would get any other one without its name.
fn check_coding(headers: &HeaderMap) -> Result<(), StatusCode> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(StatusCode::NOT_IMPLEMENTED),
    }
}

/// The target's own host in absolute form, which still needs a Host header in HTTP/1.1; otherwise the only Host
/// header.
fn host_of<B>(request: &Request<B>) -> Option<HeaderValue> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return None;
    }
    match request.uri().authority() {
        // HTTP/2 may name it twice only if it is the same (RFC 9113, section 8.3.1).
        Some(authority)
            if request.version() == Version::HTTP_2
                && first.is_some_and(|host| {
                    !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
                }) =>
        {
            None
        }
        Some(_) if first.is_none() && request.version() == Version::HTTP_11 => None,
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => first.cloned(),
    }
}

/// `name`, `name:port` or `[address]:port`, without user information; not whether it exists.
fn is_host(host: &[u8]) -> bool {
    let (name, rest) = match host.split_first() {
        Some((b'[', inside)) => match inside.iter().position(|byte| *byte == b']') {
            Some(end) => (&inside[..end], &inside[end + 1..]),
            None => return false,
        },
        _ => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%:".contains(byte);
    let is_port = rest.is_empty() || (rest[0] == b':' && rest[1..].iter().all(u8::is_ascii_digit));
    !name.is_empty() && name.iter().all(is_name) && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in ["a", "a.b.", "A-1_x.b:8080", "a:", "127.0.0.1:1", "[::1]", "[fe80::1]:80", "*.a"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["", ":80", "a@b", "a/b", "a b", "a,b", "a:b", "a:80:80", "[::1", "[]", "[::1]x", "a\\b", "a?b"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
