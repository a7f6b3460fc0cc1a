//! Failures of a service that often end the run: the failed action, the cause, the log and a hint.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::run_outcome::RunOutcome;
use orch_base::files::log_stream::last_lines;

/// Origin of a failure, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The user must change the configuration, or the app (exit code 2).
    Configuration,
    /// The machine, Redis, Celery or a service failed (exit code 3).
    Infrastructure,
}

impl FailureKind {
    /// Returns the outcome of a run that ends because of such a failure.
    pub fn outcome(self) -> RunOutcome {
        match self {
            FailureKind::Configuration => RunOutcome::ConfigurationError,
            FailureKind::Infrastructure => RunOutcome::InfrastructureFailed,
        }
    }
}

/// Hint for a service whose empty log proves nothing, because Python buffers the output.
pub const BUFFERED_OUTPUT_HINT: &str = "its log is empty since Python buffers its output to a file: set \
                                        `env = { PYTHONUNBUFFERED = \"1\" }` for this service";

/// One failure, ready to be shown to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFailure {
    /// Origin, which decides the exit code.
    pub kind: FailureKind,
    /// The action, the input and the result: a fragment, lower case, no full stop.
    pub summary: String,
    /// Boxed, so that a `Result` with a failure stays small.
    more: Box<FailureDetails>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FailureDetails {
    /// Cause of the failure.
    cause: Option<String>,
    /// Log of the service, with the last lines at the time of the failure.
    log: Option<(PathBuf, Vec<String>)>,
    /// Hint for the user.
    hint: Option<String>,
    /// The failure is permanent, so the start is not tried again.
    is_permanent: bool,
}

/// Number of lines of the log that a failure contains.
const LOG_LINES: usize = 12;

/// Returns a hint for an error of the kernel about an exhausted resource. The error is recognised by the number at the
/// end of the text, because only that text survives the wrapping of errors.
fn remedy(cause: &str) -> Option<&'static str> {
    let (_, number) = cause.rsplit_once("(os error ")?;
    match number.split_once(')')?.0.parse().ok()? {
        libc::EMFILE => Some("raise the limit of open files of a process (`ulimit -n`)"),
        libc::ENFILE => Some("the whole machine has no file descriptors left (`sysctl fs.file-max`)"),
        libc::EAGAIN => Some("raise the limit of processes (`ulimit -u`, or `pids.max` of the control group)"),
        libc::ENOMEM => Some("the machine, or the control group, has no memory left"),
        libc::ENOSPC | libc::EDQUOT => Some("free space on the disk"),
        _ => None,
    }
}

impl ServiceFailure {
    /// Creates a failure of the machine, Redis, Celery or a service.
    pub fn infrastructure(what: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Infrastructure,
            summary: what.into(),
            more: Box::default(),
        }
    }

    /// Creates a failure of the configuration or of the app.
    pub fn configuration(what: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Configuration,
            ..Self::infrastructure(what)
        }
    }

    /// Returns the path of the log.
    pub fn log(&self) -> Option<&Path> {
        self.more.log.as_ref().map(|(path, _)| path.as_path())
    }

    /// Adds the cause, and a hint if the kernel has run out of a resource.
    #[must_use]
    pub fn with_cause(mut self, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        if self.more.hint.is_none() {
            self.more.hint = remedy(&cause).map(str::to_owned);
        }
        self.more.cause = Some(cause);
        self
    }

    /// Adds the error and all sources as the cause.
    #[must_use]
    pub fn with_source(self, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        self.with_cause(text)
    }

    /// States how many retries failed.
    #[must_use]
    pub fn after_retries(mut self, retries: u32) -> Self {
        let times = if retries == 1 { "once" } else { "times" };
        let count = if retries == 1 {
            String::new()
        } else {
            format!("{retries} ")
        };
        self.summary = format!("{} (tried again {count}{times})", self.summary);
        self
    }

    /// Formats the failure and the cause on one line, for an event.
    pub fn on_one_line(&self) -> String {
        match &self.more.cause {
            Some(cause) => format!("{}: {cause}", self.summary),
            None => self.summary.clone(),
        }
    }

    /// Marks the failure as permanent: the failed action is not tried again.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.more.is_permanent = true;
        self
    }

    /// Decides whether [`ServiceFailure::permanent`] was called.
    pub fn is_permanent(&self) -> bool {
        self.more.is_permanent
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.more.hint = Some(hint.into());
        self
    }

    /// Adds the log and the last lines.
    #[must_use]
    pub fn with_log(mut self, log: &Path) -> Self {
        self.more.log = Some((log.to_owned(), last_lines(log, LOG_LINES)));
        self
    }
}

impl fmt::Display for ServiceFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.summary)?;
        if let Some(cause) = &self.more.cause {
            write!(formatter, "\n  cause: {cause}")?;
        }
        if let Some((log, lines)) = &self.more.log {
            if lines.is_empty() {
                write!(formatter, "\n  log:   {} (empty)", log.display())?;
            } else {
                write!(formatter, "\n  log:   {} (last lines:)", log.display())?;
                for line in lines {
                    write!(formatter, "\n       | {line}")?;
                }
            }
        }
        if let Some(hint) = &self.more.hint {
            write!(formatter, "\n  hint:  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServiceFailure {}
