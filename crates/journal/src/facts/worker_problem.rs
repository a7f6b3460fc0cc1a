//! Problems of workers, as events state them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event_values::NoticeLevel;
use crate::local_time::local_time;
use orch_base::text::duration_text::shown;

/// Problem of the workers of a run that does not end the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerProblem {
    /// Several worker processes have one node name.
    NameShared(SharedNodeName),
    /// The process of a shared worker has ended.
    Ended { node: String, pid: u32 },
    /// A shared worker does not answer any more; its process may be alive.
    Silent { node: String, pid: u32 },
    /// No worker consumes the queues of the run.
    Absent(ConsumerAbsence),
    /// A worker of another app consumes a queue of the run and discards the tasks that it takes.
    OfAnotherApp {
        node: String,
        /// Address of Redis.
        address: String,
        queue: String,
    },
    /// A crash can lose the work of tasks, because they are not acknowledged late.
    AcknowledgedEarly {
        /// Number of such tasks.
        count: u64,
        /// Names of the first ones.
        tasks: Vec<String>,
    },
    /// It is unknown which tasks are acknowledged late.
    AcknowledgementUnknown {
        /// Error of the question; `None`: the worker does not report it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl WorkerProblem {
    /// Returns the level of the notice.
    pub fn level(&self) -> NoticeLevel {
        match self {
            Self::NameShared(_) | Self::Absent(_) => NoticeLevel::Error,
            Self::Ended { .. }
            | Self::Silent { .. }
            | Self::OfAnotherApp { .. }
            | Self::AcknowledgedEarly { .. }
            | Self::AcknowledgementUnknown { .. } => NoticeLevel::Warning,
        }
    }
}

/// Node name that several worker processes have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedNodeName {
    pub node: String,
    pub processes: Vec<NodeProcess>,
}

/// One of the processes with a shared node name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProcess {
    /// Pid in the pid namespace of the machine or container.
    pub pid: u32,
    /// A Celery process with this pid runs on the host of orch.
    pub on_this_host: bool,
}

impl SharedNodeName {
    /// Advice for the person that starts the workers.
    pub const ADVICE: &'static str =
        "stop all but one of them, or give each its own name: `celery worker -n worker2@%h`";
}

impl fmt::Display for SharedNodeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, processes } = self;
        write!(formatter, "{} workers have the same name {node}: ", processes.len())?;
        for (at, NodeProcess { pid, on_this_host }) in processes.iter().enumerate() {
            let separator = match at {
                0 => "",
                _ if at + 1 == processes.len() => " and ",
                _ => ", ",
            };
            let place = match on_this_host {
                true => "on this host",
                false => "not seen on this host",
            };
            write!(formatter, "{separator}pid {pid} ({place})")?;
        }
        Ok(())
    }
}

/// Time in which no worker consumes the queues of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerAbsence {
    pub queues: Vec<String>,
    /// Begin of the time, Unix seconds.
    pub since: u64,
    /// The worker that consumed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastConsumer>,
    /// Time without a worker after which sites fail, milliseconds.
    pub timeout_ms: u64,
    /// That time is over.
    pub is_final: bool,
}

/// Worker that consumed the queues of the run before an absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastConsumer {
    pub node: String,
    pub pid: u32,
}

impl ConsumerAbsence {
    /// Settings that together make the timeout.
    pub const SETTINGS: &'static str = "`[celery] start_timeout` and `restart.backoff_max` together";

    /// Returns the timeout for people.
    pub fn timeout(&self) -> String {
        shown(Duration::from_millis(self.timeout_ms))
    }
}

impl fmt::Display for ConsumerAbsence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "no worker has consumed the queue `{}`",
            self.queues.join("`, `")
        )?;
        if self.is_final {
            write!(formatter, " for {} ({}),", self.timeout(), Self::SETTINGS)?;
        }
        write!(formatter, " since {}", local_time(self.since))?;
        match &self.last {
            Some(LastConsumer { node, pid }) => {
                write!(formatter, ": the last, {node} (pid {pid}), ended or stopped answering")
            }
            None => Ok(()),
        }
    }
}
