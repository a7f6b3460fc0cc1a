//! The way of the supervisor and the probes to the guard: starts a service, or runs a command to the end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use orch_base::text::duration_text::shown;
use orch_guard::{Error, GuardEvent, GuardHandle, GuardReport, ProcessExit, SpawnOrder};
use orch_journal::ExitStatus;

/// A handle that starts processes through the guard, which owns them.
#[derive(Clone)]
pub struct ProcessLauncher {
    guard: GuardHandle,
    /// Commands with a waiting caller, by the name under which they run.
    waiting: Arc<Mutex<HashMap<String, CommandWaiter>>>,
}

/// The channel that reports how a command ended, or why the start failed.
type CommandWaiter = oneshot::Sender<Result<ProcessExit, String>>;

impl ProcessLauncher {
    /// Wraps the guard's handle.
    pub fn new(guard: GuardHandle) -> Self {
        Self {
            guard,
            waiting: Arc::default(),
        }
    }

    /// Orders the start of a service; start and end are reported as guard events.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn spawn(&self, order: SpawnOrder) -> Result<(), Error> {
        self.guard.spawn(order)
    }

    /// Orders the service's stop plan; the end is reported as a guard event.
    ///
    /// # Errors
    /// The guard is gone.
    pub fn stop(&self, service: &str) -> Result<(), Error> {
        self.guard.stop(service)
    }

    /// Runs a command to the end, or ends the command after `timeout`.
    ///
    /// # Errors
    /// The command cannot be executed or takes too long; the text names the cause.
    pub async fn run_to_end(&self, order: SpawnOrder, timeout: Duration) -> Result<ExitStatus, String> {
        let (sender, receiver) = oneshot::channel();
        let name = order.service.clone();
        self.waiting().insert(name.clone(), sender);
        // Ends the command on every way out of this function, also when the future is dropped.
        let _stop = StopOnDrop {
            launcher: self,
            name: &name,
        };
        self.spawn(order).map_err(|error| error.to_string())?;
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(ended)) => ended.map(exit_status),
            Ok(Err(_dropped)) => Err("the guard is gone".to_owned()),
            Err(_elapsed) => Err(format!("the command did not end within {}", shown(timeout))),
        }
    }

    /// Passes an event to the command that waits for the event; returns true if there is one.
    pub fn deliver(&self, event: &GuardEvent) -> bool {
        let (service, end) = match event {
            GuardEvent::Report(GuardReport::Exited { service, ended, .. }) => (service, Ok(*ended)),
            GuardEvent::Report(GuardReport::SpawnFailed { service, error }) => (service, Err(error.clone())),
            GuardEvent::Report(_) | GuardEvent::Lost { .. } => return false,
        };
        match self.waiting().remove(service) {
            // The receiver may be gone by now; then the event has no reader.
            Some(sender) => {
                sender.send(end).ok();
                true
            }
            None => false,
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<String, CommandWaiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct StopOnDrop<'a> {
    launcher: &'a ProcessLauncher,
    name: &'a str,
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if self.launcher.waiting().remove(self.name).is_some() {
            // A guard that is gone has already ended the command.
            drop(self.launcher.stop(self.name));
        }
    }
}

/// Converts the guard's form of a process's end to that of the journal.
pub fn exit_status(ended: ProcessExit) -> ExitStatus {
    match ended {
        ProcessExit::Code(code) => ExitStatus::Code(code),
        ProcessExit::Signal { signal, core_dumped } => ExitStatus::Signal { signal, core_dumped },
    }
}
