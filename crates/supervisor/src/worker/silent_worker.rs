//! The judgement whether a worker that does not answer a ping is busy or dead. The evidence is the pool, the tasks at
//! the last answer, and the activity of the main process. Not here: a worker that answers and does not consume
//! ([`consumption`](crate::worker::consumption)).

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::pool_kind::PoolKind;
use crate::task_watch::TaskWatch;
use orch_base::system::processes::tree as process_tree;
use orch_celery::{Client, NodeName, WorkerStats};

/// Longest silence of a worker that computes in a task without a time limit.
const COMPUTING_DEADLINE: Duration = Duration::from_secs(600);
/// Longest silence of a worker that waits in a task without a time limit; a worker that has lost the broker looks the
/// same.
const WAITING_DEADLINE: Duration = Duration::from_secs(180);
/// Number of units per second in which the kernel counts processor time, independent of the kernel's own tick.
const TICKS_PER_SECOND: u64 = 100;
/// Percentage of a processor below which a process counts as waiting: timers alone use one percent.
const WAITING_SHARE: u64 = 5;
/// Number of ticks below which the difference may be a rounding error.
const FEWEST_TICKS: u64 = 2;

/// The activity of a worker's main process during a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessActivity {
    Computing,
    Waiting,
    /// Stopped by a signal: the process does not continue by itself.
    Stopped,
    /// The process does not exist, or is on another machine.
    Unknown,
}

/// The facts about a worker that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerSilence {
    pub pool: PoolKind,
    /// Time since the last answer.
    pub duration: Duration,
    /// Running time of the youngest known task.
    pub task: Option<Duration>,
    /// Time limit of the worker's tasks, from the worker's settings.
    pub time_limit: Option<Duration>,
    pub activity: ProcessActivity,
    /// The broker was down a moment ago.
    pub may_be_reconnecting: bool,
}

/// The conclusion about a silent worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SilenceVerdict {
    Busy,
    Reconnecting,
    /// The text for people is the reason, if there is more evidence than the silence.
    Dead(Option<&'static str>),
}

/// Judges a worker that does not answer.
pub(crate) fn judge(silence: WorkerSilence) -> SilenceVerdict {
    // A task that began after the last answer gets the full time.
    let computes_for = silence.task.map_or(silence.duration, |task| task.min(silence.duration));
    let is_allowed = |elapsed: Duration, deadline| elapsed <= silence.time_limit.unwrap_or(deadline);
    match (silence.pool, silence.activity) {
        (_, ProcessActivity::Stopped) => SilenceVerdict::Dead(Some("its process is stopped by a signal")),
        _ if silence.may_be_reconnecting => SilenceVerdict::Reconnecting,
        // The tasks of a solo worker are unknown, and a death is noticed as the end of the process.
        (PoolKind::Solo, _) => SilenceVerdict::Busy,
        (PoolKind::Shared | PoolKind::Threads, ProcessActivity::Computing) => {
            match is_allowed(computes_for, COMPUTING_DEADLINE) {
                true => SilenceVerdict::Busy,
                false => SilenceVerdict::Dead(Some("it has computed for longer than a task may take")),
            }
        }
        (PoolKind::Shared, _) if silence.task.is_some_and(|task| is_allowed(task, WAITING_DEADLINE)) => {
            SilenceVerdict::Busy
        }
        (PoolKind::Shared | PoolKind::Threads | PoolKind::Separate, _) => SilenceVerdict::Dead(None),
    }
}

/// The state of a process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessSample {
    start_time: u64,
    state: char,
    /// Processor time used so far, in ticks.
    ticks: u64,
}

fn read_process(pid: i32) -> Option<ProcessSample> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses a stat line. The name in parentheses may contain any character: field 3 follows the last `)`.
fn parse(stat: &str) -> Option<ProcessSample> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(ProcessSample {
        state: fields.first()?.chars().next()?,
        ticks: number(11)?.checked_add(number(12)?)?,
        start_time: number(19)?,
    })
}

fn activity(before: Option<ProcessSample>, now: Option<ProcessSample>, passed: Duration) -> ProcessActivity {
    let (Some(before), Some(now)) = (before, now) else {
        return ProcessActivity::Unknown;
    };
    if before.start_time != now.start_time {
        return ProcessActivity::Unknown;
    }
    let used = now.ticks.saturating_sub(before.ticks);
    let share = used * 1000 * 100 / TICKS_PER_SECOND / (passed.as_millis() as u64).max(1);
    match (before.state, now.state) {
        (_, 'T') => ProcessActivity::Stopped,
        // The process is ready to run, and a busy machine does not schedule the process.
        ('R', 'R') => ProcessActivity::Computing,
        _ if used >= FEWEST_TICKS && share >= WAITING_SHARE => ProcessActivity::Computing,
        _ => ProcessActivity::Waiting,
    }
}

/// The data that a worker has reported about itself.
#[derive(Clone, Copy, Debug)]
struct WorkerProfile {
    pool: PoolKind,
    /// The main process, if orch has started that process on this machine.
    pid: Option<i32>,
    time_limit: Option<Duration>,
    answered: Instant,
    /// At the last answer the worker ran a task, or had one that was about to run.
    had_task: bool,
}

/// The start of a question to a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingQuestion {
    at: Instant,
    before: Option<ProcessSample>,
}

/// The data of a worker's last answer, for the time without an answer.
#[derive(Default)]
pub(crate) struct LastAnswer {
    known: Mutex<Option<WorkerProfile>>,
    tasks: Mutex<Option<TaskWatch>>,
}

impl LastAnswer {
    fn known(&self) -> MutexGuard<'_, Option<WorkerProfile>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, Option<TaskWatch>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the tasks of a worker in which a waiting task can block the answers.
    pub async fn watch_tasks(&self, client: &Client, node: &NodeName) {
        self.tasks().take();
        if self.known().is_some_and(|known| known.pool == PoolKind::Shared) {
            let watch = TaskWatch::open(client, node.clone()).await;
            *self.tasks() = watch;
        }
    }

    /// Records the worker's data, once the worker answers questions. `spawned` is the process that orch has started for
    /// the worker. Another process is ignored, since the pid may belong to a process elsewhere.
    pub fn learn(
        &self,
        stats: &WorkerStats,
        settings: Option<&Map<String, Value>>,
        configured: &str,
        spawned: Option<i32>,
    ) {
        let pid = i32::try_from(stats.pid).ok();
        let is_own_process = |pid: &i32| {
            let tree = spawned.and_then(|spawned| process_tree(spawned).ok());
            tree.is_some_and(|tree| tree.iter().any(|process| process.pid == *pid))
        };
        *self.known() = Some(WorkerProfile {
            pool: PoolKind::of(stats, configured),
            pid: pid.filter(is_own_process),
            time_limit: settings.and_then(time_limit),
            answered: Instant::now(),
            had_task: false,
        });
    }

    /// Records the process's state at the start of a question.
    pub fn ask(&self) -> PendingQuestion {
        let pid = self.known().and_then(|known| known.pid);
        PendingQuestion {
            at: Instant::now(),
            before: pid.and_then(read_process),
        }
    }

    /// Records an answer. The worker's tasks are not always known.
    pub fn answered(&self, has_task: Option<bool>) {
        if let Some(known) = self.known().as_mut() {
            known.answered = Instant::now();
            known.had_task = has_task.unwrap_or(known.had_task);
        }
    }

    /// Describes a missing answer; returns `None` if the worker has never reported data.
    pub fn silence(&self, asked: PendingQuestion, may_be_reconnecting: bool) -> Option<WorkerSilence> {
        let known = (*self.known())?;
        let lasted = known.answered.elapsed();
        let begun = self.tasks().as_ref().and_then(TaskWatch::youngest);
        Some(WorkerSilence {
            pool: known.pool,
            duration: lasted,
            task: begun.or(known.had_task.then_some(lasted)),
            time_limit: known.time_limit,
            activity: activity(asked.before, known.pid.and_then(read_process), asked.at.elapsed()),
            may_be_reconnecting,
        })
    }
}

/// Reads `task_time_limit`, under the new or the old name.
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

    fn silence(pool: PoolKind, activity: ProcessActivity) -> WorkerSilence {
        WorkerSilence {
            pool,
            duration: Duration::from_secs(30),
            task: None,
            time_limit: None,
            activity,
            may_be_reconnecting: false,
        }
    }

    #[test]
    fn a_silent_worker_counts_as_busy_only_with_evidence() {
        use PoolKind::{Separate, Shared, Solo, Threads};
        use ProcessActivity::{Computing, Stopped, Unknown, Waiting};
        let dead = SilenceVerdict::Dead(None);
        for (pool, activity, had_task, expected) in [
            (Separate, Waiting, false, dead),
            (Separate, Computing, false, dead),
            (Separate, Waiting, true, dead),
            (Separate, Unknown, true, dead),
            (Shared, Waiting, false, dead),
            (Shared, Unknown, false, dead),
            (Shared, Computing, false, SilenceVerdict::Busy),
            (Shared, Waiting, true, SilenceVerdict::Busy),
            (Shared, Unknown, true, SilenceVerdict::Busy),
            (Threads, Waiting, true, dead),
            (Threads, Unknown, true, dead),
            (Threads, Computing, false, SilenceVerdict::Busy),
            (Solo, Waiting, false, SilenceVerdict::Busy),
            (Solo, Computing, true, SilenceVerdict::Busy),
            (Solo, Unknown, false, SilenceVerdict::Busy),
        ] {
            let mut silence = silence(pool, activity);
            silence.task = had_task.then_some(silence.duration);
            assert_eq!(judge(silence), expected, "{silence:?}");
            silence.may_be_reconnecting = true;
            assert_eq!(judge(silence), SilenceVerdict::Reconnecting, "{silence:?}");
        }
        for pool in [Separate, Threads, Shared, Solo] {
            for had_task in [false, true] {
                let mut silence = silence(pool, Stopped);
                silence.task = had_task.then_some(silence.duration);
                assert!(matches!(judge(silence), SilenceVerdict::Dead(Some(_))));
            }
        }
    }

    #[test]
    fn a_task_excuses_silence_for_as_long_as_it_may_run() {
        let seconds = Duration::from_secs;
        use ProcessActivity::{Computing, Waiting};
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
            let silence = WorkerSilence {
                duration: lasted,
                task: Some(lasted),
                time_limit: limit,
                ..silence(PoolKind::Shared, activity)
            };
            assert_eq!(judge(silence) == SilenceVerdict::Busy, busy, "{silence:?}");
            let next = WorkerSilence {
                task: Some(seconds(1)),
                ..silence
            };
            assert_eq!(judge(next), SilenceVerdict::Busy, "a later task gets its own time");
            let solo = WorkerSilence {
                pool: PoolKind::Solo,
                ..silence
            };
            assert_eq!(
                judge(solo),
                SilenceVerdict::Busy,
                "a solo pool ends no task for its time limit"
            );
        }
    }

    #[test]
    fn computing_waiting_and_stopped_processes_are_distinguished() {
        let look = |state: char, ticks: u64| {
            Some(ProcessSample {
                start_time: 5,
                state,
                ticks,
            })
        };
        let another = Some(ProcessSample {
            start_time: 6,
            state: 'R',
            ticks: 900,
        });
        for (before, now, milliseconds, expected) in [
            (look('S', 100), look('S', 101), 200, ProcessActivity::Waiting),
            (look('S', 100), look('S', 102), 200, ProcessActivity::Computing),
            (look('S', 100), look('S', 102), 2000, ProcessActivity::Waiting),
            (look('S', 100), look('S', 110), 2000, ProcessActivity::Computing),
            (look('R', 100), look('R', 100), 200, ProcessActivity::Computing),
            (look('R', 100), look('T', 150), 200, ProcessActivity::Stopped),
            (look('S', 100), look('D', 100), 2000, ProcessActivity::Waiting),
            (look('S', 100), None, 2000, ProcessActivity::Unknown),
            (None, look('S', 100), 2000, ProcessActivity::Unknown),
            (look('S', 100), another, 2000, ProcessActivity::Unknown),
            (look('S', 100), look('S', 200), 0, ProcessActivity::Computing),
        ] {
            let passed = Duration::from_millis(milliseconds);
            assert_eq!(activity(before, now, passed), expected, "{before:?} {now:?} {passed:?}");
        }
        let own = read_process(std::process::id().cast_signed()).unwrap();
        assert!(own.start_time > 0 && "RS".contains(own.state), "{own:?}");
        assert_eq!(parse("7 (a) b) R"), None);
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
