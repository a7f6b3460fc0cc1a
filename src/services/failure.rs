//! Why a service, and with it often the run, cannot go on: what failed, the cause, where the log is, what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::log_tail::last_lines;
use crate::run::Outcome;

/// Whose fault it is; the exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The user must change the configuration, or the app (exit code 2).
    Configuration,
    /// The machine, Redis, Celery or a service failed (exit code 3).
    Infrastructure,
}

impl FailureKind {
    /// The outcome of a run that ends for this.
    pub fn outcome(self) -> Outcome {
        match self {
            FailureKind::Configuration => Outcome::ConfigurationError,
            FailureKind::Infrastructure => Outcome::InfrastructureFailed,
        }
    }
}

/// One failure, ready to be shown to the person at 3 a.m.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: FailureKind,
    /// What was being done to which input, and what happened: a fragment, lower case, no full stop.
    pub what: String,
    /// Apart, so that a `Result` with a failure stays small.
    more: Box<More>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    /// The cause below it.
    cause: Option<String>,
    /// The log that explains it, with its last lines as they were at the failure.
    log: Option<(PathBuf, Vec<String>)>,
    /// What to do.
    hint: Option<String>,
    /// It does not pass by itself: the start is not tried again.
    is_lasting: bool,
}

/// Lines of a log that a failure carries along.
const LOG_LINES: usize = 12;

/// What helps when the kernel refuses for want of something; by the number that ends the text of every such error, since
/// what is wrapped on its way up keeps that and nothing else.
fn cure(cause: &str) -> Option<&'static str> {
    let (_, number) = cause.rsplit_once("(os error ")?;
    match number.split_once(')')?.0.parse().ok()? {
        libc::EMFILE => Some("raise the limit of open files of a process (`ulimit -n`)"),
        libc::ENFILE => Some("the whole machine has no file descriptors left (`sysctl fs.file-max`)"),
        libc::EAGAIN => Some("raise the limit of processes (`ulimit -u`, or `pids.max` of the control group)"),
        libc::ENOMEM => Some("the machine, or the control group, has no memory left"),
        libc::ENOSPC | libc::EDQUOT => Some("make room on the disk"),
        _ => None,
    }
}

impl Failure {
    /// A fault of the machine, Redis, Celery or a service.
    pub fn infrastructure(what: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Infrastructure,
            what: what.into(),
            more: Box::default(),
        }
    }

    /// A fault of the configuration or of the app.
    pub fn configuration(what: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Configuration,
            ..Self::infrastructure(what)
        }
    }

    /// The log that explains it.
    pub fn log(&self) -> Option<&Path> {
        self.more.log.as_ref().map(|(path, _)| path.as_path())
    }

    /// Adds the cause, and what to do where the kernel has run out of something.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        if self.more.hint.is_none() {
            self.more.hint = cure(&cause).map(str::to_owned);
        }
        self.more.cause = Some(cause);
        self
    }

    /// Adds the cause and what is below that.
    #[must_use]
    pub fn caused_by(self, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        self.because(text)
    }

    /// States how often the same was tried again in vain.
    #[must_use]
    pub fn after_retries(mut self, retries: u32) -> Self {
        let times = if retries == 1 { "once" } else { "times" };
        let count = if retries == 1 {
            String::new()
        } else {
            format!("{retries} ")
        };
        self.what = format!("{} (tried again {count}{times})", self.what);
        self
    }

    /// What failed and the cause, for an event.
    pub fn on_one_line(&self) -> String {
        match &self.more.cause {
            Some(cause) => format!("{}: {cause}", self.what),
            None => self.what.clone(),
        }
    }

    /// Does not pass by itself: what fails is not tried again.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.more.is_lasting = true;
        self
    }

    /// See [`Failure::lasting`].
    pub fn is_lasting(&self) -> bool {
        self.more.is_lasting
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.more.hint = Some(hint.into());
        self
    }

    /// Adds the log and its last lines.
    #[must_use]
    pub fn with_log(mut self, log: &Path) -> Self {
        self.more.log = Some((log.to_owned(), last_lines(log, LOG_LINES)));
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        if let Some(cause) = &self.more.cause {
            write!(formatter, "\n  cause: {cause}")?;
        }
        if let Some((log, lines)) = &self.more.log {
            if lines.is_empty() {
                write!(formatter, "\n  log:   {} (empty)", log.display())?;
            } else {
                write!(formatter, "\n  log:   {} (its end:)", log.display())?;
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

impl std::error::Error for Failure {}
