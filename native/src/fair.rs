//! The reactor's time that a connection has used; the rules are those of
//! `stream.ops.process.fair_turns`, whose figures are given by its caller.

/// Bounds of what connections may use, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// The length of a period.
    pub period: f64,
    /// What a light connection may use in the present period and the one before.
    pub light: f64,
    /// The pause after which a connection has rested.
    pub rest: f64,
    /// What a light connection that has rested may use.
    pub rested: f64,
    /// What all light connections together may use of a turn.
    pub light_turn: f64,
    /// What all others together may use of a turn.
    pub busy_turn: f64,
    /// What the Python code may use for heads and for requests left to it, each time that some of
    /// the connections are served in a turn.
    pub python_turn: f64,
}

/// The cost of a service, in seconds, up to which connections are in the cheapest class.
const CHEAP: f64 = 0.00002;

/// Weight of the latest service in the mean cost.
const LATEST: f64 = 0.5;

/// How much the mean cost may grow with a single long service.
const GROWTH: f64 = 2.0;

/// Services of which one may be long without being expensive.
const PAUSE_SERVICES: u32 = 32;

/// The time that one connection has used.
#[derive(Debug)]
pub struct Used {
    since: Option<u64>,
    period: u64,
    seconds: f64,
    before: f64,
    /// The mean seconds of a service.
    cost: f64,
    /// The mean with all of the present service.
    full: f64,
    /// What the mean may be after the present service, if it is a single long one.
    most: f64,
    /// The next services in which a long one counts in full.
    strict: u32,
    ended: f64,
    ready: u64,
    rested: bool,
    /// How many had been served when it was served last.
    pub last: u64,
}

impl Used {
    pub fn new(last: u64) -> Used {
        Used {
            since: None,
            period: 0,
            seconds: 0.0,
            before: 0.0,
            cost: 0.0,
            full: 0.0,
            most: f64::INFINITY,
            strict: 0,
            ended: f64::INFINITY,
            ready: 0,
            rested: false,
            last,
        }
    }

    /// Return whether the connection is light, being ready in this `turn`.
    pub fn is_light(&mut self, turn: u64, now: f64, shares: &Shares) -> bool {
        let period = (now / shares.period) as u64;
        if period != self.period {
            self.before = if period == self.period + 1 { self.seconds } else { 0.0 };
            self.seconds = 0.0;
            self.period = period;
        }
        if self.ready + 1 != turn {
            self.rested = now - self.ended >= shares.rest;
        }
        self.ready = turn;
        let share = if self.rested { shares.rested } else { shares.light };
        self.since.is_some_and(|since| since < self.period) && self.seconds + self.before < share
    }

    /// Return the class of its cost: connections of one class are served in turn.
    pub fn cost_class(&self) -> i32 {
        (self.cost / CHEAP).max(1.0).log2() as i32
    }

    fn count_cost(&mut self, full: f64) {
        self.full = full;
        self.cost = full.min(self.most);
        if full > self.most {
            self.strict = PAUSE_SERVICES;
        }
    }

    /// Add time that its request has taken after it was served.
    pub fn add(&mut self, seconds: f64) {
        self.seconds += seconds;
        self.count_cost(self.full + LATEST * seconds);
    }

    /// Note that the connection was served.
    pub fn served(&mut self, count: u64, started: f64, ended: f64) {
        self.last = count;
        self.since.get_or_insert(self.period);
        self.seconds += ended - started;
        self.most = if self.strict > 0 { f64::INFINITY } else { GROWTH * self.cost.max(CHEAP) };
        self.strict = self.strict.saturating_sub(1);
        self.count_cost(self.cost + LATEST * (ended - started - self.cost));
        self.ended = ended;
        self.rested = false;
    }
}
