//! The words of the schedule: which site, in which state, how it ended, what is to be done.

use std::time::Duration;

/// A site, by its place in the agenda.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(u32);

/// A shared resource, by its place in the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(u32);

macro_rules! place {
    ($name:ident) => {
        impl $name {
            /// The thing at this place; what has more than four billion has no further ones.
            pub fn at(place: usize) -> Self {
                Self(u32::try_from(place).unwrap_or(u32::MAX))
            }

            /// Its place.
            pub fn place(self) -> usize {
                self.0 as usize
            }
        }
    };
}
place!(SiteId);
place!(ResourceId);

/// Where a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For sites that it depends on.
    Waiting(Unmet),
    /// For a place, and the units it uses.
    Queued {
        since: Duration,
    },
    Running {
        since: Duration,
    },
    /// Without a place and without units until then.
    Pausing {
        due: Duration,
        pause: Pause,
    },
    Ended(End),
}

/// What a waiting site waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmet {
    /// Sites of `after` that have not succeeded yet.
    pub after: u32,
    /// Sites of `after_any` that may still succeed; 0 when one has, or when there are none.
    pub any: u32,
    /// Sites of `after_finished` that have not ended yet.
    pub finished: u32,
}

impl Unmet {
    pub(super) fn is_met(self) -> bool {
        self == Self::default()
    }
}

/// Why a site pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It could not begin yet.
    BeforeItBegins,
    /// It has begun; the next attempt goes before sites that have not.
    BeforeARetry,
}

/// How a site that has had its turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    /// Complete, with less than it should have.
    Degraded,
    Failed,
    Cancelled,
}

/// How a site ended; nothing follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Reached(Outcome),
    /// It never had its turn.
    Skipped(Cause),
    /// Nor was it to have one.
    LeftOut,
}

impl End {
    /// Whether sites `after` it may begin: a degraded one has done its work, the less of it is what is told.
    pub fn is_success(self) -> bool {
        match self {
            End::Reached(Outcome::Complete | Outcome::Degraded) => true,
            End::Reached(Outcome::Failed | Outcome::Cancelled) | End::Skipped(_) | End::LeftOut => false,
        }
    }
}

/// Why a site was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// This one, of its `after`, has not succeeded.
    After(SiteId),
    /// None of its `after_any` has; this one was the last to end.
    NoneOf(SiteId),
}

impl Cause {
    /// The dependency by whose end it was decided.
    pub fn site(self) -> SiteId {
        match self {
            Cause::After(site) | Cause::NoneOf(site) => site,
        }
    }
}

/// A site's turn. It is there once, and is given back with what came of it: what does not run cannot end.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Admission(pub(super) SiteId);

impl Admission {
    pub fn site(&self) -> SiteId {
        self.0
    }
}

/// What is to be done about a site.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Its dependencies are met.
    Queue(SiteId),
    /// Begin it, or go on with it.
    Admit(Admission),
    /// It has ended without a turn.
    Skip(SiteId, Cause),
    /// It has ended without a turn, as the agenda says.
    LeaveOut(SiteId),
}
