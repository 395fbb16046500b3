//! What `wrk` says at its end.

/// One run's figures.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub requests: f64,
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Some requests had no answer, or one above 399.
    pub has_failures: bool,
}

impl Report {
    /// Reads what `wrk --latency` prints; None when it is something else.
    pub fn read(text: &str) -> Option<Self> {
        let (requests, _) = text.lines().find_map(|line| line.trim().split_once(" requests in "))?;
        let after = |label: &str| {
            text.lines().find_map(|line| line.trim().strip_prefix(label)).map(|rest| rest.trim().to_owned())
        };
        Some(Self {
            requests: requests.parse().ok()?,
            requests_per_second: after("Requests/sec:")?.parse().ok()?,
            p50_ms: milliseconds(&after("50%")?)?,
            p99_ms: milliseconds(&after("99%")?)?,
            has_failures: text.contains("Socket errors") || text.contains("Non-2xx"),
        })
    }
}

/// `1.23ms`, `123.00us`, `1.20s`.
fn milliseconds(text: &str) -> Option<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else {
        (text.strip_suffix('s')?, 1000.0)
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}
