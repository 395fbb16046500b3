//! The small HTML pages that the router itself answers with.
//!
//! An app may name pages of its own in the config vars ERROR_PAGE_URL and MAINTENANCE_PAGE_URL; they are
//! shown in a frame, as Heroku does, so that the status stays what it is.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::body::ProxyBody;
use crate::failure::Failure;
use crate::headers::VIA;

/// The page for `failure`, or the app's own page at `url` in a frame.
pub fn failure(failure: Failure, url: Option<&str>) -> Response<ProxyBody> {
    let body = match url {
        Some(url) => framed(failure, url),
        None => match failure {
            Failure::Maintenance => page(
                "Offline for maintenance",
                "Offline for maintenance",
                "This application is undergoing maintenance right now. Please check back later.",
            ),
            Failure::BlankApp => page(
                "Nothing here yet",
                "There is nothing here, yet.",
                "This app has no code yet. Deploy it with git push, then load the page again.",
            ),
            Failure::CertificateMismatch => page(
                "Misdirected request",
                "Misdirected request",
                "The connection was made for another host name.",
            ),
            Failure::BadHeader | Failure::BadChunk | Failure::UnsupportedExpect => {
                page("Bad request", "Bad request", "The request cannot be passed on to the application.")
            }
            _ => page(
                "Application error",
                "Application error",
                "An error occurred in the application and your page could not be served. If you are the \
                 application owner, check your logs for details. You can do this from the Heroku CLI with \
                 the command <code>heroku logs --tail</code>",
            ),
        },
    };
    answer(failure.status(), body)
}

/// The answer for a host name that no app has.
pub fn no_such_app() -> Response<ProxyBody> {
    let body = page(
        "No such app",
        "There's nothing here, yet.",
        "No such app: no app on this node has this host name. If you are the owner, check the app's name and \
         its domains.",
    );
    answer(StatusCode::NOT_FOUND, body)
}

/// The answer to a request that no app may be asked about, and to every request before the first table.
pub fn plain(status: StatusCode) -> Response<ProxyBody> {
    let reason = status.canonical_reason().unwrap_or("Error");
    answer(status, page(reason, reason, "The router did not pass this request on."))
}

fn answer(status: StatusCode, body: String) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::full(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    headers.insert(header::VIA, VIA);
    response
}

fn page(title: &str, heading: &str, text: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n  <head>\n    <meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n    <meta charset=\"utf-8\">\n    <title>{title}</title>\n    <style>body{{font-family:\
         sans-serif;margin:15vh auto;max-width:34em;padding:0 1em;color:#333}}</style>\n  </head>\n  <body>\n    \
         <h1>{heading}</h1>\n    <p>{text}</p>\n  </body>\n</html>\n"
    )
}

fn framed(failure: Failure, url: &str) -> String {
    let title = if failure == Failure::Maintenance { "Offline for maintenance" } else { "Application error" };
    let url = url.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<!DOCTYPE html>\n<html>\n  <head>\n    <meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n    <meta charset=\"utf-8\">\n    <title>{title}</title>\n    <style>html,body,iframe{{margin:0;\
         padding:0;border:0;height:100%;width:100%}}</style>\n  </head>\n  <body>\n    <iframe src=\"{url}\"></iframe>\n  \
         </body>\n</html>\n"
    )
}
