//! Bodies on their way through: nothing is collected, each frame goes on as it comes.
//!
//! The wrappers notice progress (for the idle limits), count bytes (for the log line), and know when a
//! connection to a dyno is free again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use thiserror::Error;
use tokio::time::Sleep;

use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::shared::Stream;
use crate::upstream::{IdleConnection, Sender};

/// A body broke off. The connection that carries it is closed, which is how the other side learns of it.
#[derive(Debug, Error)]
#[error("the body broke off: {}", self.0.words().description)]
pub struct BrokenBody(pub Failure);

/// The body of an answer.
#[derive(Debug)]
pub enum ProxyBody {
    /// From the router itself.
    Full(Option<Bytes>),
    /// From a dyno.
    Streaming(Box<ResponseBody>),
}

impl ProxyBody {
    pub fn full(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streaming(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Streaming(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streaming(body) => body.inner.size_hint(),
        }
    }
}

/// The body of a dyno's response.
#[derive(Debug)]
pub struct ResponseBody {
    inner: Incoming,
    exchange: Box<Exchange>,
    upload: Option<Arc<Upload>>,
    sender: Option<Sender>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Watches whether a client in HTTP/2 takes it.
    stream: Option<Stream>,
    /// Whether something came since the timer was last set.
    progressed: bool,
}

impl ResponseBody {
    /// Wraps the body of a response; one without a body is finished here.
    pub fn new(
        inner: Incoming,
        exchange: Box<Exchange>,
        upload: Option<Arc<Upload>>,
        sender: Sender,
    ) -> ProxyBody {
        let stream = (exchange.version == Version::HTTP_2).then(|| exchange.client.stream());
        let sender = Some(sender);
        let mut body = Self { inner, exchange, upload, sender, timer: None, stream, progressed: true };
        body.exchange.bytes = Some(0);
        if body.inner.is_end_stream() {
            body.complete();
            return ProxyBody::Full(None);
        }
        ProxyBody::Streaming(Box::new(body))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.progressed = true;
                if let Some(stream) = &self.stream {
                    stream.offered();
                }
                if let Some(data) = frame.data_ref() {
                    self.exchange.bytes = Some(self.exchange.bytes.unwrap_or(0) + data.len() as u64);
                }
                if self.inner.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(self.fail(Failure::ServerInterrupted)))),
            Poll::Ready(None) => {
                self.complete();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(stream) = &self.stream {
                    stream.taken();
                }
                let failure = ready!(self.poll_idle(cx));
                Poll::Ready(Some(Err(self.fail(failure))))
            }
        }
    }

    /// Ready when nothing has moved either way for the idle limit.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let limit = self.exchange.shared.timeouts.idle;
        if std::mem::take(&mut self.progressed) {
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(tokio::time::Instant::now() + limit),
                None => self.timer = Some(Box::pin(tokio::time::sleep(limit))),
            }
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(cx));
            let idle = self.upload.as_ref().map_or(limit, |upload| upload.idle());
            if idle >= limit {
                return Poll::Ready(Failure::IdleConnection);
            }
            timer.as_mut().reset(tokio::time::Instant::now() + (limit - idle));
        }
    }

    fn complete(&mut self) {
        let uploaded = self.upload.as_ref().is_none_or(|upload| upload.is_complete());
        if let (Some(sender), Some(in_flight)) = (self.sender.take(), &self.exchange.in_flight)
            && uploaded
            && matches!(sender, Sender::Http1(_))
        {
            in_flight.0.put_idle(self.exchange.client.worker, IdleConnection::new(sender));
        }
        self.exchange.finish(None);
    }

    fn fail(&mut self, failure: Failure) -> BrokenBody {
        self.sender = None;
        self.exchange.finish(Some(failure));
        BrokenBody(failure)
    }
}

/// The body of a request to a dyno.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Streaming(Incoming, Arc<Upload>),
}

const WAITING_FOR_CLIENT: u8 = 0;
const WAITING_FOR_DYNO: u8 = 1;
const COMPLETE: u8 = 2;
const CLIENT_LEFT: u8 = 3;
const BAD_CHUNK: u8 = 4;

/// How far the upload of a request's body is; the way of the response looks at it.
#[derive(Debug)]
pub struct Upload {
    state: AtomicU8,
    started: Instant,
    /// Of the last byte, in microseconds since `started`.
    progress_us: AtomicU64,
    bytes: AtomicU64,
}

impl Upload {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU8::new(WAITING_FOR_CLIENT),
            started: Instant::now(),
            progress_us: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// How long nothing was uploaded.
    pub fn idle(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_micros(self.progress_us.load(Ordering::Relaxed)))
    }

    /// How much has come of it.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn is_complete(&self) -> bool {
        self.state.load(Ordering::Relaxed) == COMPLETE
    }

    /// Whether the next byte is the client's to send.
    pub fn waits_for_client(&self) -> bool {
        self.state.load(Ordering::Relaxed) == WAITING_FOR_CLIENT
    }

    /// Why the upload broke off, if it did.
    pub fn failure(&self) -> Option<Failure> {
        match self.state.load(Ordering::Relaxed) {
            CLIENT_LEFT => Some(Failure::ClientInterrupted),
            BAD_CHUNK => Some(Failure::BadChunk),
            _ => None,
        }
    }

    fn progress(&self, state: u8) {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.progress_us.store(elapsed, Ordering::Relaxed);
        self.state.store(state, Ordering::Relaxed);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let Self::Streaming(body, upload) = self.get_mut() else { return Poll::Ready(None) };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => {
                upload.state.store(WAITING_FOR_CLIENT, Ordering::Relaxed);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    upload.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                upload.progress(if body.is_end_stream() { COMPLETE } else { WAITING_FOR_DYNO });
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                upload.progress(COMPLETE);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let (state, failure) = if is_bad_chunk(&error) {
                    (BAD_CHUNK, Failure::BadChunk)
                } else {
                    (CLIENT_LEFT, Failure::ClientInterrupted)
                };
                upload.progress(state);
                Poll::Ready(Some(Err(BrokenBody(failure))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(body, _) => body.size_hint(),
        }
    }
}

fn is_bad_chunk(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| {
        matches!(source.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData)
    })
}
