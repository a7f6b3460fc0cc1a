//! The messages that orch and its guard exchange: one JSON object per line over one socket pair.
//!
//! Orders are imperative; reports are in the past tense. The guard knows pids, signals and grace periods, but not the
//! purpose of a service.

pub use orch_linux::exit::ProcessExit;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The hidden subcommand that starts the guard.
pub(crate) const GUARD_ARGUMENT: &str = "guard";
/// Limit in bytes; a text of [`GuardOrder::ArmTerminalReset`] restores modes of a terminal, and is no output.
pub(crate) const LONGEST_TERMINAL_RESET: usize = 64;
/// Variable with the run id in the environment of every descendant.
pub const RUN_ID_VARIABLE: &str = "ORCH_RUN_ID";
/// Variable with the service's name in the environment of every descendant.
pub const SERVICE_VARIABLE: &str = "ORCH_SERVICE";

/// The first line to the guard; descriptors are sent with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HelloMessage {
    pub run_id: String,
    pub state_dir: PathBuf,
    /// The control group in which the guard was started, if any.
    pub group: Option<PathBuf>,
    /// The first descriptor is the guard's log; the others are locks. Otherwise standard error is the log.
    #[serde(default)]
    pub has_log: bool,
}

/// One step of a stop: sends `signal` to the main process, then waits up to `grace` for the whole process tree to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopStep {
    /// Signal number. SIGCONT follows the signal, since a stopped process would not react otherwise.
    pub signal: i32,
    pub grace: Duration,
}

/// The stop of a process: the steps in order, then SIGKILL to the whole process tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPlan {
    /// Services of a higher rank are stopped, and gone, before services of a lower rank get their first signal;
    /// services of equal rank are stopped together.
    pub rank: u32,
    pub steps: Vec<StopStep>,
}

impl StopPlan {
    /// Returns a plan of these signals, each with the time that the process tree gets to end.
    pub fn new<const N: usize>(rank: u32, steps: [(i32, Duration); N]) -> Self {
        let steps = steps.map(|(signal, grace)| StopStep { signal, grace }).into();
        Self { rank, steps }
    }

    /// Returns the longest time that this plan waits before SIGKILL.
    pub fn bound(&self) -> Duration {
        self.steps.iter().map(|step| step.grace).sum()
    }
}

/// The order to start a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnOrder {
    /// Name of the service, unique among the living ones; also the value of `ORCH_SERVICE` in the child.
    pub service: String,
    /// Program (absolute path, or looked up in the child's `PATH`) and arguments. Never a shell command line.
    pub argv: Vec<String>,
    /// The complete environment of the child. The guard adds `ORCH_RUN_ID` and `ORCH_SERVICE`, nothing else.
    pub environment: Vec<(String, String)>,
    pub directory: PathBuf,
    /// Standard output and error are appended to this file, which is created with mode 0600. Standard input is
    /// /dev/null.
    pub log: PathBuf,
    pub stop: StopPlan,
}

/// A message from orch to the guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum GuardOrder {
    /// Start a process; the answer is `Spawned` or `SpawnFailed`.
    Spawn(Box<SpawnOrder>),
    /// Send a signal to the main process of a service.
    Signal { service: String, signal: i32 },
    /// Run the stop plan of one service; the answer is `Gone`.
    Stop { service: String },
    /// Run every stop plan, by rank; the answer is `AllGone`. Idempotent.
    StopAll,
    /// Skip all grace periods of current and later stops.
    Hurry,
    /// Write `text` to a terminal when orch is gone without a goodbye: orch has changed modes of the terminal and
    /// cannot restore them after a SIGKILL. A descriptor of the terminal is sent with the order.
    ArmTerminalReset { text: String },
    /// Close the terminal of `ArmTerminalReset`: orch has restored it.
    DisarmTerminalReset,
    /// End when no process is left; the close of the socket is then expected.
    Goodbye,
}

/// A message from the guard to orch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum GuardReport {
    /// First report: the guard is set up (subreaper, session, signals) and accepts orders.
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
    /// The main process of a service ended; the guard ends the rest of the process tree.
    Exited {
        service: String,
        pid: i32,
        ended: ProcessExit,
    },
    /// No process of the service is alive (follows every `Exited`): the service may be started again.
    Gone {
        service: String,
    },
    /// Answer to `StopAll`: the guard has no descendant left.
    AllGone,
    /// Another process has sent the guard a signal. If the signal asks for an end, orch is expected to order a stop;
    /// other signals have no effect.
    Signalled {
        signal: i32,
        /// Pid of the sender; 0 is the kernel.
        sender: u32,
        asks_to_end: bool,
    },
    /// An order could not be carried out. In place of `Started`: the guard cannot start working.
    Refused {
        order: String,
        error: String,
    },
}
