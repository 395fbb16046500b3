//! Requests that change something are handled to their end, whoever waits for the answer.
//!
//! A client that closes its connection drops what handles its request, at whatever it waits for: between the two
//! transactions of a promotion, or between a commit and the poke that makes it so. So what is not a mere question runs in a
//! task of its own.
//!
//! Git's conversations are left out: without a client there is nothing to go on with, and they end where it left.
//!
//! Invariant: a body that broke off is an error, never a short body. Hyper ends the body of a connection that is gone as if
//! it were whole; so a handler that reads on, as one of an upload does, learns from here that nobody sends any more.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use http::Method;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio_util::sync::CancellationToken;

/// Handles a request. A panic is given as an error: nothing of the request is used after it.
///
/// # Errors
/// What the handler said when it panicked.
pub async fn handle(request: Request, next: Next) -> Result<Response, Box<dyn Any + Send>> {
    if ends_with_its_client(&request) {
        return AssertUnwindSafe(next.run(request)).catch_unwind().await;
    }
    let gone = CancellationToken::new();
    let _here = gone.clone().drop_guard();
    let request = request.map(|body| Body::new(Whole { body, gone }));
    tokio::spawn(next.run(request)).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => panic,
        Err(error) => Box::new(error.to_string()),
    })
}

fn ends_with_its_client(request: &Request) -> bool {
    let path = request.uri().path();
    let is_git = ["/git-upload-pack", "/git-receive-pack"].iter().any(|end| path.ends_with(end));
    matches!(*request.method(), Method::GET | Method::HEAD) || is_git
}

/// A body that does not end before all of it has come.
struct Whole {
    body: Body,
    /// The connection's side was dropped.
    gone: CancellationToken,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() && self.gone.is_cancelled() {
            let error = axum::Error::new("the client went away while it sent the request");
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use crate::api::conventions::apply;
    use axum::body::{Body, Bytes};
    use axum::extract::Request;
    use axum::routing::any;
    use axum::{Router, middleware};
    use futures::StreamExt;
    use http::StatusCode;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::{Notify, mpsc};
    use tower::ServiceExt;

    /// What became of a handler.
    #[derive(Debug, PartialEq, Eq)]
    enum Fate {
        Ended,
        Dropped,
        BrokenOff,
    }

    struct Guard(Option<mpsc::UnboundedSender<Fate>>);

    impl Drop for Guard {
        fn drop(&mut self) {
            if let Some(fate) = self.0.take() {
                let _ = fate.send(Fate::Dropped);
            }
        }
    }

    /// Lets a client go away while its request is handled; gives what became of that.
    async fn leave(method: &str, path: &str) -> Fate {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (fate, mut fates) = mpsc::unbounded_channel();
        let handler = {
            let (begun, go_on) = (begun.clone(), go_on.clone());
            move || async move {
                let mut guard = Guard(Some(fate));
                begun.notify_one();
                go_on.notified().await;
                let fate = guard.0.take().expect("once");
                let _ = fate.send(Fate::Ended);
                StatusCode::OK
            }
        };
        let app = Router::new().route(path, any(handler)).layer(middleware::from_fn(apply));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        let mut answer = Box::pin(app.oneshot(request));
        tokio::select! {
            _ = &mut answer => panic!("nobody let it go on"),
            () = begun.notified() => {}
        }
        drop(answer);
        go_on.notify_one();
        let fate = tokio::time::timeout(Duration::from_secs(60), fates.recv()).await;
        fate.expect("in time").expect("told")
    }

    #[tokio::test]
    async fn a_change_is_made_to_its_end_though_its_client_leaves() {
        for (method, path, fate) in [
            ("POST", "/pipeline-promotions", Fate::Ended),
            ("DELETE", "/apps/shop", Fate::Ended),
            ("POST", "/sources", Fate::Ended),
            ("GET", "/apps", Fate::Dropped),
            ("POST", "/shop.git/git-receive-pack", Fate::Dropped),
            ("PUT", "/slugs/x", Fate::Ended),
        ] {
            assert_eq!(leave(method, path).await, fate, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn a_body_that_broke_off_is_never_taken_for_a_whole_one() {
        let (fate, mut fates) = mpsc::unbounded_channel();
        let begun = Arc::new(Notify::new());
        let reading = begun.clone();
        let handler = move |body: Body| async move {
            reading.notify_one();
            let whole = axum::body::to_bytes(body, 100).await;
            let _ = fate.send(if whole.is_ok() { Fate::Ended } else { Fate::BrokenOff });
        };
        let app = Router::new().route("/", any(handler)).layer(middleware::from_fn(apply));
        // As hyper's: it ends when the connection is dropped.
        let (sender, receiver) = futures::channel::mpsc::unbounded::<Bytes>();
        let pieces = receiver.map(Ok::<_, std::io::Error>);
        let request = Request::post("/").body(Body::from_stream(pieces)).expect("a request");
        sender.unbounded_send(Bytes::from_static(b"{")).expect("open");
        let mut answer = Box::pin(app.oneshot(request));
        tokio::select! {
            _ = &mut answer => panic!("the body has not ended"),
            () = begun.notified() => {}
        }
        drop(answer);
        drop(sender);
        let fate = tokio::time::timeout(Duration::from_secs(60), fates.recv()).await;
        assert_eq!(fate.expect("in time").expect("told"), Fate::BrokenOff);
    }
}
