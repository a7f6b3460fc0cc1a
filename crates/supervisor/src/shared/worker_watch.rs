//! The watch of the workers that a run shares: asks all of them every few seconds, and waits for the ends of their
//! processes if they run on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::process_watch::ProcessWatch;
use super::redis_outage::RedisOutage;
use super::roster::{RosterChange, WorkerAnswer, WorkerRoster};
use super::shared_name::SharedName;
use crate::worker::pool_kind::PoolKind;
use orch_base::text::duration_text::shown;
use orch_base::wall_clock::unix_now;
use orch_celery::{Client, ControlTarget, DeadWorker, NodeName, SharedWorkers, WorkerAbsence, WorkerStats};
use orch_config::CeleryConfig;

use orch_journal::failure::ServiceFailure;
use orch_journal::{ConsumerAbsence, EventKind, LastConsumer, Recorder, WorkerProblem};

/// Interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// Longest wait for the answers of workers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for an answer of a worker with a process that seems to have ended.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without a consuming worker, or without an answer of Redis, after which the outage is reported.
const ABSENCE_GRACE: Duration = Duration::from_secs(10);
/// Delay of a poll from which on orch counts as suspended.
const SUSPENDED_DELAY: Duration = Duration::from_secs(3);

/// Longest waits for services that are down.
#[derive(Clone, Copy, Debug)]
pub struct WatchTerms {
    /// Time without a consuming worker after which sites fail. See [`worker_timeout`].
    pub worker_timeout: Duration,
    /// Time without an answer of Redis after which the run fails.
    pub redis_timeout: Duration,
}

/// Returns how long a run continues without a worker, shared or own: the longest backoff of a restart, and the start.
pub fn worker_timeout(celery: &CeleryConfig) -> Duration {
    celery.restart.backoff_max + celery.start_timeout
}

/// The watch of the shared workers and of Redis.
pub struct WorkerWatch {
    pub client: Client,
    pub recorder: Recorder,
    pub shared: SharedWorkers,
    pub redis_outage: RedisOutage,
    pub terms: WatchTerms,
    /// Queues of the run.
    pub queues: Vec<String>,
    /// Address of Redis, for people.
    pub address: String,
    /// Pid of the guard: workers below the guard belong to the run, and their ends are reported elsewhere.
    pub guard_pid: i32,
    /// Counter of the deaths of workers that do not belong to the run.
    pub worker_exits: watch::Sender<u64>,
    /// True if no other part of this run checks for workers with the same name.
    pub checks_shared_names: bool,
}

type ProcessEnd = Pin<Box<dyn Future<Output = (NodeName, u32)> + Send>>;

/// The state that is kept between polls.
struct WatchState {
    roster: WorkerRoster,
    processes: FuturesUnordered<ProcessEnd>,
    own: BTreeSet<u32>,
    /// Pool processes of each worker, by the worker's last answer.
    pools: BTreeMap<NodeName, Vec<u32>>,
    /// A worker of the run itself was seen: the supervisor handles the absence.
    has_own: bool,
    /// Time in Unix seconds since which no worker consumes, once that was reported.
    absent_since: Option<u64>,
    redis_down_since: Option<Instant>,
    /// Names that several workers had at the last poll.
    shared_names: BTreeSet<NodeName>,
    /// The run id of the Redis server, which changes with a restart.
    server: Option<String>,
}

impl WorkerWatch {
    /// Watches until Redis is down for too long; otherwise never ends.
    pub async fn run(self) -> ServiceFailure {
        let mut watched = WatchState {
            roster: WorkerRoster::new(Instant::now()),
            processes: FuturesUnordered::new(),
            own: BTreeSet::new(),
            pools: BTreeMap::new(),
            has_own: false,
            absent_since: None,
            redis_down_since: None,
            shared_names: BTreeSet::new(),
            server: None,
        };
        let mut next_poll = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some((node, pid)) = watched.processes.next(), if !watched.processes.is_empty() => {
                    self.process_ended(&mut watched, node, pid).await;
                }
                () = sleep_until(next_poll.into()) => {
                    if next_poll.elapsed() >= SUSPENDED_DELAY {
                        watched.roster.reset_silences(Instant::now());
                    }
                    if let Err(failure) = self.poll(&mut watched).await {
                        return failure;
                    }
                    next_poll = Instant::now() + POLL_INTERVAL;
                }
            }
            self.shared.set_living(watched.roster.living());
            self.judge_absence(&mut watched);
        }
    }

    async fn poll(&self, watched: &mut WatchState) -> Result<(), ServiceFailure> {
        let begun = Instant::now();
        let answers = self.ask(watched).await;
        let now = Instant::now();
        match answers {
            Ok(answers) if now - begun < ANSWER_TIMEOUT + SUSPENDED_DELAY => {
                self.check_redis(watched).await;
                for change in watched.roster.answered(answers, now) {
                    self.apply(watched, change);
                }
            }
            Ok(_) => watched.roster.reset_silences(now),
            // A server that loads data answers no other commands.
            Err(_) if self.is_loading().await => watched.roster.reset_silences(Instant::now()),
            Err(error) => {
                watched.roster.reset_silences(now);
                let since = *watched.redis_down_since.get_or_insert(begun);
                let down_for = now.saturating_duration_since(since);
                let what = format!("Redis on {} does not answer for {}", self.address, shown(down_for));
                let failure = ServiceFailure::infrastructure(what)
                    .with_cause(error.to_string())
                    .hint("start it again, then continue this run with `orch run --resume`");
                if down_for >= self.terms.redis_timeout {
                    return Err(failure);
                }
                if down_for >= ABSENCE_GRACE {
                    self.redis_outage.set(failure);
                }
            }
        }
        Ok(())
    }

    async fn is_loading(&self) -> bool {
        self.client.with_deadline(ANSWER_TIMEOUT).server_info().await.is_ok()
    }

    /// Reports the end of an outage, including one between two polls.
    async fn check_redis(&self, watched: &mut WatchState) {
        let client = self.client.with_deadline(ANSWER_TIMEOUT);
        let server = client.server_info().await.ok().and_then(|info| info.run_id);
        let is_restarted = server.is_some() && watched.server.is_some() && server != watched.server;
        watched.server = server.or_else(|| watched.server.take());
        if watched.redis_down_since.take().is_some() || is_restarted {
            watched.roster.reset_silences(Instant::now());
            self.redis_outage.end();
        }
    }

    async fn ask(&self, watched: &mut WatchState) -> orch_celery::Result<BTreeMap<NodeName, WorkerAnswer>> {
        let control = self.client.control();
        let (stats, queues) = tokio::join!(
            control.stats(&ControlTarget::All, ANSWER_TIMEOUT),
            control.active_queues(&ControlTarget::All, ANSWER_TIMEOUT)
        );
        let (stats, queues) = (stats?, queues?);
        self.report_shared_names(watched, SharedName::among(&stats));
        // Of workers with a shared name the known process is followed; an answer of the other one is not its end.
        let known = |node: &NodeName, last| {
            let pid = watched.roster.pid_of(node);
            let mut replaced = stats.replaced(node);
            replaced.find(|stats| Some(stats.pid) == pid).unwrap_or(last)
        };
        let stats: Vec<(&NodeName, &WorkerStats)> =
            stats.good().map(|(node, last)| (node, known(node, last))).collect();
        watched.pools = stats
            .iter()
            .map(|(node, stats)| ((*node).clone(), stats.pool_processes.clone()))
            .collect();
        let answers = stats.into_iter().map(|(node, stats)| {
            // A worker that does not report queues in time may consume any queue.
            let is_consumer = queues
                .of(node)
                .is_none_or(|consumed| consumed.iter().any(|queue| self.queues.contains(&queue.name)));
            let answer = WorkerAnswer {
                pid: stats.pid,
                answers_always: answers_always(stats),
                is_consumer,
            };
            (node.clone(), answer)
        });
        Ok(answers.collect())
    }

    /// Reports workers that share a name, once as long as they do.
    fn report_shared_names(&self, watched: &mut WatchState, shared: Vec<SharedName>) {
        let mut names = BTreeSet::new();
        for shared in shared {
            if self.checks_shared_names && !watched.shared_names.contains(&shared.node) {
                self.report(WorkerProblem::NameShared(shared.described()));
            }
            names.insert(shared.node);
        }
        watched.shared_names = names;
    }

    fn apply(&self, watched: &mut WatchState, change: RosterChange) {
        match change {
            RosterChange::Came { node, pid } => self.begin_watch(watched, node, pid),
            RosterChange::Died { node, pid, is_seen } => {
                self.died(watched, node, pid, is_seen.then(|| unix_now().as_secs_f64()))
            }
        }
    }

    fn begin_watch(&self, watched: &mut WatchState, node: NodeName, pid: u32) {
        let below_guard = orch_base::system::processes::tree(self.guard_pid).unwrap_or_default();
        if below_guard.iter().any(|process| process.pid.cast_unsigned() == pid) {
            watched.own.insert(pid);
            // An own worker that consumes no queue of the run, such as that of a site, does not count.
            watched.has_own |= watched.roster.is_consumer(&node);
        }
        let pool = watched.pools.get(&node).cloned().unwrap_or_default();
        let Some(process) = ProcessWatch::of_worker(&node, pid, &pool) else {
            tracing::info!(%node, pid, "a shared worker is not visible on this machine: only its answers are watched");
            return;
        };
        watched.roster.set_watched(&node, pid, true);
        watched.processes.push(Box::pin(async move {
            process.ended().await;
            (node, pid)
        }));
    }

    /// Handles the end of a process that was attributed to a worker; if the worker still answers, the process was
    /// another one.
    async fn process_ended(&self, watched: &mut WatchState, node: NodeName, pid: u32) {
        let seen_at = unix_now().as_secs_f64();
        let control = self.client.control();
        let answer = control.stats(&ControlTarget::from(&node), CONFIRM_TIMEOUT).await;
        if let Ok(replies) = &answer
            && replies.of(&node).is_some_and(|stats| stats.pid == pid)
        {
            watched.roster.set_watched(&node, pid, false);
            return;
        }
        if watched.roster.ended(&node, pid, Instant::now()).is_some() {
            self.died(watched, node, pid, Some(seen_at));
        }
    }

    fn died(&self, watched: &mut WatchState, node: NodeName, pid: u32, seen_at: Option<f64>) {
        if !watched.own.remove(&pid) {
            let name = node.to_string();
            self.report(match seen_at {
                Some(_) => WorkerProblem::Ended { node: name, pid },
                None => WorkerProblem::Silent { node: name, pid },
            });
            self.worker_exits.send_modify(|deaths| *deaths += 1);
        }
        self.shared.report_dead(DeadWorker { node, pid, seen_at });
    }

    fn judge_absence(&self, watched: &mut WatchState) {
        if watched.has_own {
            return;
        }
        let (absent, last) = watched.roster.absence(Instant::now());
        if absent < ABSENCE_GRACE {
            if watched.absent_since.take().is_some() {
                let queues = self.queues.clone();
                self.recorder.emit(EventKind::ConsumerReturned { queues });
            }
            self.shared.set_absence(None);
            return;
        }
        let is_new = watched.absent_since.is_none();
        // Keeps the first value, so that the absence is not reported again.
        let since = *watched
            .absent_since
            .get_or_insert_with(|| unix_now().saturating_sub(absent).as_secs());
        let absence = ConsumerAbsence {
            queues: self.queues.clone(),
            since,
            last: last.map(|(node, pid)| LastConsumer {
                node: node.to_string(),
                pid: *pid,
            }),
            timeout_ms: EventKind::millis(self.terms.worker_timeout),
            is_final: absent >= self.terms.worker_timeout,
        };
        let (reason, is_final) = (absence.to_string(), absence.is_final);
        if is_new {
            self.report(WorkerProblem::Absent(absence));
        }
        self.shared.set_absence(Some(WorkerAbsence { reason, is_final }));
    }

    fn report(&self, problem: WorkerProblem) {
        self.recorder.emit(EventKind::WorkerProblemFound { problem });
    }
}

/// Returns true if the pool runs tasks outside of the main process, which then answers at all times.
fn answers_always(stats: &WorkerStats) -> bool {
    // The configured pool is unknown: the worker belongs to another instance.
    let reports_processes = !stats.pool_processes.is_empty();
    reports_processes && PoolKind::of(stats, "") == PoolKind::Separate
}
