//! The tasks of a supervised service: the preparation, the start, the probes and the backoff. Each task sends its
//! result to the inbox, and a service has one task at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::Instrument;

use crate::inbox::SupervisorMessage;
use crate::launcher::ProcessLauncher;
use crate::probes::suspend_aware::{SuspendAwareOutput, run_suspend_aware};
use crate::service_kind::ServiceStart;
use crate::states::{ServiceInput, ServiceState};
use crate::supervised::{SupervisedService, command_line};
use orch_base::files::log_stream;
use orch_base::text::duration_text::shown;
use orch_journal::ServiceName;
use orch_journal::failure::ServiceFailure;

/// Longest time for the guard to start a process; longer than the guard's own limit for an exec.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(30);

/// The way to the inbox of the supervisor.
type InboxSender = mpsc::UnboundedSender<SupervisorMessage>;

/// The sender of the inputs of one generation.
#[derive(Clone)]
struct AnswerSender {
    sender: InboxSender,
    name: ServiceName,
    generation: u64,
}

impl AnswerSender {
    /// Sends an input; returns false after the supervisor's end.
    fn send(&self, input: ServiceInput) -> bool {
        let answer = SupervisorMessage::Answer {
            name: self.name.clone(),
            generation: self.generation,
            input,
        };
        self.sender.send(answer).is_ok()
    }
}

impl SupervisedService {
    /// Begins the next task, which replaces the one under way.
    fn begin_task<T>(&mut self, sender: InboxSender, task: impl FnOnce(AnswerSender) -> T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let answers = AnswerSender {
            sender,
            generation: self.next_generation(),
            name: self.service.name.clone(),
        };
        // The supervisor begins tasks inside the span of the service.
        self.probe = Some(tokio::spawn(task(answers).in_current_span()).abort_handle());
    }

    /// Checks for a running server, and prepares the start.
    pub fn prepare(&mut self, sender: InboxSender) {
        let program = Arc::clone(&self.program);
        self.begin_task(sender, |answers| async move {
            let AnswerSender {
                sender,
                name,
                generation,
            } = answers;
            let prepared = program.prepare().await;
            drop(sender.send(SupervisorMessage::Prepared {
                name,
                generation,
                prepared,
            }));
        });
    }

    /// Orders the start of the process.
    pub fn spawn(&mut self, launcher: &ProcessLauncher, sender: InboxSender) -> Result<(), ServiceFailure> {
        let name = self.service.name.clone();
        let Some(order) = self.order.take() else {
            return Err(ServiceFailure::infrastructure(format!(
                "`{name}` has no spawn order, since it was not prepared"
            )));
        };
        let command = command_line(&order);
        self.service.command = Some(command.clone());
        self.log_offset = log_stream::length(&order.log);
        // The answer to an older task is ignored from here on, also if the order fails.
        self.next_generation();
        launcher
            .spawn(*order)
            .map_err(|error| not_started(&name, &command).with_cause(error.to_string()))?;
        // The guard answers; a guard that takes longer is stopped or gone.
        let launcher = launcher.clone();
        self.begin_task(sender, |answers| async move {
            tokio::time::sleep(SPAWN_TIMEOUT).await;
            // Otherwise the service would start unnoticed when the guard continues.
            drop(launcher.stop(name.as_str()));
            let why = format!("the guard did not answer within {}", shown(SPAWN_TIMEOUT));
            answers.send(ServiceInput::SpawnFailed(not_started(&name, &command).with_cause(why)));
        });
        Ok(())
    }

    /// Asks the service until it is ready or the time of the start is over.
    pub fn watch_readiness(&mut self, sender: InboxSender) {
        let program = Arc::clone(&self.program);
        let spawned = Instant::now();
        let start = ServiceStart {
            deadline: spawned + program.start_timeout(),
            spawned,
            pid: match self.service.state {
                ServiceState::Starting { pid, .. } => pid,
                _ => None,
            },
            log_offset: self.log_offset,
        };
        self.begin_task(sender, |answers| async move {
            let SuspendAwareOutput {
                mut output,
                suspended_for,
            } = run_suspend_aware(spawned.into(), Arc::clone(&program).ready(start)).await;
            // The time in which orch itself was suspended does not count.
            if output.is_err() && !suspended_for.is_zero() {
                tracing::warn!(service = %answers.name, ?suspended_for, "orch was suspended while it waited for a start; waiting again");
                let deadline = Instant::now() + suspended_for;
                output = program.ready(ServiceStart { deadline, ..start }).await;
            }
            answers.send(match output {
                Ok(detail) => ServiceInput::BecameReady(detail),
                Err(failure) => ServiceInput::ReadinessFailed(failure),
            });
        });
    }

    /// Asks the service again and again whether it is alive.
    pub fn watch_liveness(&mut self, sender: InboxSender) {
        let program = Arc::clone(&self.program);
        let Some(liveness) = program.liveness() else {
            self.next_generation();
            return;
        };
        self.begin_task(sender, |answers| async move {
            loop {
                tokio::time::sleep(liveness.interval).await;
                let asked = tokio::time::timeout(liveness.timeout * 2, Arc::clone(&program).alive());
                let SuspendAwareOutput { output, suspended_for } =
                    run_suspend_aware(tokio::time::Instant::now(), asked).await;
                // A suspended orch could not receive the answer; the next probe decides.
                if !suspended_for.is_zero() && !matches!(output, Ok(Ok(()))) {
                    tracing::warn!(service = %answers.name, "orch was suspended while it waited for an answer; asking again");
                    continue;
                }
                let input = match output {
                    Ok(Ok(())) => ServiceInput::LivenessPassed,
                    Ok(Err(reason)) => ServiceInput::LivenessFailed(reason),
                    Err(_elapsed) => {
                        ServiceInput::LivenessFailed(format!("no answer within {}", shown(liveness.timeout)))
                    }
                };
                if !answers.send(input) {
                    return;
                }
            }
        });
    }

    /// Waits until the backoff is over.
    pub fn wake_at(&mut self, until: Instant, sender: InboxSender) {
        self.begin_task(sender, |answers| async move {
            tokio::time::sleep_until(until.into()).await;
            answers.send(ServiceInput::BackoffElapsed);
        });
    }
}

/// Returns the failure of a service whose process could not be started.
pub fn not_started(name: &ServiceName, command: &str) -> ServiceFailure {
    ServiceFailure::infrastructure(format!("could not start `{name}` with the command {command}"))
}
