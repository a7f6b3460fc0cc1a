//! The words that orch and its guard exchange: one JSON object a line over one socket pair.
//!
//! Orders are imperative and numbered by the sender; reports are in the past tense. The guard knows pids, signals and
//! grace periods; it does not know what a service is for.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One rung of a stop: send `signal` to the main process, then wait up to `grace` for the whole tree to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopStep {
    /// Signal number. SIGCONT follows it, or a stopped process would never hear it.
    pub signal: i32,
    pub grace: Duration,
}

/// How a process is stopped: the steps in order, then SIGKILL to all of its tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPlan {
    /// Services of a greater rank are stopped, and gone, before those of a lower rank are asked; equal ranks together.
    pub rank: u32,
    pub steps: Vec<StopStep>,
}

impl StopPlan {
    /// The longest this plan waits before SIGKILL.
    pub fn bound(&self) -> Duration {
        self.steps.iter().map(|step| step.grace).sum()
    }
}

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnOrder {
    /// Name of the service, unique among the living; also `ORCH_SERVICE` in the child.
    pub service: String,
    /// Program (absolute path, or looked up in the child's `PATH`) and arguments. Never a shell's line.
    pub argv: Vec<String>,
    /// The child's whole environment. The guard adds `ORCH_RUN_ID` and `ORCH_SERVICE`, nothing else.
    pub environment: Vec<(String, String)>,
    pub directory: PathBuf,
    /// Standard output and error are appended here; made with mode 0600. Standard input is /dev/null.
    pub log: PathBuf,
    pub stop: StopPlan,
}

/// What orch asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Start a process; answered by `Spawned` or `SpawnFailed`.
    Spawn(Box<SpawnOrder>),
    /// Send a signal to the main process of a service.
    Signal { service: String, signal: i32 },
    /// Run one service's stop plan; answered by `Gone`.
    Stop { service: String },
    /// Run every stop plan, by rank; answered by `AllGone`. Idempotent.
    StopAll,
    /// Skip all grace periods of stops under way, and of those that follow.
    Hurry,
    /// Leave when nothing is left; the socket's close is then no alarm.
    Goodbye,
}

/// How a process ended, as waitid tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Code(i32),
    Signal { signal: i32, core_dumped: bool },
}

/// What the guard tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// First report: the guard is set up (subreaper, session, signals) and takes orders.
    Started {
        pid: i32,
    },
    Spawned {
        service: String,
        pid: i32,
    },
    SpawnFailed {
        service: String,
        error: String,
    },
    /// The main process of a service ended; what it left is being ended.
    Exited {
        service: String,
        pid: i32,
        ended: Ended,
    },
    /// Nothing of the service is left alive (follows every `Exited`): it may be started again.
    Gone {
        service: String,
    },
    /// Answer to `StopAll`: the guard has no descendant left.
    AllGone,
    /// Somebody other than orch has sent the guard a signal. Those that ask for an end leave it to orch, which is to order a
    /// stop; the others do nothing.
    Signalled {
        signal: i32,
        /// Pid of the sender; 0 is the kernel.
        sender: u32,
        asks_to_end: bool,
    },
    /// An order could not be carried out; instead of `Started`: the guard cannot do its work.
    Refused {
        order: String,
        error: String,
    },
}
