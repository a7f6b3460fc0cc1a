//! The rules in words, of which `docs/outcomes.md` is made.

use super::outcome::Rule;

impl Rule {
    /// All rules, in the order in which they are tried.
    pub(super) const ALL: [Self; 31] = [
        Self::DispatchFailed,
        Self::DispatchRevoked,
        Self::AnswerIsError,
        Self::CallbackFailed,
        Self::CallbackRevoked,
        Self::HeaderIncomplete,
        Self::HeaderUnchecked,
        Self::CallbackSucceeded,
        Self::HeaderLost,
        Self::HeaderFailed,
        Self::KeysFailed,
        Self::KeysComplete,
        Self::PoolFileChanged,
        Self::AnswerIsDone,
        Self::NothingStarted,
        Self::Unconsumed,
        Self::StillRunning,
        Self::DispatchUnknown,
        Self::DispatchLost,
        Self::CallbackUnknown,
        Self::CallbackLost,
        Self::TasksUnknown,
        Self::TasksLost,
        Self::TasksFailed,
        Self::ChordOpen,
        Self::PoolFileUnchanged,
        Self::KeysBehind,
        Self::KeysContradict,
        Self::KeysOpen,
        Self::TasksUnlisted,
        Self::AllSucceeded,
    ];

    /// What is known, the verdict, and the evidence for it, as `docs/outcomes.md` has them.
    pub(super) const fn row(self) -> [&'static str; 3] {
        match self {
            Self::DispatchFailed => ["the dispatch task raised", "FAILED", "its result, else its event"],
            Self::DispatchRevoked => [
                "the dispatch task was revoked or has expired",
                "FAILED",
                "its result, else its event",
            ],
            Self::AnswerIsError => [
                "the dispatch task returned an `error`, or the status FAILED",
                "FAILED",
                "its result, else its event",
            ],
            Self::CallbackFailed => [
                "the callback raised, or a task of its header did (Celery then stores a ChordError as the callback's result)",
                "FAILED",
                "the callback's result, else its event",
            ],
            Self::CallbackRevoked => [
                "the callback was revoked",
                "FAILED",
                "the callback's result, else its event",
            ],
            Self::HeaderIncomplete => [
                "the callback succeeded, and a task of its header had neither a result nor an end when it began",
                "FAILED (lost): another task was counted twice in its place",
                "the results and events of the header's tasks",
            ],
            Self::HeaderUnchecked => ["the callback succeeded, and its header is being read", "none yet", ""],
            Self::CallbackSucceeded => [
                "the callback that the dispatch result names succeeded",
                "COMPLETE",
                "the callback's result, else its event; the results of its header",
            ],
            Self::HeaderLost => [
                "tasks of the named callback's header are lost while others still run; only where `on_lost` is `\"retry\"` and another attempt follows",
                "FAILED (lost), with the lost tasks: the next attempt begins",
                "two looks at queues, `unacked`, workers and results, no event in between, and the chord's counters",
            ],
            Self::HeaderFailed => [
                "tasks of the named callback's header failed while others still run; only where `on_lost` is `\"retry\"` and another attempt follows",
                "FAILED, with the first failure: the next attempt begins",
                "the events of the header's tasks",
            ],
            Self::KeysFailed => [
                "the app's status key says FAILED or CANCELLED, and no callback is waited for any more",
                "FAILED",
                "the progress keys",
            ],
            Self::KeysComplete => [
                "the app's status key says COMPLETE, and no callback is waited for any more",
                "COMPLETE",
                "the progress keys",
            ],
            Self::PoolFileChanged => [
                "a refresh of proxies names no job, and the pool file was written",
                "COMPLETE",
                "the file's time",
            ],
            Self::AnswerIsDone => [
                "the dispatch task says that all is done or that there is nothing to do, and it started nothing, or its children are not known and no task of the job failed",
                "COMPLETE",
                "the dispatch result and its `children`",
            ],
            Self::NothingStarted => [
                "the dispatch task succeeded, names no job, and started nothing: it was the whole job",
                "COMPLETE",
                "the `children` of its result",
            ],
            Self::Unconsumed => [
                "all that is left of the job waits in queues that no worker consumes, for some seconds",
                "FAILED (lost), with the queue, the workers and what they consume",
                "every queue of the broker, remote control",
            ],
            Self::StillRunning => [
                "a task of the job is queued, held by a worker or running, or it is not known whether one is",
                "none yet; out of time at the site's `timeout`",
                "queues, `unacked`, remote control, events",
            ],
            Self::DispatchUnknown => [
                "the dispatch task has no readable result, and events were missed or the job is an earlier run's of which nothing is left",
                "UNKNOWN",
                "",
            ],
            Self::DispatchLost => [
                "the dispatch task has not ended, whatever became of the tasks that it had started",
                "FAILED (lost)",
                "no result, no event of its end, no message",
            ],
            Self::CallbackUnknown => [
                "the named callback has no readable result, and its end may have been missed, or its id may be that of a group (Celery gives a group that is the callback another id where a task of the header was tried again)",
                "UNKNOWN",
                "",
            ],
            Self::CallbackLost => [
                "the named callback has no result: tasks of its header are lost, or it is itself",
                "FAILED (lost), with the lost tasks",
                "results, events, chord counters",
            ],
            Self::TasksUnknown => ["tasks have no readable result, and events were missed", "UNKNOWN", ""],
            Self::TasksLost => [
                "a task of the job has neither ended nor is anywhere: lost, ignored, rejected, or stuck in RETRY after a cold stop",
                "FAILED (lost), with the lost tasks",
                "`children` of results, events, messages seen earlier",
            ],
            Self::TasksFailed => [
                "a task failed, was revoked or has expired, and no callback has taken that into account",
                "FAILED, with the first failure",
                "results and events",
            ],
            Self::ChordOpen => [
                "all known tasks succeeded, and a chord's counters are still there: its callback was not called",
                "FAILED (lost)",
                "the keys `.j` and `.s` of the chord",
            ],
            Self::PoolFileUnchanged => [
                "a refresh of proxies is over and has left the pool file unchanged",
                "FAILED (lost)",
                "the file's time",
            ],
            Self::KeysBehind => [
                "the progress keys count fewer chunks than there are, and no task is known to have succeeded",
                "FAILED (lost)",
                "the progress keys",
            ],
            Self::KeysContradict => [
                "all tasks succeeded, and the progress keys count fewer chunks than there are",
                "UNKNOWN",
                "results, events, the progress keys",
            ],
            Self::KeysOpen => [
                "no task of the job is known, and its status key names no end",
                "UNKNOWN",
                "the progress keys",
            ],
            Self::TasksUnlisted => [
                "all known tasks succeeded, others may exist: events were missed, and results are not stored, not readable, or do not name a group's callback",
                "UNKNOWN",
                "",
            ],
            Self::AllSucceeded => [
                "all tasks of the job are known and succeeded, or the app's counters say that all chunks are done",
                "COMPLETE",
                "`children` of results, results, events, chord counters, the progress keys",
            ],
        }
    }
}
