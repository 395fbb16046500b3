//! Whether a request may pass to its app, and which dyno it goes to: at random among those that can be
//! reached, at most ten for one request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferroku_core::DynoId;

use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::limits::{CONNECT_ATTEMPTS, REQUESTS_PER_DYNO};
use crate::random;
use crate::table::{App, Target};

/// How long a request whose dynos are all quarantined waits before it looks again; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest such pause: a dyno that comes back is found within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What an app's state says about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    Passed,
    /// No dyno is to be asked yet: wait for the next table.
    Held(Hold),
    Refused(Failure),
}

/// Why a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    Boot,
    /// As while booting, and control is told.
    Sleep,
}

/// Decides by the app's state alone.
pub fn admit(app: &App) -> Admission {
    let route = &app.route;
    if route.maintenance {
        Admission::Refused(Failure::Maintenance)
    } else if route.blank {
        Admission::Refused(Failure::BlankApp)
    } else if !app.targets.is_empty() {
        Admission::Passed
    } else if route.out_of_hours && route.web_quantity > 0 {
        Admission::Refused(Failure::OutOfHours)
    } else if route.asleep {
        Admission::Held(Hold::Sleep)
    } else if route.web_quantity == 0 {
        Admission::Refused(Failure::NoWebProcesses)
    } else if route.crashed && !route.booting {
        Admission::Refused(Failure::AppCrashed)
    } else {
        Admission::Held(Hold::Boot)
    }
}

/// Most requests that may wait for this app.
pub fn waiting_limit(app: &App) -> usize {
    let dynos = app.targets.len().max(app.route.web_quantity as usize).max(1);
    app.route.max_requests.map_or(REQUESTS_PER_DYNO * dynos, |limit| limit as usize)
}

/// Whether the app has as many requests at once as it may have.
fn is_full(app: &App, chosen: &Target) -> bool {
    match app.route.max_requests {
        Some(limit) => app.in_flight() >= limit as usize,
        // The sum is looked at only when the dyno that was chosen has its share.
        None => {
            chosen.in_flight() >= REQUESTS_PER_DYNO
                && app.in_flight() >= REQUESTS_PER_DYNO * app.targets.len()
        }
    }
}

/// Where the request goes next.
#[derive(Debug)]
pub enum Choice {
    Target(Arc<Target>),
    /// Every dyno is quarantined.
    Later(Duration),
}

/// The dynos that one request was refused by.
#[derive(Debug)]
pub struct Tried {
    arrived: Instant,
    targets: Vec<Arc<Target>>,
    last: Option<Failure>,
    pause: Duration,
}

impl Tried {
    /// For a request that arrived then.
    pub fn new(arrived: Instant) -> Self {
        Self { arrived, targets: Vec::new(), last: None, pause: FIRST_PAUSE }
    }

    /// Chooses at random among the targets that were not tried and are not quarantined; `wanted` before others.
    ///
    /// # Errors
    /// Why no target can be asked, now or later.
    pub fn choose(&mut self, app: &App, wanted: Option<DynoId>) -> Result<Choice, Failure> {
        let targets = &app.targets;
        let pinned = wanted.and_then(|wanted| targets.iter().find(|target| target.dyno_id == wanted));
        let first = pinned.unwrap_or_else(|| &targets[random::below(targets.len())]);
        if is_full(app, first) {
            return Err(Failure::BacklogTooDeep);
        }
        if self.targets.is_empty() && !first.is_quarantined() {
            return Ok(Choice::Target(first.clone()));
        }
        let free = || targets.iter().filter(|target| !target.is_quarantined() && !self.was_tried(target));
        let count = free().count();
        if count > 0 && self.targets.len() < CONNECT_ATTEMPTS {
            let target = free().nth(random::below(count)).unwrap_or(first);
            return Ok(Choice::Target(target.clone()));
        }
        if let Some(failure) = self.last {
            return Err(failure);
        }
        Ok(Choice::Later(self.next_pause()))
    }

    /// The chosen dyno could not be reached: nobody asks it for a while.
    pub fn failed(&mut self, exchange: &mut Exchange, failure: Failure) {
        let Some(in_flight) = exchange.in_flight.take() else { return };
        in_flight.0.quarantine(exchange.shared.timeouts.quarantine);
        self.targets.push(in_flight.0.clone());
        self.last = Some(failure);
    }

    /// Whether the time for all attempts is over.
    pub fn is_over(&self, budget: Duration) -> bool {
        self.arrived.elapsed() >= budget
    }

    fn was_tried(&self, target: &Arc<Target>) -> bool {
        self.targets.iter().any(|tried| Arc::ptr_eq(tried, target))
    }

    /// How long to wait before the next look; longer each time.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}
