//! What can go wrong with a request: Heroku's H codes with their words and statuses.
//!
//! Source: Heroku Dev Center, "Heroku Error Codes".

use http::StatusCode;

/// One way a request can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    AppCrashed,
    BacklogTooDeep,
    RequestTimeout,
    ClosedWithoutResponse,
    NoWebProcesses,
    IdleConnection,
    PoorlyFormattedResponse,
    ServerInterrupted,
    ConnectTimeout,
    BootTimeout,
    ConnectRefused,
    ForcedClose,
    OversizedCookie,
    OversizedHeader,
    InvalidContentLength,
    BadHeader,
    BadChunk,
    UnsupportedExpect,
    ClientInterrupted,
    ClientIdle,
    CertificateMismatch,
    Maintenance,
    BlankApp,
    OutOfHours,
    Platform,
}

/// Everything that the log line and the answer say about a failure.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    pub code: &'static str,
    pub description: &'static str,
    pub level: &'static str,
    /// Which socket broke, with a trailing blank, for the failures that Heroku logs so.
    pub socket: &'static str,
    pub status: u16,
    /// More than the description says; empty for most.
    pub cause: &'static str,
}

impl Failure {
    /// Code, description, level, socket and status.
    pub fn words(self) -> Words {
        let error = |code, description| Words {
            code,
            description,
            level: "error",
            socket: "",
            status: 503,
            cause: "",
        };
        match self {
            Self::AppCrashed => error("H10", "App crashed"),
            Self::BacklogTooDeep => error("H11", "Backlog too deep"),
            Self::RequestTimeout => error("H12", "Request timeout"),
            Self::ClosedWithoutResponse => error("H13", "Connection closed without response"),
            Self::NoWebProcesses => error("H14", "No web processes running"),
            Self::IdleConnection => error("H15", "Idle connection"),
            Self::PoorlyFormattedResponse => error("H17", "Poorly formatted HTTP response"),
            Self::ServerInterrupted => {
                Words { socket: "sock=backend ", ..error("H18", "Server Request Interrupted") }
            }
            Self::ConnectTimeout => error("H19", "Backend connection timeout"),
            Self::BootTimeout => error("H20", "App boot timeout"),
            Self::ConnectRefused => error("H21", "Backend connection refused"),
            Self::ForcedClose => error("H24", "Forced close"),
            Self::OversizedCookie => {
                Words { status: 502, ..error("H25", "HTTP restriction: oversized cookie") }
            }
            Self::OversizedHeader => {
                Words { status: 502, ..error("H25", "HTTP restriction: oversized header") }
            }
            Self::InvalidContentLength => {
                Words { status: 502, ..error("H25", "HTTP restriction: invalid content length") }
            }
            Self::BadHeader => Words { status: 400, cause: "bad header", ..error("H26", "Request Error") },
            Self::BadChunk => Words { status: 400, cause: "bad chunk", ..error("H26", "Request Error") },
            Self::UnsupportedExpect => Words {
                status: 417,
                cause: "unsupported expect header value",
                ..error("H26", "Request Error")
            },
            Self::ClientInterrupted => Words {
                level: "warning",
                socket: "sock=client ",
                status: 499,
                ..error("H27", "Client Request Interrupted")
            },
            Self::ClientIdle => {
                Words { level: "warning", status: 499, ..error("H28", "Client Connection Idle") }
            }
            Self::CertificateMismatch => Words { status: 421, ..error("H32", "TLS Certificate Mismatch") },
            Self::Maintenance => Words { level: "info", ..error("H80", "Maintenance mode") },
            Self::BlankApp => Words { level: "info", status: 502, ..error("H81", "Blank app") },
            Self::OutOfHours => Words { level: "info", ..error("H82", "You've used up your dyno hour pool") },
            Self::Platform => error("H99", "Platform error"),
        }
    }

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.words().status).expect("every status above is between 400 and 599")
    }
}
