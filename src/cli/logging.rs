//! orch's own log: into the run's `orch.log`, and to standard error as far as `-v` and `ORCH_LOG` ask for.
//!
//! Logs are for whoever mends orch; what a user must know is an event.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::stderr;
use crate::printable::one_line;
use crate::redaction::redacted;
use crate::regular_file;

static LOG: OnceLock<File> = OnceLock::new();

/// Whether the log also goes to standard error.
pub fn is_spoken(verbose: u8) -> bool {
    verbose > 1 || std::env::var_os("ORCH_LOG").is_some()
}

/// Starts logging; lines before [`to_file`] go to standard error only.
pub fn start(verbose: u8) {
    let to_stderr = is_spoken(verbose);
    let asked = std::env::var("ORCH_LOG").ok().and_then(|asked| asked.parse().ok());
    let default = match verbose {
        0 | 1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // Levels by module only: what also filters by fields compiles regular expressions at each start.
    let levels: Targets = asked.unwrap_or_else(|| Targets::new().with_target("orch", default));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(Writers { to_stderr })
        .finish()
        .with(levels);
    // Fails only when a library user has set one, which then is the right one.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// From now on the log is also kept in this file.
///
/// # Errors
/// It cannot be made.
pub fn to_file(path: &Path) -> io::Result<()> {
    let file = regular_file::open_own(OpenOptions::new().append(true), path)?;
    drop(LOG.set(file));
    Ok(())
}

/// An event is a line without secrets, whatever is in it: one that holds another's text can not forge a second.
fn line(event: &[u8]) -> String {
    let mut line = one_line(&redacted(String::from_utf8_lossy(event).trim_end()));
    line.push('\n');
    line
}

struct Writers {
    to_stderr: bool,
}

struct Tee {
    to_stderr: bool,
}

impl<'a> MakeWriter<'a> for Writers {
    type Writer = Tee;

    fn make_writer(&'a self) -> Tee {
        Tee {
            to_stderr: self.to_stderr,
        }
    }
}

impl Write for Tee {
    /// Takes one event, with its line break.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = line(event);
        // A log that cannot be written must not stop what it tells of.
        if let Some(mut file) = LOG.get() {
            drop(file.write_all(line.as_bytes()));
        }
        if self.to_stderr {
            stderr::offer(line);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_harmless_line() {
        assert_eq!(line(b"WARN orch: redis://:pw@h\n"), "WARN orch: redis://:**@h\n");
        assert_eq!(line(b"WARN orch: died\n"), "WARN orch: died\n");
        let forged = "WARN orch: \x1b[2J\u{202e}\nERROR orch: forged\n";
        assert_eq!(
            line(forged.as_bytes()),
            "WARN orch: \u{fffd}[2J\u{fffd} ERROR orch: forged\n"
        );
        assert_eq!(line(b"\xff\n"), "\u{fffd}\n");
    }
}
