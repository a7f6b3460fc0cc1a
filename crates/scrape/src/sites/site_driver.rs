//! Driver of one site: gives a turn to the state of the site, performs the actions that the state asks for, and returns
//! when the turn is given back or the site has ended.

use std::sync::Arc;
use std::time::Instant;

use super::attempt::Attempt;
use super::cancel_site::end_site;
use super::leased_attempt::{self, LeasedAttempt, LeasedAttemptEnd};
use super::own_worker::{OwnWorkers, WorkerRequest};
use super::registry::RegistryStatus;
use super::report::SiteReport;
use super::site_state::{AttemptOrder, SiteAction, SiteInput, SiteNext, SiteRules, SiteState};
use super::take_lease::take;
use crate::jobs::{CancelLimits, JobContext, JobFailure, WorkerMonitor, cancel_jobs};
use crate::schedule::{PauseKind, SiteId};
use crate::sites::lease::{Lease, Leases};
use crate::sites::policy::standing::SiteStanding;
use orch_celery::TaskId;
use orch_config::SiteConfig;
use orch_journal::{InterruptedJob, SiteCounts};

/// Environment of all sites of a run.
pub(crate) struct SiteEnv {
    pub context: JobContext,
    pub monitor: Arc<WorkerMonitor>,
    pub leases: Arc<Leases>,
    /// Handle that starts the sites' own workers on demand; `None`: they run all the time, or no site has one.
    pub workers: Option<OwnWorkers>,
    /// Time until which a site is waited for while another run holds the lease.
    pub wait_until: Instant,
    /// Sites and the consequences of their last runs, by site id.
    pub sites: Vec<SiteConfig>,
    pub standings: Vec<SiteStanding>,
}

impl SiteEnv {
    pub fn site(&self, id: SiteId) -> &SiteConfig {
        &self.sites[id.place()]
    }

    fn rules(&self, id: SiteId) -> SiteRules<'_> {
        let site = self.site(id);
        SiteRules {
            site,
            standing: &self.standings[id.place()],
            earlier_attempt: self.context.earlier_jobs.get(&site.name).map(|job| job.attempt),
            earlier_token: self.context.earlier_tokens.get(&site.name).copied(),
            wait_until: self.wait_until,
        }
    }
}

/// Site between two turns: its state, and the lease once the site has begun.
pub(crate) struct DrivenSite {
    state: SiteState,
    lease: Option<Lease>,
    /// The site has ended before in this run: facts of earlier runs do not concern it any more.
    is_retried: bool,
}

/// End of a turn.
pub(crate) enum TurnEnd {
    Ended(Box<SiteReport>),
    /// The site continues at this time or later.
    Paused(DrivenSite, PauseKind, Instant),
}

impl DrivenSite {
    pub fn new() -> Self {
        Self {
            state: SiteState::new(),
            lease: None,
            is_retried: false,
        }
    }

    /// Returns a site that has ended in this run and begins again.
    pub fn again() -> Self {
        Self {
            is_retried: true,
            ..Self::new()
        }
    }

    /// Gives the site one turn, or ends the site if its stop is requested.
    pub async fn turn(self, env: &SiteEnv, id: SiteId) -> TurnEnd {
        let rules = match self.is_retried {
            false => env.rules(id),
            true => SiteRules {
                earlier_attempt: None,
                earlier_token: None,
                ..env.rules(id)
            },
        };
        let mut input = match env.context.stop_requests.of(&rules.site.name) {
            Some(by) => SiteInput::StopRequested(by),
            None => SiteInput::TurnBegun {
                is_lease_lost: self.lease.as_ref().is_some_and(Lease::is_lost),
                awaits_refresh: env.context.refresh_requests.awaits_refresh(),
            },
        };
        let Self {
            mut state,
            lease,
            is_retried,
        } = self;
        let mut performer = ActionPerformer {
            env,
            rules,
            earlier: env.context.earlier_jobs.get(&rules.site.name).filter(|_| !is_retried),
            lease,
            worker: None,
        };
        loop {
            let step = state.step(input, &rules, Instant::now());
            for fact in step.facts {
                env.context.recorder.emit(fact);
            }
            state = step.state;
            input = match step.next {
                SiteNext::Perform(action) => performer.perform(action).await,
                SiteNext::GiveTurnBack(pause, until) => {
                    let lease = performer.lease.take();
                    let driven = Self {
                        state,
                        lease,
                        is_retried,
                    };
                    return TurnEnd::Paused(driven, pause, until);
                }
                SiteNext::Report(report) => return TurnEnd::Ended(report),
            };
        }
    }
}

/// Performer of the actions of one turn.
struct ActionPerformer<'e> {
    env: &'e SiteEnv,
    rules: SiteRules<'e>,
    /// Job of an earlier run that this run picks up.
    earlier: Option<&'e InterruptedJob>,
    lease: Option<Lease>,
    /// The site's own worker, which stays up until nothing of the site is under way.
    worker: Option<Box<dyn WorkerRequest>>,
}

impl ActionPerformer<'_> {
    /// Performs an action. Large futures are boxed: each site has one task, which is as large as its largest future.
    async fn perform(&mut self, action: SiteAction) -> SiteInput {
        let SiteEnv {
            context,
            monitor,
            leases,
            ..
        } = self.env;
        let site = self.rules.site;
        match action {
            SiteAction::AcquireLease { give_up } => match Box::pin(take(context, monitor, leases, site, give_up)).await
            {
                Ok(lease) => {
                    let token = lease.token();
                    self.lease = Some(lease);
                    SiteInput::LeaseAcquired { token }
                }
                Err(refusal) => SiteInput::LeaseRefused(refusal),
            },
            SiteAction::ReadCompletion { since } => {
                SiteInput::CompletionRead(leases.completed_since(&site.name, since).await)
            }
            SiteAction::EndEarlierJob => {
                let root = self.earlier.map(|job| TaskId::from(job.task_id.as_str()));
                let ended = Box::pin(cancel_jobs(context, monitor, root, [], CancelLimits::GENTLE)).await;
                if let Some(left) = ended.remaining {
                    tracing::warn!(site = %site.name, left, "some tasks of the earlier run's job may still exist");
                }
                SiteInput::EarlierJobEnded
            }
            SiteAction::MakeAttempt(order) => Box::pin(self.attempt(order)).await,
            SiteAction::RequestRefresh => {
                context.refresh_requests.add(&site.name);
                SiteInput::RefreshRequested {
                    awaits_refresh: context.refresh_requests.awaits_refresh(),
                }
            }
            SiteAction::EndWork => {
                let status = RegistryStatus::Cancelled;
                let end = end_site(context, monitor, &site.name, CancelLimits::GENTLE, status);
                let counts = Box::pin(end).await;
                self.worker = None;
                SiteInput::WorkEnded { counts }
            }
            SiteAction::ReleaseLease(completion) => {
                if let Some(lease) = self.lease.take() {
                    lease.release(completion).await;
                }
                SiteInput::LeaseReleased
            }
        }
    }

    async fn attempt(&mut self, order: AttemptOrder) -> SiteInput {
        let SiteEnv {
            context,
            monitor,
            workers,
            ..
        } = self.env;
        let name = &self.rules.site.name;
        if let Some(by) = context.stop_requests.of(name) {
            return SiteInput::StopRequested(by);
        }
        let Some(lease) = &self.lease else {
            let failure = Some(JobFailure::Lost("its lease is not held".to_owned()));
            let counts = SiteCounts::default();
            return SiteInput::AttemptEnded { failure, counts };
        };
        context.in_flight.site_begun(name, order.site_begun);
        let own_worker = self.rules.site.worker.as_ref();
        self.worker = own_worker
            .zip(workers.as_ref())
            .map(|(_, workers)| workers.request(name));
        let earlier = self.earlier.filter(|_| order.picks_up);
        let attempt = Attempt::new(context, monitor, &self.rules, order, earlier);
        let leased = LeasedAttempt {
            site: name,
            lease,
            worker: self.worker.as_deref(),
        };
        match leased_attempt::run(context, monitor, leased, attempt).await {
            LeasedAttemptEnd::Finished(failure, counts) => {
                self.worker = None;
                SiteInput::AttemptEnded { failure, counts }
            }
            LeasedAttemptEnd::Stopped(by) => SiteInput::StopRequested(by),
        }
    }
}
