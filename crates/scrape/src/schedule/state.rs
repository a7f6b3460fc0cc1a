//! Types of the schedule: sites, their states, their ends, and the decisions about them.

use std::time::Duration;

use orch_journal::SiteStatus;

/// Site, by position in the agenda.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(u32);

/// Shared resource, by position in the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId(u32);

macro_rules! place {
    ($name:ident) => {
        impl $name {
            /// Returns the id of the thing at this position; positions above four billion share one id.
            pub fn at(place: usize) -> Self {
                Self(u32::try_from(place).unwrap_or(u32::MAX))
            }

            /// Returns the position.
            pub fn place(self) -> usize {
                self.0 as usize
            }
        }
    };
}
place!(SiteId);
place!(ResourceId);

/// State of a site in the schedule: whether it has a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnState {
    /// Waits for the end of dependencies.
    Waiting(UnmetDependencies),
    /// Waits for a slot, and for units of resources.
    Queued {
        since: Duration,
    },
    Running {
        since: Duration,
    },
    /// Has no slot and no units until `due`.
    Pausing {
        due: Duration,
        pause: PauseKind,
    },
    Ended(SiteEnd),
}

/// Unmet dependencies of a waiting site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnmetDependencies {
    /// Sites of `after` that have not succeeded yet.
    pub after: u32,
    /// Sites of `after_any` that may still succeed; 0 when one has, or when there are none.
    pub any: u32,
    /// Sites of `after_finished` that have not ended yet.
    pub finished: u32,
}

impl UnmetDependencies {
    pub(crate) fn is_met(self) -> bool {
        self == Self::default()
    }
}

/// Reason why a site pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseKind {
    /// The site could not begin yet.
    BeforeItBegins,
    /// The site has begun, and the next attempt goes before sites that have not.
    BeforeARetry,
}

/// End of a site, after which nothing follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteEnd {
    /// The site has had a turn, and ended with this status.
    Reached(SiteStatus),
    /// The site never had a turn.
    Skipped(SkipCause),
    /// The agenda gives the site no turn.
    LeftOut,
}

impl SiteEnd {
    /// Returns whether the sites `after` this one may begin. A degraded site has done its work, and only its shortfall
    /// is reported.
    pub fn is_success(self) -> bool {
        match self {
            SiteEnd::Reached(status) => status.is_success(),
            SiteEnd::Skipped(_) | SiteEnd::LeftOut => false,
        }
    }
}

/// Reason why a site was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipCause {
    /// This site of `after` has not succeeded.
    After(SiteId),
    /// None of the sites of `after_any` has succeeded; this one was the last to end.
    NoneOf(SiteId),
}

impl SkipCause {
    /// Returns the dependency that decided the skip.
    pub fn site(self) -> SiteId {
        match self {
            SkipCause::After(site) | SkipCause::NoneOf(site) => site,
        }
    }
}

/// Turn of a site. One value exists for each turn, and is given back with the result of the turn: a site that does not
/// run cannot end.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct SiteTurn(pub(crate) SiteId);

impl SiteTurn {
    pub fn site(&self) -> SiteId {
        self.0
    }
}

/// Decision about a site.
#[derive(Debug, PartialEq, Eq)]
pub enum ScheduleDecision {
    /// The dependencies of the site are met.
    Queue(SiteId),
    /// The site begins, or continues.
    Admit(SiteTurn),
    /// The site has ended without a turn.
    Skip(SiteId, SkipCause),
    /// The site has ended without a turn, because the agenda leaves the site out.
    LeaveOut(SiteId),
}
