//! Texts of the rules, from which the table in `docs/outcomes.md` is made.

use super::outcome::OutcomeRule;

impl OutcomeRule {
    /// All rules, in the order in which they are tried.
    pub(crate) const ALL: [Self; 31] = [
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

    /// Returns the cells of the rule's row in `docs/outcomes.md`: the known facts, the verdict, and the evidence for
    /// it.
    pub(crate) const fn row(self) -> [&'static str; 3] {
        match self {
            Self::DispatchFailed => ["the dispatch task raised", "FAILED", "its result, or else its event"],
            Self::DispatchRevoked => [
                "the dispatch task was revoked or expired",
                "FAILED",
                "its result, or else its event",
            ],
            Self::AnswerIsError => [
                "the dispatch task returned an `error`, or the status FAILED",
                "FAILED",
                "its result, or else its event",
            ],
            Self::CallbackFailed => [
                "the callback raised, or a task of its header did (Celery then stores a ChordError as the callback's result)",
                "FAILED",
                "the callback's result, or else its event",
            ],
            Self::CallbackRevoked => [
                "the callback was revoked",
                "FAILED",
                "the callback's result, or else its event",
            ],
            Self::HeaderIncomplete => [
                "the callback succeeded, and a task of its header had neither a result nor an end when the callback began",
                "FAILED (lost): another task was counted twice in its place",
                "the results and events of the header's tasks",
            ],
            Self::HeaderUnchecked => [
                "the callback succeeded, and its header is still being read",
                "none yet",
                "",
            ],
            Self::CallbackSucceeded => [
                "the callback that the dispatch result names succeeded",
                "COMPLETE",
                "the callback's result, or else its event; the results of its header",
            ],
            Self::HeaderLost => [
                "tasks of the named callback's header are lost while others still run; only if `on_lost` is `\"retry\"` and another attempt follows",
                "FAILED (lost), with the lost tasks: the next attempt begins",
                "two looks at queues, `unacked`, workers and results, without an event in between, and the chord's counters",
            ],
            Self::HeaderFailed => [
                "tasks of the named callback's header failed while others still run; only if `on_lost` is `\"retry\"` and another attempt follows",
                "FAILED, with the first failure: the next attempt begins",
                "the events of the header's tasks",
            ],
            Self::KeysFailed => [
                "the app's status key says FAILED or CANCELLED, and no callback is awaited any more",
                "FAILED",
                "the progress keys",
            ],
            Self::KeysComplete => [
                "the app's status key says COMPLETE, and no callback is awaited any more",
                "COMPLETE",
                "the progress keys",
            ],
            Self::PoolFileChanged => [
                "a proxy refresh names no job, and the pool file was written",
                "COMPLETE",
                "the file's modification time",
            ],
            Self::AnswerIsDone => [
                "the dispatch task reports that all is done or that there is nothing to do; it started nothing, or its children are not known and no task of the job failed",
                "COMPLETE",
                "the dispatch result and its `children`",
            ],
            Self::NothingStarted => [
                "the dispatch task succeeded, names no job, and started nothing: this task was the whole job",
                "COMPLETE",
                "the `children` of its result",
            ],
            Self::Unconsumed => [
                "all remaining messages of the job have waited for some seconds in queues that no worker consumes",
                "FAILED (lost), with the queue, the workers and the queues that they consume",
                "every queue of the broker, remote control",
            ],
            Self::StillRunning => [
                "a task of the job is queued, held by a worker or running, or this is not known",
                "none yet; the site's `timeout` ends the job",
                "queues, `unacked`, remote control, events",
            ],
            Self::DispatchUnknown => [
                "the dispatch task has no readable result, and events were missed, or nothing is left of a job of an earlier run",
                "UNKNOWN",
                "",
            ],
            Self::DispatchLost => [
                "the dispatch task has not ended and is found nowhere, regardless of the tasks that it started",
                "FAILED (lost)",
                "no result, no event of its end, no message",
            ],
            Self::CallbackUnknown => [
                "the named callback has no readable result, and its end may have been missed, or its id may be that of a group (if the callback is a group, Celery gives that group another id when a task of the header was tried again)",
                "UNKNOWN",
                "",
            ],
            Self::CallbackLost => [
                "the named callback has no result: tasks of its header are lost, or the callback itself is",
                "FAILED (lost), with the lost tasks",
                "results, events, chord counters",
            ],
            Self::TasksUnknown => ["tasks have no readable result, and events were missed", "UNKNOWN", ""],
            Self::TasksLost => [
                "a task of the job has not ended and is found nowhere: lost, ignored, rejected, or stuck in RETRY after a cold shutdown",
                "FAILED (lost), with the lost tasks",
                "`children` of results, events, messages seen earlier",
            ],
            Self::TasksFailed => [
                "a task failed, was revoked or expired, and no callback has handled that",
                "FAILED, with the first failure",
                "results and events",
            ],
            Self::ChordOpen => [
                "all known tasks succeeded, and a chord's counters still exist: its callback was not called",
                "FAILED (lost)",
                "the keys `.j` and `.s` of the chord",
            ],
            Self::PoolFileUnchanged => [
                "a proxy refresh is over and has left the pool file unchanged",
                "FAILED (lost)",
                "the file's modification time",
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
                "all known tasks succeeded, but others may exist: events were missed, and results are not stored, not readable, or do not name a group's callback",
                "UNKNOWN",
                "",
            ],
            Self::AllSucceeded => [
                "all tasks of the job are known and succeeded, or the app's counters show that all chunks are done",
                "COMPLETE",
                "`children` of results, results, events, chord counters, the progress keys",
            ],
        }
    }
}
