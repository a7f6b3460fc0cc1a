//! Whether a worker that does not answer a ping is busy or dead: by its pool, by what it had in hand when it answered last, and
//! by what its main process does. Not here: a worker that answers and does not consume (`consumption`).

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::task_watch::TaskWatch;
use crate::celery::{Client, NodeName, Stats};
use crate::guard::process_tree;

/// How long a task without a time limit may keep a worker from answering when it computes.
const COMPUTING_DEADLINE: Duration = Duration::from_secs(600);
/// The same when it waits, which looks like a worker that has lost its broker.
const WAITING_DEADLINE: Duration = Duration::from_secs(180);
/// The kernel counts processor time in these, whatever its own tick is.
const TICKS_PER_SECOND: u64 = 100;
/// A process that uses less of a processor, in percent, waits: its timers alone take one percent.
const WAITING_SHARE: u64 = 5;
/// Fewer ticks than this may be a matter of rounding.
const FEWEST_TICKS: u64 = 2;

/// Where a worker's tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// In processes of their own: nothing that a task does keeps the main process from answering.
    Separate,
    /// In threads of the main process: a task that computes without giving way keeps it from answering, one that waits does not.
    Threads,
    /// In the main process, in turns with what answers: a task that computes, or waits without giving way, keeps it from that.
    Shared,
    /// In the main process, in place of what answers: it answers between two tasks only, and its events wait as well.
    Solo,
}

impl Pool {
    /// Reads what a worker says of its pool. `configured` is asked only where an old version says nothing.
    fn of(stats: &Stats, configured: &str) -> Self {
        let named = stats.pool_implementation.as_deref();
        let class = |name: &str| {
            let module = name.split(':').next().unwrap_or_default();
            match module.rsplit('.').next().unwrap_or_default() {
                "prefork" | "processes" | "asynpool" => Self::Separate,
                "solo" => Self::Solo,
                "thread" | "threads" => Self::Threads,
                _ => Self::Shared,
            }
        };
        match (named, stats.pool_processes.as_slice()) {
            (Some(name), _) => class(name),
            // A solo pool lists the main process as its own.
            (None, [only]) if *only == stats.pid => Self::Solo,
            (None, []) => class(configured),
            (None, _) => Self::Separate,
        }
    }
}

/// What the main process of a worker did while nobody answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    Computing,
    Waiting,
    /// By a signal: it will not go on by itself.
    Stopped,
    /// It is not there, or on another machine.
    Unknown,
}

/// What is known of a worker that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    pub pool: Pool,
    /// Since its last answer.
    pub lasted: Duration,
    /// For how long the youngest task that it is known to have has run.
    pub task: Option<Duration>,
    /// Of its tasks, by its own settings.
    pub time_limit: Option<Duration>,
    pub activity: Activity,
    /// Its broker was away a moment ago.
    pub may_be_reconnecting: bool,
}

/// What follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Busy,
    Reconnecting,
    /// Why, for people, where there is more than silence.
    Dead(Option<&'static str>),
}

/// Judges a worker that does not answer.
pub(super) fn judge(silence: Silence) -> Verdict {
    // A task that began later than the silence may take its own time.
    let computes_for = silence.task.map_or(silence.lasted, |task| task.min(silence.lasted));
    let may = |taken: Duration, deadline| taken <= silence.time_limit.unwrap_or(deadline);
    match (silence.pool, silence.activity) {
        (_, Activity::Stopped) => Verdict::Dead(Some("its process is stopped by a signal")),
        _ if silence.may_be_reconnecting => Verdict::Reconnecting,
        // Whether it has a task cannot be seen, and its death is seen as a process's.
        (Pool::Solo, _) => Verdict::Busy,
        (Pool::Shared | Pool::Threads, Activity::Computing) => match may(computes_for, COMPUTING_DEADLINE) {
            true => Verdict::Busy,
            false => Verdict::Dead(Some("it computes for longer than a task may take")),
        },
        (Pool::Shared, _) if silence.task.is_some_and(|task| may(task, WAITING_DEADLINE)) => Verdict::Busy,
        (Pool::Shared | Pool::Threads | Pool::Separate, _) => Verdict::Dead(None),
    }
}

/// One look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    start_time: u64,
    state: char,
    /// Of processor time.
    ticks: u64,
}

fn look(pid: i32) -> Option<Look> {
    read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may hold anything: what follows the last `)` are fields 3 and on.
fn read(stat: &str) -> Option<Look> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Look {
        state: fields.first()?.chars().next()?,
        ticks: number(11)?.checked_add(number(12)?)?,
        start_time: number(19)?,
    })
}

fn activity(before: Option<Look>, now: Option<Look>, passed: Duration) -> Activity {
    let (Some(before), Some(now)) = (before, now) else {
        return Activity::Unknown;
    };
    if before.start_time != now.start_time {
        return Activity::Unknown;
    }
    let used = now.ticks.saturating_sub(before.ticks);
    let share = used * 1000 * 100 / TICKS_PER_SECOND / (passed.as_millis() as u64).max(1);
    match (before.state, now.state) {
        (_, 'T') => Activity::Stopped,
        // It wants to run, and a busy machine does not let it.
        ('R', 'R') => Activity::Computing,
        _ if used >= FEWEST_TICKS && share >= WAITING_SHARE => Activity::Computing,
        _ => Activity::Waiting,
    }
}

/// What a worker has said of itself.
#[derive(Clone, Copy, Debug)]
struct Known {
    pool: Pool,
    /// Its main process, if that is one of this machine that orch has started.
    pid: Option<i32>,
    time_limit: Option<Duration>,
    answered: Instant,
    /// At its last answer it ran a task, or had one that was about to run.
    had_task: bool,
}

/// The beginning of a question to a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    at: Instant,
    look: Option<Look>,
}

/// Remembers what a worker says of itself, for when it says nothing.
#[derive(Default)]
pub(super) struct LastAnswer {
    known: Mutex<Option<Known>>,
    tasks: Mutex<Option<TaskWatch>>,
}

impl LastAnswer {
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Option<TaskWatch>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the tasks of a worker in which a task that waits may keep it from answering.
    pub async fn watch_tasks(&self, client: &Client, node: &NodeName) {
        self.tasks().take();
        if self.known().is_some_and(|known| known.pool == Pool::Shared) {
            let watch = TaskWatch::open(client, node.clone()).await;
            *self.tasks() = watch;
        }
    }

    /// Learns what a worker is, once it can be asked. `spawned` is the process that orch has started for it: another is not
    /// looked at, since its number may be that of a process elsewhere.
    pub fn learn(&self, stats: &Stats, settings: Option<&Map<String, Value>>, configured: &str, spawned: Option<i32>) {
        let pid = i32::try_from(stats.pid).ok();
        let is_ours = |pid: &i32| {
            let tree = spawned.and_then(|spawned| process_tree(spawned).ok());
            tree.is_some_and(|tree| tree.iter().any(|process| process.pid == *pid))
        };
        *self.known() = Some(Known {
            pool: Pool::of(stats, configured),
            pid: pid.filter(is_ours),
            time_limit: settings.and_then(time_limit),
            answered: Instant::now(),
            had_task: false,
        });
    }

    /// Begins to ask.
    pub fn ask(&self) -> Asked {
        let pid = self.known().and_then(|known| known.pid);
        Asked {
            at: Instant::now(),
            look: pid.and_then(look),
        }
    }

    /// It has answered. What it has in hand is not always known.
    pub fn answered(&self, has_task: Option<bool>) {
        if let Some(known) = self.known().as_mut() {
            known.answered = Instant::now();
            known.had_task = has_task.unwrap_or(known.had_task);
        }
    }

    /// It has not answered. `None` where it has never said what it is.
    pub fn silence(&self, asked: Asked, may_be_reconnecting: bool) -> Option<Silence> {
        let known = (*self.known())?;
        let lasted = known.answered.elapsed();
        let begun = self.tasks().as_ref().and_then(TaskWatch::youngest);
        Some(Silence {
            pool: known.pool,
            lasted,
            task: begun.or(known.had_task.then_some(lasted)),
            time_limit: known.time_limit,
            activity: activity(asked.look, known.pid.and_then(look), asked.at.elapsed()),
            may_be_reconnecting,
        })
    }
}

/// `task_time_limit`, by its new and by its old name.
fn time_limit(settings: &Map<String, Value>) -> Option<Duration> {
    let (_, limit) = settings.iter().find(|(name, _)| {
        matches!(
            name.to_lowercase().as_str(),
            "task_time_limit" | "celeryd_task_time_limit"
        )
    })?;
    Duration::try_from_secs_f64(limit.as_f64()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn silence(pool: Pool, activity: Activity) -> Silence {
        Silence {
            pool,
            lasted: Duration::from_secs(30),
            task: None,
            time_limit: None,
            activity,
            may_be_reconnecting: false,
        }
    }

    #[test]
    fn a_silent_worker_is_busy_by_evidence_only() {
        use Activity::{Computing, Stopped, Unknown, Waiting};
        use Pool::{Separate, Shared, Solo, Threads};
        let dead = Verdict::Dead(None);
        for (pool, activity, had_task, expected) in [
            (Separate, Waiting, false, dead),
            (Separate, Computing, false, dead),
            (Separate, Waiting, true, dead),
            (Separate, Unknown, true, dead),
            (Shared, Waiting, false, dead),
            (Shared, Unknown, false, dead),
            (Shared, Computing, false, Verdict::Busy),
            (Shared, Waiting, true, Verdict::Busy),
            (Shared, Unknown, true, Verdict::Busy),
            (Threads, Waiting, true, dead),
            (Threads, Unknown, true, dead),
            (Threads, Computing, false, Verdict::Busy),
            (Solo, Waiting, false, Verdict::Busy),
            (Solo, Computing, true, Verdict::Busy),
            (Solo, Unknown, false, Verdict::Busy),
        ] {
            let mut silence = silence(pool, activity);
            silence.task = had_task.then_some(silence.lasted);
            assert_eq!(judge(silence), expected, "{silence:?}");
            silence.may_be_reconnecting = true;
            assert_eq!(judge(silence), Verdict::Reconnecting, "{silence:?}");
        }
        for pool in [Separate, Threads, Shared, Solo] {
            for had_task in [false, true] {
                let mut silence = silence(pool, Stopped);
                silence.task = had_task.then_some(silence.lasted);
                assert!(matches!(judge(silence), Verdict::Dead(Some(_))));
            }
        }
    }

    #[test]
    fn a_task_excuses_silence_for_as_long_as_it_may_run() {
        let seconds = Duration::from_secs;
        use Activity::{Computing, Waiting};
        for (limit, lasted, activity, busy) in [
            (None, seconds(600), Computing, true),
            (None, seconds(601), Computing, false),
            (None, seconds(180), Waiting, true),
            (None, seconds(181), Waiting, false),
            (Some(seconds(20)), seconds(20), Computing, true),
            (Some(seconds(20)), seconds(21), Computing, false),
            (Some(seconds(20)), seconds(21), Waiting, false),
            (Some(seconds(3600)), seconds(3000), Waiting, true),
            (Some(seconds(3600)), seconds(3000), Computing, true),
        ] {
            let silence = Silence {
                lasted,
                task: Some(lasted),
                time_limit: limit,
                ..silence(Pool::Shared, activity)
            };
            assert_eq!(judge(silence) == Verdict::Busy, busy, "{silence:?}");
            let next = Silence {
                task: Some(seconds(1)),
                ..silence
            };
            assert_eq!(judge(next), Verdict::Busy, "a later task has a time of its own");
            let solo = Silence {
                pool: Pool::Solo,
                ..silence
            };
            assert_eq!(
                judge(solo),
                Verdict::Busy,
                "a solo pool ends no task for its time limit"
            );
        }
    }

    #[test]
    fn a_pool_is_what_the_worker_says() {
        let stats = |implementation: Option<&str>, processes: &[u32]| Stats {
            pid: 7,
            pool_slots: 1,
            pool_processes: processes.to_vec(),
            pool_implementation: implementation.map(str::to_owned),
            ..Stats::default()
        };
        for (implementation, processes, configured, expected) in [
            (
                Some("celery.concurrency.prefork:TaskPool"),
                vec![8, 9],
                "solo",
                Pool::Separate,
            ),
            (Some("celery.concurrency.solo:TaskPool"), vec![7], "prefork", Pool::Solo),
            (
                Some("celery.concurrency.gevent:TaskPool"),
                vec![],
                "prefork",
                Pool::Shared,
            ),
            (
                Some("celery.concurrency.eventlet:TaskPool"),
                vec![],
                "prefork",
                Pool::Shared,
            ),
            (
                Some("celery.concurrency.thread:TaskPool"),
                vec![],
                "prefork",
                Pool::Threads,
            ),
            (
                Some("celery_aio_pool.pool:AsyncIOPool"),
                vec![],
                "prefork",
                Pool::Shared,
            ),
            (None, vec![7], "prefork", Pool::Solo),
            (None, vec![8], "solo", Pool::Separate),
            (None, vec![], "gevent", Pool::Shared),
            (None, vec![], "prefork", Pool::Separate),
        ] {
            let found = Pool::of(&stats(implementation, &processes), configured);
            assert_eq!(found, expected, "{implementation:?} {processes:?} {configured}");
        }
    }

    #[test]
    fn a_process_that_computes_is_told_from_one_that_waits_or_is_stopped() {
        let look = |state: char, ticks: u64| {
            Some(Look {
                start_time: 5,
                state,
                ticks,
            })
        };
        let another = Some(Look {
            start_time: 6,
            state: 'R',
            ticks: 900,
        });
        for (before, now, milliseconds, expected) in [
            (look('S', 100), look('S', 101), 200, Activity::Waiting),
            (look('S', 100), look('S', 102), 200, Activity::Computing),
            (look('S', 100), look('S', 102), 2000, Activity::Waiting),
            (look('S', 100), look('S', 110), 2000, Activity::Computing),
            (look('R', 100), look('R', 100), 200, Activity::Computing),
            (look('R', 100), look('T', 150), 200, Activity::Stopped),
            (look('S', 100), look('D', 100), 2000, Activity::Waiting),
            (look('S', 100), None, 2000, Activity::Unknown),
            (None, look('S', 100), 2000, Activity::Unknown),
            (look('S', 100), another, 2000, Activity::Unknown),
            (look('S', 100), look('S', 200), 0, Activity::Computing),
        ] {
            let passed = Duration::from_millis(milliseconds);
            assert_eq!(activity(before, now, passed), expected, "{before:?} {now:?} {passed:?}");
        }
        let own = super::look(std::process::id().cast_signed()).unwrap();
        assert!(own.start_time > 0 && "RS".contains(own.state), "{own:?}");
        assert_eq!(read("7 (a) b) R"), None);
    }

    #[test]
    fn the_time_limit_is_the_worker_s() {
        for (settings, expected) in [
            (json!({ "task_time_limit": 30 }), Some(30.0)),
            (json!({ "CELERYD_TASK_TIME_LIMIT": 1.5 }), Some(1.5)),
            (json!({ "task_time_limit": null }), None),
            (json!({ "task_time_limit": -1 }), None),
            (json!({}), None),
        ] {
            let found = time_limit(settings.as_object().unwrap());
            assert_eq!(found.map(|limit| limit.as_secs_f64()), expected, "{settings}");
        }
    }
}
