//! How a process ended, in words.

use super::event::ExitStatus;
use crate::signal_name::signal_name;

/// `ended with exit code 1`, `was killed by SIGKILL`.
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
