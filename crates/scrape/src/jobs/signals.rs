//! Signs of life of a job: everything that a job follower sees of the job except the counts.
//!
//! Not here: the judgement of a site's health ([`crate::sites`]), and how a job ends ([`super::state_machine`]).

use std::time::Duration;

use orch_celery::ChordProgress;

/// End of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEnd {
    pub succeeded: bool,
    /// Time in the pool slot; a worker reports the runtime only for a task that succeeded.
    pub runtime: Option<Duration>,
}

/// State of the workers with regard to a job of which no event has come for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerActivity {
    /// Number of tasks of the job that workers run.
    Running(u64),
    /// No task of the job runs: workers run other tasks, or tasks of the job are scheduled for later.
    Waiting,
    /// Workers answer, and none of them runs a task.
    Idle,
    /// No worker consumes the queues of the run.
    Deserted,
    /// At least one worker does not answer.
    Unknown,
}

/// Sign of life of a job, or of the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobSignal {
    ChunkEnded(ChunkEnd),
    /// The counters of the job's chord were read.
    ChordRead(ChordProgress),
    /// An event of a task of the job arrived.
    EventReceived,
    /// Workers were asked for their tasks, because no event has come for the time that the follow request sets.
    WorkersPolled(WorkerActivity),
    /// The follower woke up by the timer, without an event.
    TimePassed,
    /// A worker died, or orch itself was suspended: the silence of the time before proves nothing.
    Interrupted,
}
