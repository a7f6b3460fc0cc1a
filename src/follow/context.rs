//! What the proxies' and the sites' parts need from the rest of orch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use super::ghosts::Ghosts;
use super::in_flight::InFlight;
use super::refresh_asks::RefreshAsks;
use super::stops::Stops;
use crate::celery::Client;
use crate::run::{JobSoFar, Recorder, Resumption, SiteName, Usual};
use crate::shared_services::SharedWorkers;

/// A question to whoever keeps the workers up; where nobody does the answer is yes.
#[derive(Clone)]
pub struct Settled(Arc<dyn Fn() -> bool + Send + Sync>);

impl Settled {
    pub fn new(is_settled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_settled))
    }

    pub fn now(&self) -> bool {
        (self.0)()
    }
}

impl Default for Settled {
    fn default() -> Self {
        Self::new(|| true)
    }
}

/// Cheap to clone; clones share what is in flight.
#[derive(Clone)]
pub struct Context {
    pub celery: Client,
    pub recorder: Recorder,
    /// The queues that workers consume; the first is where tasks go that name none.
    pub queues: Vec<String>,
    /// The queues of workers that do one site's tasks only.
    pub own_queues: Arc<BTreeSet<String>>,
    /// Whether every worker that orch owns is as it should be. One in its warm stop answers no more, and still runs what it has
    /// taken: what is not found meanwhile may yet come to its end.
    pub workers_settled: Settled,
    /// Rises with each death of a worker that orch owns or shares.
    pub worker_deaths: watch::Receiver<u64>,
    /// Rises with each gap in the events: connections broke, and a worker does not acknowledge what it had taken over one that
    /// is gone.
    pub event_gaps: watch::Sender<u64>,
    /// Workers that the run does not own.
    pub shared: SharedWorkers,
    /// Rises with each task of ours that fails, for whoever wants to look for the reason at once.
    pub task_failures: watch::Sender<u64>,
    /// What workers list as running and does not run.
    pub ghosts: Ghosts,
    /// Jobs that an earlier run had under way, by site, which are picked up.
    pub earlier: Arc<BTreeMap<SiteName, JobSoFar>>,
    /// Tokens of the leases under which that run was last at its unfinished sites.
    pub earlier_tokens: Arc<BTreeMap<SiteName, u64>>,
    /// What sites usually take.
    pub usual: Arc<BTreeMap<SiteName, Usual>>,
    /// Sites that want fresh proxies.
    pub refresh_asks: RefreshAsks,
    /// Sites that are to be stopped while the others go on.
    pub stops: Stops,
    pub(crate) in_flight: InFlight,
}

impl Context {
    pub fn new(celery: Client, recorder: Recorder, queues: Vec<String>, worker_deaths: watch::Receiver<u64>) -> Self {
        let task_failures = watch::Sender::new(0);
        Self {
            celery,
            recorder,
            queues,
            own_queues: Arc::default(),
            workers_settled: Settled::default(),
            worker_deaths,
            event_gaps: watch::Sender::new(0),
            shared: SharedWorkers::default(),
            task_failures,
            ghosts: Ghosts::default(),
            earlier: Arc::default(),
            earlier_tokens: Arc::default(),
            usual: Arc::default(),
            refresh_asks: RefreshAsks::default(),
            stops: Stops::default(),
            in_flight: InFlight::default(),
        }
    }

    /// Knows that workers of these queues do one site's tasks only.
    #[must_use]
    pub fn with_own_queues(self, queues: BTreeSet<String>) -> Self {
        Self {
            own_queues: Arc::new(queues),
            ..self
        }
    }

    /// Picks up the jobs that this run had under way.
    #[must_use]
    pub fn continuing(self, resumption: &Resumption) -> Self {
        let jobs = resumption.jobs().map(|(site, job)| (site.clone(), job.clone()));
        let tokens = resumption.fencing_tokens();
        Self {
            earlier: Arc::new(jobs.collect()),
            earlier_tokens: Arc::new(tokens.map(|(site, token)| (site.clone(), token)).collect()),
            ..self
        }
    }

    /// The queue of a call: its own, else the first that workers consume.
    pub(crate) fn queue_of(&self, call: &crate::config::TaskCall) -> Option<String> {
        call.queue.clone().or_else(|| self.queues.first().cloned())
    }

    pub(crate) fn task_failed(&self) {
        self.task_failures.send_modify(|count| *count += 1);
    }
}
