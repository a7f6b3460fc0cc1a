//! State of a site in a run, with the inputs that change it and the actions that it asks for. Types only: the one
//! function that changes the state is [`SiteState::step`](super::site_step).
//!
//! A site has a turn while the schedule gives it a slot. Between two turns the site has no slot; once it has begun it
//! keeps its lease. Each step asks for exactly one action, whose result is the next input, or ends the turn.

use std::time::{Duration, Instant};

use super::attempt_end::{AttemptEnd, NextAttempt};
use super::report::SiteReport;
use crate::jobs::JobFailure;
use crate::schedule::PauseKind;
use crate::sites::lease::{CompletionRecord, LeaseRefusal, SiteCompletion};
use crate::sites::policy::standing::SiteStanding;
use orch_config::SiteConfig;
use orch_journal::{EventKind, RequestSender, SiteCounts, SiteStatus};

/// Facts about a site that stay the same during the run.
#[derive(Clone, Copy)]
pub(crate) struct SiteRules<'a> {
    pub site: &'a SiteConfig,
    pub standing: &'a SiteStanding,
    /// Number of the attempt of an earlier run whose job this run picks up.
    pub earlier_attempt: Option<u32>,
    /// Fencing token of the lease under which that run last worked on the site.
    pub earlier_token: Option<u64>,
    /// Time until which the site is waited for while another run holds the lease.
    pub wait_until: Instant,
}

/// State of a site.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SiteState {
    /// This run has never held the lease of the site. No turn.
    NotBegun {
        is_wait_reported: bool,
    },
    /// Asks for the lease for the first time in a turn.
    AcquiringLease {
        is_wait_reported: bool,
    },
    /// Asks whether another run has completed the site since the run that this one resumes.
    CheckingEarlierRun(Box<AttemptSeries>),
    /// Another run has completed the site; the job of the resumed run is being ended.
    EndingEarlierJob(Box<SiteReport>),
    /// The attempt with the number of the series is under way.
    Attempting(Box<AttemptSeries>),
    /// An attempt has ended and another one follows, for which fresh proxies are requested.
    RequestingRefresh(Box<AttemptSeries>, Box<AttemptEnd>, NextAttempt),
    /// No turn until the pause before the next attempt is over.
    Pausing(Box<AttemptSeries>, RetryPause),
    /// The lease was lost during the pause; asks for the lease again.
    ReacquiringLease(Box<AttemptSeries>, RetryPause),
    /// The lease was lost and is held again; asks whether another run has completed the site in between.
    CheckingInterval(Box<AttemptSeries>),
    /// The last attempt has ended without a result; asks whether another run has completed the site.
    CheckingOtherRun(Box<AttemptSeries>, Box<AttemptEnd>),
    /// The site is stopped; its tasks are being ended.
    EndingWork(Box<AttemptSeries>, RequestSender),
    /// Nothing of the site is under way; the lease is being released.
    ReleasingLease(Box<SiteReport>),
    Ended(SiteStatus),
}

/// Attempts of a site that has begun.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptSeries {
    pub begun: Instant,
    /// Deadline of all attempts; moves by the time for which the site waits for a turn, because that wait is no fault
    /// of the site.
    pub deadline: Instant,
    /// Number of the current attempt; between two attempts, of the next one.
    pub number: u32,
    /// Number of attempts that have begun.
    pub attempts_begun: u32,
    /// Number of attempts that may follow the first.
    pub retries: u32,
    /// The current attempt, or the next one, follows the job of an earlier run.
    pub picks_up: bool,
    /// Start of the last attempt; `None`: an earlier run started that attempt.
    pub attempt_begun: Option<Instant>,
    /// Fencing token of the lease.
    pub token: u64,
    /// The wait for another run that took the lease has been reported.
    pub is_wait_reported: bool,
    /// Best attempt so far, which counts if the later attempts yield less.
    pub best: Option<AttemptEnd>,
}

/// Pause before an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryPause {
    /// Time at which the site wants to continue.
    pub due: Instant,
    /// The site continues only after the refresh of the proxies has ended.
    pub awaits_refresh: bool,
}

/// Input to the state of a site: a turn, a stop request, or the result of the last action.
#[derive(Clone, Debug)]
pub(crate) enum SiteInput {
    /// The schedule gives the site a turn.
    TurnBegun {
        is_lease_lost: bool,
        /// A requested refresh of the proxies has not ended yet.
        awaits_refresh: bool,
    },
    /// The stop of the site is requested, between two turns or in one.
    StopRequested(RequestSender),
    LeaseAcquired {
        token: u64,
    },
    LeaseRefused(LeaseRefusal),
    /// Record of the other run that has completed the site, if there is one.
    CompletionRead(Option<CompletionRecord>),
    EarlierJobEnded,
    /// The attempt has ended with this failure and these counts; complete if there is no failure.
    AttemptEnded {
        failure: Option<JobFailure>,
        counts: SiteCounts,
    },
    RefreshRequested {
        /// A refresh answers the request.
        awaits_refresh: bool,
    },
    /// The tasks of a stopped site have ended; these are the last known counts.
    WorkEnded {
        counts: SiteCounts,
    },
    LeaseReleased,
}

/// Action that a step asks for.
#[derive(Clone, Debug)]
pub(crate) enum SiteAction {
    /// Acquire the lease; wait for Redis until this time. Result: `LeaseAcquired` or `LeaseRefused`.
    AcquireLease { give_up: Instant },
    /// Ask whether another run has completed the site since the lease with this token. Result: `CompletionRead`.
    ReadCompletion { since: u64 },
    /// End the job of the resumed run. Result: `EarlierJobEnded`.
    EndEarlierJob,
    /// Make an attempt. Result: `AttemptEnded` or `StopRequested`.
    MakeAttempt(AttemptOrder),
    /// Request fresh proxies. Result: `RefreshRequested`.
    RequestRefresh,
    /// End the tasks of the stopped site. Result: `WorkEnded`.
    EndWork,
    /// Release the lease, with the result of a complete site. Result: `LeaseReleased`.
    ReleaseLease(Option<SiteCompletion>),
}

/// Continuation after a step.
#[derive(Clone, Debug)]
pub(crate) enum SiteNext {
    /// Perform the action; the result is the next input.
    Perform(SiteAction),
    /// Give the turn back until this time; the next turn, or a stop request, is the next input.
    GiveTurnBack(PauseKind, Instant),
    /// Give the report to the run; there is no further input.
    Report(Box<SiteReport>),
}

/// Bounds of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptOrder {
    /// Number of the attempt; 1 for the first.
    pub number: u32,
    /// The attempt follows the job of an earlier run.
    pub picks_up: bool,
    pub deadline: Instant,
    /// Fencing token of the lease under which the attempt runs.
    pub token: u64,
    /// Time until which a lost chunk ends the attempt, because another attempt follows.
    pub ends_at_loss_until: Option<Instant>,
    /// Start of the site.
    pub site_begun: Instant,
}

/// Result of a step: the new state, the facts to report first, and the continuation.
#[derive(Clone, Debug)]
pub(crate) struct SiteStep {
    pub state: SiteState,
    pub facts: Vec<EventKind>,
    pub next: SiteNext,
}

impl SiteStep {
    pub fn new(state: SiteState, action: SiteAction) -> Self {
        Self {
            state,
            facts: Vec::new(),
            next: SiteNext::Perform(action),
        }
    }

    pub fn giving_back(state: SiteState, pause: PauseKind, until: Instant) -> Self {
        Self {
            state,
            facts: Vec::new(),
            next: SiteNext::GiveTurnBack(pause, until),
        }
    }

    #[must_use]
    pub fn with_fact(mut self, fact: EventKind) -> Self {
        self.facts.push(fact);
        self
    }
}

impl SiteState {
    /// Returns the state of a site before the first turn.
    pub fn new() -> Self {
        Self::NotBegun {
            is_wait_reported: false,
        }
    }
}

/// Longest time for all attempts of a site with an automatic timeout, whatever the chunks and the history suggest.
pub(crate) const MAX_AUTO_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
