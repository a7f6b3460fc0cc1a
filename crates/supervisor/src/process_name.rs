//! Names under which the guard runs processes: the guard reports each event with the name of the order.

use std::fmt;

/// Name of a process of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessName<'a> {
    Service(&'a str),
    /// A command for a service, such as a probe. `purpose` is unique among the living commands of the service.
    Command {
        service: &'a str,
        purpose: &'a str,
    },
}

impl<'a> ProcessName<'a> {
    /// Reads the name of a report. The configuration accepts no service name with a colon.
    pub fn read(name: &'a str) -> Self {
        match name.split_once(':') {
            Some((service, purpose)) => Self::Command { service, purpose },
            None => Self::Service(name),
        }
    }
}

impl fmt::Display for ProcessName<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => formatter.write_str(name),
            Self::Command { service, purpose } => write!(formatter, "{service}:{purpose}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for (name, text) in [
            (ProcessName::Service("redis"), "redis"),
            (
                ProcessName::Command {
                    service: "web",
                    purpose: "probe:7",
                },
                "web:probe:7",
            ),
        ] {
            assert_eq!(name.to_string(), text);
            assert_eq!(ProcessName::read(text), name);
        }
    }
}
