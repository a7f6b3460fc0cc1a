//! The supervisor's and the probes' way to the guard: start a service, or run a command to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::duration_text::shown;
use crate::guard::{Ended, Error, GuardEvent, GuardHandle, Report, SpawnOrder};
use crate::run::ExitStatus;

/// Starts processes by way of the guard, which owns them.
#[derive(Clone)]
pub struct Launcher {
    guard: GuardHandle,
    /// Commands that somebody waits for, by the name they run under.
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
}

/// To be told how a command ended, or why it was not started.
type Waiting = oneshot::Sender<Result<Ended, String>>;

impl Launcher {
    /// Wraps the guard's handle.
    pub fn new(guard: GuardHandle) -> Self {
        Self {
            guard,
            waiting: Arc::default(),
        }
    }

    /// Has a service started; its start and its end are reported as guard events.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn spawn(&self, order: SpawnOrder) -> Result<(), Error> {
        self.guard.spawn(order)
    }

    /// Runs the service's stop plan; its end is reported as a guard event.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn stop(&self, service: &str) -> Result<(), Error> {
        self.guard.stop(service)
    }

    /// Runs a command to its end, or ends it after `patience`.
    ///
    /// # Errors
    /// It cannot be executed, or takes too long; the text says which.
    pub async fn run_to_end(&self, order: SpawnOrder, patience: Duration) -> Result<ExitStatus, String> {
        let (sender, receiver) = oneshot::channel();
        let name = order.service.clone();
        self.waiting().insert(name.clone(), sender);
        // Whichever way this ends, also by being dropped, the command is not left behind.
        let _undo = StopOnDrop {
            launcher: self,
            name: &name,
        };
        self.spawn(order).map_err(|error| error.to_string())?;
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(ended)) => ended.map(exit_status),
            Ok(Err(_dropped)) => Err("the guard is gone".to_owned()),
            Err(_elapsed) => Err(format!("no end after {}", shown(patience))),
        }
    }

    /// Hands an event to who waits for it; true if it is thereby dealt with.
    pub fn deliver(&self, event: &GuardEvent) -> bool {
        let (service, end) = match event {
            GuardEvent::Report(Report::Exited { service, ended, .. }) => (service, Ok(*ended)),
            GuardEvent::Report(Report::SpawnFailed { service, error }) => (service, Err(error.clone())),
            GuardEvent::Report(_) | GuardEvent::Lost { .. } => return false,
        };
        match self.waiting().remove(service) {
            // The receiver may have gone in this instant; then nobody wants to know.
            Some(sender) => {
                sender.send(end).ok();
                true
            }
            None => false,
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StopOnDrop<'a> {
    launcher: &'a Launcher,
    name: &'a str,
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if self.launcher.waiting().remove(self.name).is_some() {
            // A guard that is gone has ended it already.
            drop(self.launcher.stop(self.name));
        }
    }
}

/// How the guard's word for an end reads in the run's facts.
pub fn exit_status(ended: Ended) -> ExitStatus {
    match ended {
        Ended::Code(code) => ExitStatus::Code(code),
        Ended::Signal { signal, core_dumped } => ExitStatus::Signal { signal, core_dumped },
    }
}
