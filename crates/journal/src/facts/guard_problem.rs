//! Problems of the guard, as events state them.

use serde::{Deserialize, Serialize};

use crate::event_values::NoticeLevel;

/// Problem of the guard that does not end the run. The loss of the guard before the stop ends the run and is its error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardProblem {
    /// The guard was killed during the stop.
    LostInStop {
        /// Reason why processes may be left; `None`: all were killed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unsure: Option<String>,
    },
    /// The guard could not carry out an order.
    OrderRefused { order: String, reason: String },
    /// The guard ignored a signal of another process.
    SignalIgnored {
        signal: i32,
        /// Pid of the sender; 0 is the kernel.
        sender: u32,
    },
}

impl GuardProblem {
    /// Returns the level of the notice.
    pub fn level(&self) -> NoticeLevel {
        match self {
            Self::LostInStop { .. } => NoticeLevel::Error,
            Self::OrderRefused { .. } | Self::SignalIgnored { .. } => NoticeLevel::Warning,
        }
    }
}
