//! Signals that end running tasks.

use std::str::FromStr;

/// Signal that a worker sends to a pool process to end the running task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    Hup,
    Int,
    Quit,
    Ill,
    Trap,
    Abrt,
    Bus,
    Fpe,
    Kill,
    Usr1,
    Segv,
    Usr2,
    Pipe,
    Alrm,
    #[default]
    Term,
    Cont,
    Stop,
    Tstp,
}

/// Signals with their names in Python's `signal` module, which workers use.
const NAMES: [(Signal, &str); 18] = [
    (Signal::Hup, "SIGHUP"),
    (Signal::Int, "SIGINT"),
    (Signal::Quit, "SIGQUIT"),
    (Signal::Ill, "SIGILL"),
    (Signal::Trap, "SIGTRAP"),
    (Signal::Abrt, "SIGABRT"),
    (Signal::Bus, "SIGBUS"),
    (Signal::Fpe, "SIGFPE"),
    (Signal::Kill, "SIGKILL"),
    (Signal::Usr1, "SIGUSR1"),
    (Signal::Segv, "SIGSEGV"),
    (Signal::Usr2, "SIGUSR2"),
    (Signal::Pipe, "SIGPIPE"),
    (Signal::Alrm, "SIGALRM"),
    (Signal::Term, "SIGTERM"),
    (Signal::Cont, "SIGCONT"),
    (Signal::Stop, "SIGSTOP"),
    (Signal::Tstp, "SIGTSTP"),
];

impl Signal {
    /// Returns the name that workers use, such as `SIGTERM`.
    pub fn name(self) -> &'static str {
        let entry = NAMES.iter().find(|(signal, _)| *signal == self);
        entry.map_or("SIGTERM", |(_, name)| name)
    }
}

impl FromStr for Signal {
    type Err = String;

    /// Parses a name with or without `SIG`, in upper or lower case.
    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.to_ascii_uppercase();
        let wanted = wanted.strip_prefix("SIG").unwrap_or(&wanted);
        let found = NAMES.iter().find(|(_, name)| name.strip_prefix("SIG") == Some(wanted));
        found.map(|(signal, _)| *signal).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(_, name)| &name[3..]).collect();
            format!("no such signal; one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_its_name_and_is_found_by_it() {
        for (signal, name) in NAMES {
            assert_eq!(signal.name(), name);
            assert_eq!(name.parse(), Ok(signal));
            assert_eq!(name[3..].to_lowercase().parse(), Ok(signal));
        }
        assert_eq!("9".parse::<Signal>().ok(), None);
    }
}
