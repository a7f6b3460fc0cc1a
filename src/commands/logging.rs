//! orch's own log: goes to the run's `orch.log`, and to standard error if `-vv` or `ORCH_LOG` is given.
//!
//! The log is for developers of orch. Facts that a user must know are events of the run.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use super::stderr;
use orch_base::files::regular;
use orch_base::text::printable::one_line;
use orch_base::text::redaction::redacted;

static LOG: OnceLock<File> = OnceLock::new();

/// Returns whether the log also goes to standard error.
pub fn is_on_stderr(verbose: u8) -> bool {
    verbose > 1 || std::env::var_os("ORCH_LOG").is_some()
}

/// Starts logging; lines before [`open_log_file`] go to standard error only.
pub fn start(verbose: u8) {
    let to_stderr = is_on_stderr(verbose);
    let asked = std::env::var("ORCH_LOG").ok().and_then(|asked| asked.parse().ok());
    let default = match verbose {
        0 | 1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // Filters levels by module only: a filter by fields would compile regular expressions at each start.
    let levels: Targets = asked.unwrap_or_else(|| Targets::new().with_target("orch", default));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || LogWriter { to_stderr })
        .finish()
        .with(levels);
    // Fails only if a user of the library has already set a subscriber, which then stays.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// Opens the log file; later log lines also go into this file.
///
/// # Errors
/// The file cannot be created.
pub fn open_log_file(path: &Path) -> io::Result<()> {
    let file = regular::open_own(OpenOptions::new().append(true), path)?;
    drop(LOG.set(file));
    Ok(())
}

/// Turns a log event into exactly one line without secrets: foreign text in the event cannot forge a second line.
fn line(event: &[u8]) -> String {
    let mut line = one_line(&redacted(String::from_utf8_lossy(event).trim_end()));
    line.push('\n');
    line
}

struct LogWriter {
    to_stderr: bool,
}

impl Write for LogWriter {
    /// Writes one event, which ends with a line break.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = line(event);
        // A failed write to the log must not stop the run.
        if let Some(mut file) = LOG.get() {
            drop(file.write_all(line.as_bytes()));
        }
        if self.to_stderr {
            stderr::queue_line(line);
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
