//! The way of one request to a dyno: ask whether it may pass, choose a dyno, send, answer.
//!
//! Invariants: a request is sent a second time only when nothing of it was sent before, or when it is safe
//! to repeat (RFC 9110 section 9.2.1), has no body and went over a kept connection that the dyno closed
//! without answering. Every request of a known app ends in exactly one record.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::{Body, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;

use crate::affinity;
use crate::body::{ProxyBody, RequestBody, ResponseBody, Upload};
use crate::choice::{Admission, Choice, Hold, Tried, waiting_limit};
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::headers;
use crate::limits::{COOKIE_LIMIT_BYTES, REUSE_UNSAFE_WITHIN};
use crate::pages;
use crate::table::{App, Target};
use crate::tunnel;
use crate::upstream::{self, IdleConnection, Protocol, Sender};

/// The request as it goes to a dyno.
pub struct Outgoing {
    head: Head,
    body: RequestBody,
    upload: Option<Arc<Upload>>,
    /// May be sent again although it may have arrived.
    repeatable: bool,
}

#[derive(Clone)]
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    protocol: Protocol,
}

impl Outgoing {
    /// Rewrites what the client sent.
    pub fn new(request: Request<Incoming>, host: HeaderValue, exchange: &mut Exchange) -> Self {
        let upgrade = headers::upgrade_of(&request);
        // An upgrade is a matter of HTTP/1.1.
        let protocol =
            if exchange.app.route.http2 && upgrade.is_none() { Protocol::Http2 } else { Protocol::Http1 };
        let (Parts { method, uri, mut headers, .. }, body) = request.into_parts();
        let accepts_trailers = headers::accepts_trailers(&headers);
        let via = headers::via(exchange.version);
        exchange.client.headers.rewrite_request(&mut headers, upgrade, &exchange.identity, via, now_ms());
        let uri = match protocol {
            Protocol::Http1 => {
                headers.insert(header::HOST, host);
                origin_form(uri)
            }
            Protocol::Http2 => {
                headers::fit_http2(&mut headers, accepts_trailers);
                absolute_form(uri, &host)
            }
        };
        let (body, upload) = if body.is_end_stream() {
            (RequestBody::Empty, None)
        } else {
            let upload = Upload::new();
            (RequestBody::Streaming(body, upload.clone()), Some(upload))
        };
        exchange.upload = upload.clone();
        let safe = method == Method::GET || method == Method::HEAD || method == Method::OPTIONS;
        let repeatable = safe && upload.is_none();
        Self { head: Head { method, uri, headers, protocol }, body, upload, repeatable }
    }
}

impl Head {
    fn with(self, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        *request.version_mut() = match self.protocol {
            Protocol::Http1 => Version::HTTP_11,
            Protocol::Http2 => Version::HTTP_2,
        };
        request
    }
}

fn origin_form(uri: Uri) -> Uri {
    if uri.authority().is_none() {
        return uri;
    }
    uri.path_and_query().map_or_else(|| Uri::from_static("/"), |target| Uri::from(target.clone()))
}

/// HTTP/2 takes `:scheme` and `:authority` from it.
fn absolute_form(uri: Uri, host: &HeaderValue) -> Uri {
    let target = origin_form(uri);
    let absolute = Uri::builder()
        .scheme("http")
        .authority(host.as_bytes())
        .path_and_query(target.path_and_query().map_or("/", |target| target.as_str()));
    // A host that is none was refused before.
    absolute.build().unwrap_or(target)
}

/// Chooses dynos and sends the request until one has it, then waits for the answer.
pub async fn forward(
    mut exchange: Box<Exchange>,
    outgoing: Outgoing,
    upgrade: Option<OnUpgrade>,
) -> Response<ProxyBody> {
    let Outgoing { head, body, upload, repeatable } = outgoing;
    let protocol = head.protocol;
    let mut request = head.with(body);
    let mut tried = Tried::new(exchange.arrived);
    let mut fresh_only = false;
    loop {
        if let Err(failure) = enter(&mut exchange, &mut tried).await {
            return fail(exchange, failure);
        }
        let (sender, reused) = match connection(&mut exchange, protocol, repeatable, fresh_only).await {
            Ok(connection) => connection,
            Err(failure) => {
                tried.failed(&mut exchange, failure);
                continue;
            }
        };
        let copy = (reused && repeatable).then(|| Head {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            protocol,
        });
        match send(&mut exchange, sender, request, upload.as_deref()).await {
            Sent::Answered(response, sender) => return pass_on(exchange, response, sender, upload, upgrade),
            Sent::Unsent(unsent) if reused => request = unsent,
            // A dyno that closes every new connection would be asked for ever.
            Sent::Unsent(_) => return fail(exchange, Failure::ClosedWithoutResponse),
            Sent::Failed(Failure::ClosedWithoutResponse) if copy.is_some() => {
                let copy = copy.expect("looked at in the guard");
                request = copy.with(RequestBody::Empty);
            }
            Sent::Failed(failure) => return fail(exchange, failure),
        }
        exchange.in_flight = None;
        fresh_only = true;
    }
}

/// Waits until the app has a dyno for the request and counts it in there.
async fn enter(exchange: &mut Exchange, tried: &mut Tried) -> Result<(), Failure> {
    loop {
        match crate::choice::admit(&exchange.app) {
            Admission::Refused(failure) => return Err(failure),
            Admission::Held(hold) => {
                wait(exchange, hold).await?;
                continue;
            }
            Admission::Passed => {}
        }
        match tried.choose(&exchange.app, exchange.wanted)? {
            Choice::Target(target) if target.is_asleep() => wake(exchange, tried, &target).await?,
            Choice::Target(target) => {
                if let Some(in_flight) = target.enter() {
                    exchange.dyno = Some(target);
                    exchange.in_flight = Some(in_flight);
                    return Ok(());
                }
                // It has just been retired: the table that says so is being put into place.
                tokio::task::yield_now().await;
                refresh(exchange)?;
            }
            Choice::Later(_) if tried.is_over(exchange.shared.timeouts.connect_budget) => {
                return Err(Failure::Platform);
            }
            Choice::Later(pause) => {
                tokio::time::sleep(pause).await;
                refresh(exchange)?;
            }
        }
    }
}

/// Wakes the dyno that was chosen. Of one that cannot be woken control is told, and the next look decides.
async fn wake(exchange: &mut Exchange, tried: &mut Tried, target: &Arc<Target>) -> Result<(), Failure> {
    let Some(_waiting) = exchange.app.state.wait(waiting_limit(&exchange.app)) else {
        return Err(Failure::BacklogTooDeep);
    };
    let timeouts = &exchange.shared.timeouts;
    if !crate::wake::wake(target, timeouts.connect).await {
        if tried.is_over(timeouts.boot) {
            return Err(Failure::BootTimeout);
        }
        exchange.shared.wake_needed.notify_one();
        tokio::time::sleep(tried.next_pause()).await;
    }
    refresh(exchange)
}

/// Waits for a table that may let the request pass.
async fn wait(exchange: &mut Exchange, hold: Hold) -> Result<(), Failure> {
    let deadline = exchange.arrived + exchange.shared.timeouts.boot;
    let Some(_waiting) = exchange.app.state.wait(waiting_limit(&exchange.app)) else {
        return Err(Failure::BacklogTooDeep);
    };
    // Control is told by the first that waits; the main task repeats it as long as one does.
    if hold == Hold::Sleep && exchange.app.state.waiting() == 1 {
        exchange.shared.wake_needed.notify_one();
    }
    wait_for_next_table(exchange, deadline).await
}

async fn wait_for_next_table(exchange: &mut Exchange, deadline: Instant) -> Result<(), Failure> {
    let mut changed = exchange.shared.table_changed.subscribe();
    // A table that came between the look and the subscription must not be missed.
    let app = exchange.app.clone();
    refresh(exchange)?;
    if !Arc::ptr_eq(&app, &exchange.app) {
        return Ok(());
    }
    match tokio::time::timeout_at(deadline.into(), changed.changed()).await {
        Ok(_) => refresh(exchange),
        Err(_) => Err(Failure::BootTimeout),
    }
}

/// Looks the app up again in the table of now.
fn refresh(exchange: &mut Exchange) -> Result<(), Failure> {
    let table = exchange.shared.table.load();
    let found: Option<&Arc<App>> =
        table.as_ref().and_then(|table| table.find(exchange.host.to_str().unwrap_or_default()));
    // An app that was destroyed meanwhile has nothing that could answer.
    exchange.app = found.cloned().ok_or(Failure::NoWebProcesses)?;
    Ok(())
}

/// A connection to the chosen dyno, and whether it was used before.
async fn connection(
    exchange: &mut Exchange,
    protocol: Protocol,
    repeatable: bool,
    fresh_only: bool,
) -> Result<(Sender, bool), Failure> {
    let in_flight = exchange.in_flight.as_ref().ok_or(Failure::Platform)?;
    let timeouts = &exchange.shared.timeouts;
    let limit = if repeatable { timeouts.dyno_keep_alive } else { REUSE_UNSAFE_WITHIN };
    if protocol == Protocol::Http2 {
        // Whether it is still alive is known at once: the dyno says GOAWAY or closes it, and what it had not taken
        // comes back.
        if !fresh_only
            && let Some(sender) = in_flight.0.share(exchange.client.worker, timeouts.dyno_keep_alive)
        {
            exchange.connect_ms = Some(0);
            return Ok((sender, true));
        }
    } else if !fresh_only {
        while let Some(idle) = in_flight.0.take_idle(exchange.client.worker) {
            if idle.is_usable(limit)
                && let Some(sender) = idle.ready().await
            {
                exchange.connect_ms = Some(0);
                return Ok((sender, true));
            }
        }
    }
    let started = Instant::now();
    let mut sender = upstream::connect(in_flight.0.address, protocol, timeouts.connect).await?;
    if protocol == Protocol::Http2 {
        let shared = in_flight.0.put_shared(exchange.client.worker, IdleConnection::new(sender));
        sender = shared.ok_or(Failure::Platform)?;
    }
    exchange.connect_ms = Some(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    Ok((sender, false))
}

enum Sent {
    Answered(Response<Incoming>, Sender),
    /// The connection was closed before anything was sent.
    Unsent(Request<RequestBody>),
    Failed(Failure),
}

/// Sends the request and waits for the head of the response.
async fn send(
    exchange: &mut Exchange,
    mut sender: Sender,
    request: Request<RequestBody>,
    upload: Option<&Upload>,
) -> Sent {
    let dispatched = Instant::now();
    exchange.dispatched = Some(dispatched);
    let timeouts = &exchange.shared.timeouts;
    let mut deadline = dispatched + timeouts.first_byte;
    let result = {
        let mut response = std::pin::pin!(sender.send(request));
        loop {
            match tokio::time::timeout_at(deadline.into(), response.as_mut()).await {
                Ok(result) => break result,
                Err(_) => match next_deadline(upload, timeouts.first_byte, timeouts.idle) {
                    Ok(later) => deadline = later,
                    Err(failure) => return Sent::Failed(failure),
                },
            }
        }
    };
    match result {
        Ok(response) => Sent::Answered(response, sender),
        Err(mut error) => match error.take_message() {
            Some(unsent) if upload.is_none_or(|upload| upload.waits_for_client()) => Sent::Unsent(unsent),
            Some(_) => Sent::Failed(Failure::ClosedWithoutResponse),
            None => Sent::Failed(
                upload.and_then(Upload::failure).unwrap_or_else(|| upstream::failure_of(error.error())),
            ),
        },
    }
}

/// While a client uploads, its dyno need not answer: the limit counts from the last byte that moved.
fn next_deadline(
    upload: Option<&Upload>,
    first_byte: std::time::Duration,
    idle: std::time::Duration,
) -> Result<Instant, Failure> {
    let Some(upload) = upload else { return Err(Failure::RequestTimeout) };
    let (limit, failure) = if upload.waits_for_client() {
        (idle, Failure::ClientIdle)
    } else {
        (first_byte, Failure::RequestTimeout)
    };
    match limit.checked_sub(upload.idle()) {
        Some(rest) if !rest.is_zero() => Ok(Instant::now() + rest),
        _ => Err(failure),
    }
}

/// Turns the dyno's response into the client's.
fn pass_on(
    mut exchange: Box<Exchange>,
    mut response: Response<Incoming>,
    sender: Sender,
    upload: Option<Arc<Upload>>,
    upgrade: Option<OnUpgrade>,
) -> Response<ProxyBody> {
    let status = response.status();
    if response.headers().get_all(header::SET_COOKIE).iter().any(|cookie| cookie.len() > COOKIE_LIMIT_BYTES) {
        return fail(exchange, Failure::OversizedCookie);
    }
    // Heroku's router wants a reason phrase; RFC 9112 section 4 lets it be empty.
    if response.extensions().get::<ReasonPhrase>().is_some_and(|reason| reason.as_bytes().is_empty()) {
        return fail(exchange, Failure::PoorlyFormattedResponse);
    }
    exchange.status = Some(status.as_u16());
    if exchange.app.route.session_affinity
        && let Some(dyno) = &exchange.dyno
        && exchange.wanted != Some(dyno.dyno_id)
    {
        response.headers_mut().append(header::SET_COOKIE, affinity::pin(dyno.dyno_id));
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = upgrade else { return fail(exchange, Failure::PoorlyFormattedResponse) };
        let dyno = hyper::upgrade::on(&mut response);
        let shared = exchange.shared.clone();
        shared.tasks.spawn(tunnel::run(client, dyno, exchange));
        headers::rewrite_response(response.headers_mut(), true);
        return response.map(|_| ProxyBody::Full(None));
    }
    headers::rewrite_response(response.headers_mut(), false);
    *response.version_mut() = Version::HTTP_11;
    response.map(|body| ResponseBody::new(body, exchange, upload, sender))
}

/// Answers with the page for `failure` and writes the record.
pub fn fail(mut exchange: Box<Exchange>, failure: Failure) -> Response<ProxyBody> {
    let url = match failure {
        Failure::Maintenance => exchange.app.route.maintenance_page_url.as_deref(),
        _ => exchange.app.route.error_page_url.as_deref(),
    };
    let response = pages::failure(failure, url);
    if exchange.dispatched.is_some() {
        exchange.bytes = Some(0);
    }
    exchange.finish(Some(failure));
    response
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
