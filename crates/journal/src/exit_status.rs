//! Exit statuses of processes, as data and in words.

use serde::{Deserialize, Serialize};

use orch_base::text::signal_name::signal_name;

/// Exit status of a process, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// The process returned this code.
    Code(i32),
    /// This signal ended the process.
    Signal {
        /// Number of the signal.
        signal: i32,
        /// A core file was written.
        core_dumped: bool,
    },
    /// Not known: the guard, which reports exits, is gone.
    Unknown,
}

/// Describes an exit status: `ended with exit code 1`, `was killed by SIGKILL`.
pub fn describe_exit(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("ended with exit code {code}"),
        ExitStatus::Signal { signal, core_dumped } => {
            let name = signal_name(signal);
            let core = if core_dumped { " (core dumped)" } else { "" };
            format!("was killed by {name}{core}")
        }
        ExitStatus::Unknown => "ended".to_owned(),
    }
}
