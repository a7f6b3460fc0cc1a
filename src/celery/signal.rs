//! The signal that ends a running task.

use std::str::FromStr;

/// What a pool process is sent to end the task it runs.
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

/// All of them, as workers know them: the names of Python's `signal`.
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
    /// As workers know it, such as `SIGTERM`.
    pub fn name(self) -> &'static str {
        let entry = NAMES.iter().find(|(signal, _)| *signal == self);
        entry.map_or("SIGTERM", |(_, name)| name)
    }
}

impl FromStr for Signal {
    type Err = String;

    /// With or without `SIG`, in any case.
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
