//! Watches the workers that a run shares: asks all of them every few seconds, and waits for the ends of their processes
//! where those run on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::handle::{Absence, DeadWorker, SharedWorkers};
use super::process_watch::ProcessWatch;
use super::roster::{Roster, RosterChange, WorkerAnswer};
use super::shared_name::SharedName;
use crate::celery::{self, Client, NodeName, Stats, Target};
use crate::config::CeleryConfig;
use crate::duration_text::shown;
use crate::guard;
use crate::run::{EventKind, Level, Recorder, local_time};
use crate::services::Failure;

/// From one question to the next.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// How long workers have to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a worker has to answer whose process seems to have ended.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// No worker consumes, or Redis does not answer, for this long: that is no blink any more.
const ABSENCE_GRACE: Duration = Duration::from_secs(10);
/// A question that begins so much too late: this process stood still.
const OVERSLEPT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long services that are away are waited for.
#[derive(Clone, Copy, Debug)]
pub struct WatchTerms {
    /// No worker consumes: sites fail. See [`worker_timeout`].
    pub worker_timeout: Duration,
    /// Redis does not answer: the run fails.
    pub redis_timeout: Duration,
}

/// How long a run goes on without a worker, whoever owns it: the longest pause before a restart, and the start.
pub fn worker_timeout(celery: &CeleryConfig) -> Duration {
    celery.restart.backoff_max + celery.start_timeout
}

/// See the module.
pub struct WorkerWatch {
    pub client: Client,
    pub recorder: Recorder,
    pub shared: SharedWorkers,
    pub terms: WatchTerms,
    /// Queues of the run.
    pub queues: Vec<String>,
    /// Where Redis is, for people.
    pub address: String,
    /// Workers below this process are the run's own: their ends are reported by others.
    pub guard_pid: i32,
    /// Rises with each death of a worker that is not the run's own.
    pub deaths: watch::Sender<u64>,
    /// Nobody else in this run looks whether workers share a name.
    pub names_are_unwatched: bool,
}

type ProcessEnd = Pin<Box<dyn Future<Output = (NodeName, u32)> + Send>>;

/// What is remembered from one question to the next.
struct WatchState {
    roster: Roster,
    processes: FuturesUnordered<ProcessEnd>,
    own: BTreeSet<u32>,
    /// Pool processes of each worker, by its last answer.
    pools: BTreeMap<NodeName, Vec<u32>>,
    /// One of the run's own was seen: their supervisor judges their absence.
    has_own: bool,
    /// Local time since when no worker consumes, once that was reported.
    absent_since: Option<String>,
    away_since: Option<Instant>,
    /// Names that several workers had at the last look.
    shared_names: BTreeSet<NodeName>,
    /// The server's run, which is another after its restart.
    server: Option<String>,
}

impl WorkerWatch {
    /// Watches until Redis is away for too long; else never ends.
    pub async fn run(self) -> Failure {
        let mut watched = WatchState {
            roster: Roster::new(Instant::now()),
            processes: FuturesUnordered::new(),
            own: BTreeSet::new(),
            pools: BTreeMap::new(),
            has_own: false,
            absent_since: None,
            away_since: None,
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
                    if next_poll.elapsed() >= OVERSLEPT_TIMEOUT {
                        watched.roster.pardon(Instant::now());
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

    async fn poll(&self, watched: &mut WatchState) -> Result<(), Failure> {
        let begun = Instant::now();
        let answers = self.ask(watched).await;
        let now = Instant::now();
        match answers {
            Ok(answers) if now - begun < ANSWER_TIMEOUT + OVERSLEPT_TIMEOUT => {
                self.look_at_redis(watched).await;
                for change in watched.roster.answered(answers, now) {
                    self.take(watched, change);
                }
            }
            Ok(_) => watched.roster.pardon(now),
            // A server that loads its data answers nothing else.
            Err(_) if self.is_loading().await => watched.roster.pardon(Instant::now()),
            Err(error) => {
                watched.roster.pardon(now);
                let since = *watched.away_since.get_or_insert(begun);
                let away = now.saturating_duration_since(since);
                let what = format!("Redis on {} does not answer for {}", self.address, shown(away));
                let failure = Failure::infrastructure(what)
                    .because(error.to_string())
                    .hint("start it again, then continue this run with `orch run --resume`");
                if away >= self.terms.redis_timeout {
                    return Err(failure);
                }
                if away >= ABSENCE_GRACE {
                    self.shared.set_redis_away(failure);
                }
            }
        }
        Ok(())
    }

    async fn is_loading(&self) -> bool {
        self.client.with_deadline(ANSWER_TIMEOUT).server_info().await.is_ok()
    }

    /// Reports an outage that is over, also one between two questions.
    async fn look_at_redis(&self, watched: &mut WatchState) {
        let client = self.client.with_deadline(ANSWER_TIMEOUT);
        let server = client.server_info().await.ok().and_then(|info| info.run_id);
        let is_another = server.is_some() && watched.server.is_some() && server != watched.server;
        watched.server = server.or_else(|| watched.server.take());
        if watched.away_since.take().is_some() || is_another {
            watched.roster.pardon(Instant::now());
            self.shared.redis_returned();
        }
    }

    async fn ask(&self, watched: &mut WatchState) -> celery::Result<BTreeMap<NodeName, WorkerAnswer>> {
        let control = self.client.control();
        let (stats, queues) = tokio::join!(
            control.stats(&Target::All, ANSWER_TIMEOUT),
            control.active_queues(&Target::All, ANSWER_TIMEOUT)
        );
        let (stats, queues) = (stats?, queues?);
        self.name_shared(watched, SharedName::among(&stats));
        // Of workers that share a name the one that is known is followed: the other's answer is not its end.
        let known = |node: &NodeName, last| {
            let pid = watched.roster.pid_of(node);
            let mut replaced = stats.replaced(node);
            replaced.find(|stats| Some(stats.pid) == pid).unwrap_or(last)
        };
        let stats: Vec<(&NodeName, &Stats)> = stats.good().map(|(node, last)| (node, known(node, last))).collect();
        watched.pools = stats
            .iter()
            .map(|(node, stats)| ((*node).clone(), stats.pool_processes.clone()))
            .collect();
        let answers = stats.into_iter().map(|(node, stats)| {
            // Who did not say what it consumes in time may consume anything.
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

    /// Names workers that share a name, once while they do.
    fn name_shared(&self, watched: &mut WatchState, shared: Vec<SharedName>) {
        let mut names = BTreeSet::new();
        for shared in shared {
            if self.names_are_unwatched && !watched.shared_names.contains(&shared.node) {
                self.notice(Level::Error, format!("{shared}\n  hint:  {}", SharedName::CURE));
            }
            names.insert(shared.node);
        }
        watched.shared_names = names;
    }

    fn take(&self, watched: &mut WatchState, change: RosterChange) {
        match change {
            RosterChange::Came { node, pid } => self.begin_watch(watched, node, pid),
            RosterChange::Died { node, pid, is_seen } => self.died(watched, node, pid, is_seen.then(now_unix)),
        }
    }

    fn begin_watch(&self, watched: &mut WatchState, node: NodeName, pid: u32) {
        let below_guard = guard::process_tree(self.guard_pid).unwrap_or_default();
        if below_guard.iter().any(|process| process.pid.cast_unsigned() == pid) {
            watched.own.insert(pid);
            // Another consumes other queues.
            watched.has_own |= watched.roster.is_consumer(&node);
        }
        let pool = watched.pools.get(&node).cloned().unwrap_or_default();
        let Some(process) = ProcessWatch::of_worker(&node, pid, &pool) else {
            tracing::info!(%node, pid, "a shared worker is not seen on this machine: it is watched by its answers");
            return;
        };
        watched.roster.set_watched(&node, pid, true);
        watched.processes.push(Box::pin(async move {
            process.ended().await;
            (node, pid)
        }));
    }

    /// The process that was taken for a worker's has ended: a worker that still answers was another.
    async fn process_ended(&self, watched: &mut WatchState, node: NodeName, pid: u32) {
        let seen_at = now_unix();
        let control = self.client.control();
        let answer = control.stats(&Target::from(&node), CONFIRM_TIMEOUT).await;
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
            let message = match seen_at {
                Some(_) => format!(
                    "the shared worker {node} (pid {pid}) has ended: tasks that it ran are lost, unless they are \
                     acknowledged late"
                ),
                None => format!(
                    "the shared worker {node} (pid {pid}) does not answer any more\n  hint:  what it held waits for the \
                     visibility timeout; if it is dead, `orch celery restore --node {node}` puts that back at once"
                ),
            };
            self.notice(Level::Warning, message);
            self.deaths.send_modify(|deaths| *deaths += 1);
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
                let queues = self.queues.join("`, `");
                self.notice(Level::Info, format!("a worker consumes the queue `{queues}` again"));
            }
            self.shared.set_absence(None);
            return;
        }
        let last = match last {
            Some((node, pid)) => format!(": the last, {node} (pid {pid}), ended or fell silent"),
            None => String::new(),
        };
        let queues = self.queues.join("`, `");
        let is_news = watched.absent_since.is_none();
        // It stays as it was first computed, so that nothing is reported anew.
        let since = watched.absent_since.get_or_insert_with(|| {
            let begun = SystemTime::now().checked_sub(absent).unwrap_or(UNIX_EPOCH);
            local_time(begun.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
        });
        let is_final = absent >= self.terms.worker_timeout;
        let limit = shown(self.terms.worker_timeout);
        let settings = "`[celery] start_timeout` and `restart.backoff_max` together";
        let reason = match is_final {
            true => {
                format!("no worker has consumed the queue `{queues}` for {limit} ({settings}), since {since}{last}")
            }
            false => format!("no worker has consumed the queue `{queues}` since {since}{last}"),
        };
        if is_news {
            let hint = match is_final {
                true => "start one, then continue this run with `orch run --resume`".to_owned(),
                false => format!("start one: sites fail {limit} after that ({settings})"),
            };
            self.notice(Level::Error, format!("{reason}\n  hint:  {hint}"));
        }
        self.shared.set_absence(Some(Absence { reason, is_final }));
    }

    fn notice(&self, level: Level, message: String) {
        self.recorder.emit(EventKind::Noticed { level, message });
    }
}

/// A worker's main process answers at all times where its pool runs tasks elsewhere.
fn answers_always(stats: &Stats) -> bool {
    let pool = stats.pool_implementation.as_deref().unwrap_or_default();
    !stats.pool_processes.is_empty() && !["solo", "gevent", "eventlet"].iter().any(|kind| pool.contains(kind))
}

fn now_unix() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
