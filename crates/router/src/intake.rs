//! What is decided about a request before any dyno is asked: whose it is, and whether the router itself answers.
//!
//! In: a parsed request. Out: the router's own answer, or an [`Exchange`] and the request for
//! [`crate::proxy::forward`]. In this order: what no HTTP client may ask of a gateway, ACME challenges (any
//! host, RFC 8555 section 8.3), the app, and then the app's rules.
//!
//! Invariant: once the app is known, every answer is recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use crate::affinity;
use crate::body::ProxyBody;
use crate::exchange::{About, Exchange};
use crate::failure::Failure;
use crate::headers;
use crate::pages;
use crate::proxy::{self, Outgoing};
use crate::shared::{Client, Open, Shared};
use crate::table::{Table, strip_port};
use crate::target;

/// Where a certificate authority looks for a challenge's answer.
const ACME_PREFIX: &str = "/.well-known/acme-challenge/";

/// Answers one request.
pub async fn handle(
    shared: &Arc<Shared>,
    client: &Arc<Client>,
    request: Request<Incoming>,
) -> Response<ProxyBody> {
    let open = client.begin();
    let version = request.version();
    let mut response = answer(shared, client, open, request).await;
    if shared.leaving.load(Ordering::Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response = closing(response, version);
    }
    response
}

/// Has the connection end with this answer. HTTP/2 has no such header; it says GOAWAY when the router leaves.
fn closing(mut response: Response<ProxyBody>, version: Version) -> Response<ProxyBody> {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(
    shared: &Arc<Shared>,
    client: &Arc<Client>,
    open: Open,
    mut request: Request<Incoming>,
) -> Response<ProxyBody> {
    let host = match target::host(&request) {
        Ok(host) => host,
        // What a body would be is in doubt too, so nothing after it is read.
        Err(status) => return closing(pages::plain(status), request.version()),
    };
    if shared.table.load().is_none() && !wait_for_first_table(shared).await {
        return pages::plain(StatusCode::SERVICE_UNAVAILABLE);
    }
    let (app, misdirected) = {
        let table = shared.table.load();
        let Some(table) = table.as_ref() else { return pages::plain(StatusCode::SERVICE_UNAVAILABLE) };
        if let Some(answer) = acme_answer(table, request.uri().path()) {
            return answer;
        }
        match host.to_str().ok().and_then(|host| table.find(host)) {
            Some(app) => (app.clone(), is_misdirected(table, client, &host)),
            None => return pages::no_such_app(),
        }
    };
    headers::join_cookies(&mut request);
    let identity = client.headers.identify(request.headers());
    let about = About {
        method: request.method().clone(),
        uri: request.uri().clone(),
        host: host.clone(),
        version: request.version(),
    };
    let mut exchange = Exchange::new(shared.clone(), client.clone(), app, about, identity, open);
    if misdirected {
        return proxy::fail(exchange, Failure::CertificateMismatch);
    }
    if exchange.app.route.https_redirect && client.tls.is_none() {
        return redirect(exchange);
    }
    if headers::has_oversized_line(request.headers()) {
        return proxy::fail(exchange, Failure::BadHeader);
    }
    if let Some(expect) = request.headers().get(header::EXPECT)
        && !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return proxy::fail(exchange, Failure::UnsupportedExpect);
    }
    if exchange.app.route.session_affinity {
        exchange.wanted = affinity::wanted(request.headers());
    }
    let upgrade = headers::upgrade_of(&request).map(|_| hyper::upgrade::on(&mut request));
    let outgoing = Outgoing::new(request, host, &mut exchange);
    proxy::forward(exchange, outgoing, upgrade).await
}

/// Before the first table nobody knows which apps there are; control sends it as soon as it is up.
async fn wait_for_first_table(shared: &Shared) -> bool {
    let mut changed = shared.table_changed.subscribe();
    let came = changed.wait_for(|_| shared.table.load().is_some());
    tokio::time::timeout(shared.timeouts.boot, came).await.is_ok()
}

fn acme_answer(table: &Table, path: &str) -> Option<Response<ProxyBody>> {
    if table.acme_challenges.is_empty() {
        return None;
    }
    let authorization = table.acme_challenges.get(path.strip_prefix(ACME_PREFIX)?)?;
    let mut response = Response::new(ProxyBody::full(Bytes::from(authorization.clone())));
    let content_type = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Some(response)
}

/// Whether the client's TLS connection was made for a host with another certificate: a client that shares
/// connections may send only what its certificate is for (RFC 9110, section 7.4).
fn is_misdirected(table: &Table, client: &Client, host: &HeaderValue) -> bool {
    let Some(shown) = client.tls.as_ref().and_then(|tls| tls.server_name.as_deref()) else { return false };
    let host = strip_port(host.to_str().unwrap_or_default());
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.eq_ignore_ascii_case(shown) {
        return false;
    }
    let certificates = &table.certificates;
    match (certificates.find(shown), certificates.find(&host.to_ascii_lowercase())) {
        (Some(shown), Some(wanted)) => !Arc::ptr_eq(shown, wanted),
        _ => true,
    }
}

/// Sends a client that came in clear text to https: 301 as everybody does for what is only read, and 308 for
/// the rest, because with 301 clients make a GET of it and lose the body (RFC 9110, section 15.4.9).
fn redirect(mut exchange: Box<Exchange>) -> Response<ProxyBody> {
    let is_read = exchange.method == Method::GET || exchange.method == Method::HEAD;
    let status = if is_read { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    let host = strip_port(exchange.host.to_str().unwrap_or_default());
    let port = match exchange.shared.https_port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let target = exchange.uri.path_and_query().map_or("/", |target| target.as_str());
    // `OPTIONS *` has no path to go to.
    let target = if target.starts_with('/') { target } else { "/" };
    let Ok(location) = HeaderValue::try_from(format!("https://{host}{port}{target}")) else {
        return proxy::fail(exchange, Failure::BadHeader);
    };
    let mut response = Response::new(ProxyBody::Full(None));
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::VIA, headers::VIA);
    exchange.status = Some(status.as_u16());
    exchange.bytes = Some(0);
    exchange.finish(None);
    response
}
