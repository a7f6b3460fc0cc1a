//! The loop that keeps all services of a run up: the loop owns their states, handles every input in one order, acts and
//! emits events.
//!
//! Not here: the decisions (the pure [`Service::step`](crate::Service::step)), the questions to a service
//! ([`ServiceKind`]), and the stop of the run, which the guard does. Dropping the supervisor drops all probes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::inbox::{SupervisorInbox, SupervisorMessage};
use crate::launcher::{ProcessLauncher, exit_status};
use crate::log_keeper::LogKeeper;
use crate::memory_limit;
use crate::on_demand::OnDemand;
use crate::service_kind::{PreparedStart, ServiceKind};
use crate::service_table::ServiceTable;
use crate::service_tasks::not_started;
use crate::start_order::StartOrder;
use crate::states::{ServiceAction, ServiceAvailability, ServiceInput, ServiceState};
use crate::supervised::{ServiceDemand, SupervisedService};
use orch_base::files::log_stream;
use orch_base::text::signal_name::signal_name;
use orch_base::wall_clock::unix_now;
use orch_guard::{GuardEvent, GuardReport};
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, ExitStatus, GuardProblem, Recorder, ServiceName};

/// Interval between two measurements of the services' memory.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// Time after a signal to the guard within which a signal to orch counts as sent by the same sender.
const BOTH_SIGNALLED_TIMEOUT: Duration = Duration::from_millis(200);

/// The services that can be used, for code that waits for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsableServices {
    /// All needed services can be used (oneshots: have completed).
    pub all: bool,
    /// Names of the services that can be used.
    pub names: Vec<ServiceName>,
    /// Each needed service can be used, or does not start before a request starts it or a dependency.
    pub settled: bool,
    /// Names of the services that are given up.
    pub failed: Vec<ServiceName>,
    /// Number of restarts so far, of all services together.
    pub restarts: u64,
}

/// A process that the supervisor has given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The guard, and all services with it.
    Guard(ServiceFailure),
    /// One service; the others continue.
    Service(ServiceName, ServiceFailure),
}

impl GivenUp {
    /// Returns the failure.
    pub fn into_failure(self) -> ServiceFailure {
        match self {
            GivenUp::Guard(failure) | GivenUp::Service(_, failure) => failure,
        }
    }
}

/// The loop and the owned values.
pub struct Supervisor {
    pub(crate) services: ServiceTable,
    pub(crate) order: StartOrder,
    launcher: ProcessLauncher,
    recorder: Recorder,
    logs: LogKeeper,
    inbox: SupervisorInbox,
    usable: watch::Sender<UsableServices>,
    worker_exits: watch::Sender<u64>,
    restarts: u64,
    /// Time of the next memory measurement.
    measure_at: Option<Instant>,
}

impl Supervisor {
    /// Returns a supervisor of `programs`, none of them started.
    pub fn new(
        programs: Vec<Arc<dyn ServiceKind>>,
        order: StartOrder,
        launcher: ProcessLauncher,
        recorder: Recorder,
        logs: LogKeeper,
        inbox: SupervisorInbox,
    ) -> Self {
        let services = ServiceTable::new(programs);
        // Without a service to measure, nothing wakes an idle instance.
        let measure_at = services.needs_measurement().then(|| Instant::now() + MEASURE_INTERVAL);
        Self {
            services,
            order,
            launcher,
            recorder,
            logs,
            inbox,
            usable: watch::Sender::new(UsableServices::default()),
            worker_exits: watch::Sender::new(0),
            restarts: 0,
            measure_at,
        }
    }

    /// Subscribes to the set of services that can be used.
    pub fn usable(&self) -> watch::Receiver<UsableServices> {
        self.usable.subscribe()
    }

    /// Returns the handle with which callers request on-demand services.
    pub fn on_demand(&self) -> OnDemand {
        OnDemand::new(self.inbox.sender.clone())
    }

    /// Subscribes to the number of exits of processes that may have held tasks.
    pub fn worker_exits(&self) -> watch::Receiver<u64> {
        self.worker_exits.subscribe()
    }

    /// Returns the counter, for a watch of workers that this supervisor does not run.
    pub fn worker_exit_counter(&self) -> watch::Sender<u64> {
        self.worker_exits.clone()
    }

    /// Brings all services up and keeps them up, until one has to be given up or the guard is lost.
    ///
    /// May be called again after a service was given up: the other services continue.
    pub async fn run(&mut self) -> GivenUp {
        loop {
            if let Some(given_up) = self.start_possible_services() {
                return given_up;
            }
            self.publish();
            let message = tokio::select! {
                biased;
                message = self.inbox.next() => message,
                () = until(self.measure_at) => {
                    self.measure();
                    None
                }
            };
            // The inbox contains a sender, so it never closes.
            let Some(message) = message else {
                continue;
            };
            if let Some(given_up) = self.handle_message(message) {
                self.publish();
                return given_up;
            }
        }
    }

    /// Returns true if orch runs a service, or is about to run one.
    pub fn has_managed_services(&self) -> bool {
        self.services.has_managed()
    }

    /// Measures the memory of limited and on-demand services on a blocking thread; the result arrives as
    /// `SupervisorMessage::Measured`.
    fn measure(&mut self) {
        self.measure_at = Some(Instant::now() + MEASURE_INTERVAL);
        let services = self.services.measured();
        if services.is_empty() {
            return;
        }
        let sender = self.inbox.sender.clone();
        tokio::task::spawn_blocking(move || {
            drop(sender.send(SupervisorMessage::Measured(memory_limit::measure(services))))
        });
    }

    fn start_possible_services(&mut self) -> Option<GivenUp> {
        for index in 0..self.services.entries.len() {
            let waits = self
                .services
                .entries
                .get(index)
                .is_some_and(|entry| entry.demand.is_wanted() && entry.service.state == ServiceState::Waiting);
            if waits && self.services.unusable_dependencies(index, &self.order).is_empty() {
                let given_up = self.step(index, ServiceInput::DependenciesReady);
                if given_up.is_some() {
                    return given_up;
                }
            }
        }
        None
    }

    /// Reports, once, why a killed program has left nothing in the log. A program that ends by itself writes the
    /// buffer.
    fn explain_empty_log(&mut self, index: usize, status: ExitStatus) {
        let Some(entry) = self.services.entries.get_mut(index) else {
            return;
        };
        let was_up = matches!(
            entry.service.state,
            ServiceState::Starting { .. } | ServiceState::Ready { .. }
        );
        let was_killed = matches!(status, ExitStatus::Signal { .. });
        let is_silent = log_stream::length(entry.program.log()) <= entry.log_offset;
        if was_up && was_killed && is_silent && !entry.is_empty_log_explained && entry.program.buffers_output() {
            entry.is_empty_log_explained = true;
            self.recorder.emit(EventKind::ServiceLogEmpty {
                service: entry.service.name.clone(),
            });
        }
    }

    fn publish(&self) {
        for entry in &self.services.entries {
            entry.publish_availability();
        }
        let now = UsableServices {
            all: self.services.all_are_usable(),
            names: self.services.usable_names(),
            settled: self.services.all_are_settled(&self.order),
            failed: self.services.failed_names(),
            restarts: self.restarts,
        };
        self.usable.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn handle_message(&mut self, message: SupervisorMessage) -> Option<GivenUp> {
        match message {
            SupervisorMessage::Guard(event) => self.handle_guard_event(event),
            SupervisorMessage::Answer {
                name,
                generation,
                input,
            } => {
                let index = self.services.current(&name, generation)?;
                self.step(index, input)
            }
            SupervisorMessage::Prepared {
                name,
                generation,
                prepared,
            } => {
                let index = self.services.current(&name, generation)?;
                let input = match prepared {
                    Ok(PreparedStart::Reuse(detail)) => ServiceInput::FoundHealthy(detail),
                    Ok(PreparedStart::Spawn(order)) => {
                        self.services.entries.get_mut(index)?.order = Some(order);
                        ServiceInput::Prepared
                    }
                    Err(failure) => ServiceInput::PrepareFailed(failure),
                };
                self.step(index, input)
            }
            SupervisorMessage::Needed { name, updates } => {
                let Some(index) = self.services.find(name.as_str()) else {
                    SupervisorMessage::Needed { name, updates }.refuse();
                    return None;
                };
                if let Some(entry) = self.services.entries.get_mut(index)
                    && let ServiceDemand::On(waiting) = &mut entry.demand
                {
                    *waiting = Some(updates);
                }
                self.step(index, ServiceInput::Needed)
            }
            SupervisorMessage::Measured(held) => {
                let (index, reason) = self.services.next_to_recycle(&held)?;
                self.step(index, ServiceInput::MemoryLimitExceeded(reason))
            }
            SupervisorMessage::Requested { name, verb, request } => {
                self.handle_request(&name, verb, request);
                None
            }
            SupervisorMessage::GuardAskedToEnd(failure) => Some(GivenUp::Guard(failure)),
            SupervisorMessage::NotNeeded { name } => {
                let index = self.services.find(name.as_str())?;
                if let Some(entry) = self.services.entries.get_mut(index)
                    && let ServiceDemand::On(waiting) = &mut entry.demand
                {
                    *waiting = None;
                    let memory_bytes = std::mem::take(&mut entry.peak);
                    if memory_bytes > 0 {
                        let event = EventKind::ServicePeaked {
                            service: name,
                            memory_bytes,
                        };
                        self.recorder.emit(event);
                    }
                    return self.step(index, ServiceInput::NotNeeded);
                }
                None
            }
        }
    }

    fn handle_guard_event(&mut self, event: GuardEvent) -> Option<GivenUp> {
        if self.launcher.deliver(&event) {
            return None;
        }
        match event {
            GuardEvent::Lost { unsure } => {
                let cause = "it is the parent of all services: they were ended with it, without a warm shutdown";
                let cause = match unsure {
                    None => cause.to_owned(),
                    Some(why) => format!(
                        "{cause}; some of their processes may be alive: {why}\n  then:  `orch clean` ends the processes that it can attribute to this run"
                    ),
                };
                let failure = ServiceFailure::infrastructure("the guard was killed").with_cause(cause).hint(
                    "find out which process sends SIGKILL to `orch guard`: the kernel logs a kill by its out-of-memory killer",
                );
                Some(GivenUp::Guard(failure))
            }
            GuardEvent::Report(GuardReport::Exited { service, ended, .. }) => {
                let index = self.services.find(&service)?;
                // A worker that ends for lack of demand has no task left.
                let may_have_lost = |entry: &SupervisedService| entry.program.holds_tasks() && entry.demand.is_wanted();
                if self.services.entries.get(index).is_some_and(may_have_lost) {
                    self.worker_exits.send_modify(|exits| *exits += 1);
                }
                let status = exit_status(ended);
                if let Some(entry) = self.services.entries.get_mut(index) {
                    let has_failed =
                        matches!(entry.service.state, ServiceState::Starting { .. }) && status != ExitStatus::Code(0);
                    let mended = has_failed
                        .then(|| entry.program.repair_start(entry.log_offset))
                        .flatten();
                    entry.service.start_is_repaired = mended.is_some();
                    if let Some(repair) = mended {
                        self.recorder.emit(repair);
                    }
                }
                self.explain_empty_log(index, status);
                self.step(index, ServiceInput::Exited(status))
            }
            GuardEvent::Report(GuardReport::Gone { service }) => {
                let index = self.services.find(&service)?;
                self.step(index, ServiceInput::Gone)
            }
            GuardEvent::Report(GuardReport::Signalled {
                signal,
                sender,
                asks_to_end,
            }) => self.handle_signal_to_guard(signal, sender, asks_to_end),
            GuardEvent::Report(GuardReport::Refused { order, error }) => {
                let problem = GuardProblem::OrderRefused { order, reason: error };
                self.recorder.emit(EventKind::GuardProblemFound { problem });
                None
            }
            GuardEvent::Report(GuardReport::Spawned { service, pid }) => {
                let index = self.services.find(&service)?;
                self.end_wait_for_spawn(index);
                if let Some(entry) = self.services.entries.get(index) {
                    entry.bound_logs(&self.logs);
                }
                self.step(index, ServiceInput::Spawned(pid))
            }
            GuardEvent::Report(GuardReport::SpawnFailed { service, error }) => {
                let index = self.services.find(&service)?;
                self.end_wait_for_spawn(index);
                let entry = self.services.entries.get(index)?;
                let command = entry.service.command.clone().unwrap_or_default();
                let failure = not_started(&entry.service.name, &command).with_cause(error);
                self.step(index, ServiceInput::SpawnFailed(failure))
            }
            // These reports belong to the start and the stop of the run.
            GuardEvent::Report(GuardReport::Started { .. } | GuardReport::AllGone) => None,
        }
    }

    /// Handles a signal that another process has sent to the guard. If the signal asks for an end and orch itself gets
    /// no such signal within a short time, the run ends.
    fn handle_signal_to_guard(&mut self, signal: i32, sender: u32, asks_to_end: bool) -> Option<GivenUp> {
        if !asks_to_end {
            let problem = GuardProblem::SignalIgnored { signal, sender };
            self.recorder.emit(EventKind::GuardProblemFound { problem });
            return None;
        }
        let from = match sender {
            0 => "the kernel".to_owned(),
            sender => format!("process {sender}"),
        };
        let name = signal_name(signal);
        let failure = ServiceFailure::infrastructure(format!("the guard was asked to end, by {name} from {from}"))
            .with_cause("it is the parent of all services: they are stopped in order")
            .hint("a service that signals its parent process does this; to stop orch, signal orch");
        let sender = self.inbox.sender.clone();
        tokio::spawn(async move {
            // `killall orch` signals both; then the signal to orch decides.
            tokio::time::sleep(BOTH_SIGNALLED_TIMEOUT).await;
            drop(sender.send(SupervisorMessage::GuardAskedToEnd(failure)));
        });
        None
    }

    /// Ends the wait for the guard's answer to the order to start a service.
    fn end_wait_for_spawn(&mut self, index: usize) {
        if let Some(entry) = self.services.entries.get_mut(index)
            && matches!(entry.service.state, ServiceState::Starting { pid: None, .. })
        {
            entry.next_generation();
        }
    }

    fn step(&mut self, index: usize, input: ServiceInput) -> Option<GivenUp> {
        let entry = self.services.entries.get(index);
        let _span = entry.map(|entry| tracing::info_span!("service", name = %entry.service.name).entered());
        let mut inputs = vec![input];
        let mut given_up = None;
        while let Some(input) = inputs.pop() {
            let random = random();
            let Some(entry) = self.services.entries.get_mut(index) else {
                return given_up;
            };
            for action in entry.service.step(input, Instant::now(), random) {
                match self.perform(index, action) {
                    ActionResult::Done => {}
                    ActionResult::Answered(answer) => inputs.push(answer),
                    ActionResult::GaveUp(failure) => given_up = Some(failure),
                }
            }
        }
        given_up
    }

    pub(crate) fn perform(&mut self, index: usize, action: ServiceAction) -> ActionResult {
        let sender = self.inbox.sender.clone();
        let Some(entry) = self.services.entries.get_mut(index) else {
            return ActionResult::Done;
        };
        match action {
            ServiceAction::Emit(event) => {
                if matches!(event, EventKind::ServiceRestarting { .. }) {
                    self.restarts += 1;
                }
                self.recorder.emit(event);
            }
            ServiceAction::Prepare => entry.prepare(sender),
            ServiceAction::Spawn => {
                if let Err(failure) = entry.spawn(&self.launcher, sender) {
                    return ActionResult::Answered(ServiceInput::SpawnFailed(failure));
                }
            }
            ServiceAction::WatchReadiness => entry.watch_readiness(sender),
            ServiceAction::WatchLiveness => entry.watch_liveness(sender),
            ServiceAction::StopProbes => {
                entry.next_generation();
            }
            ServiceAction::StopTree => {
                let name = &entry.service.name;
                if let Err(error) = self.launcher.stop(name.as_str()) {
                    // The loss of the guard is reported by a separate event, which ends the run.
                    tracing::warn!(service = %name, %error, "could not order the stop of the service");
                }
            }
            ServiceAction::WakeAt(until) => entry.wake_at(until, sender),
            ServiceAction::GiveUp(failure) => match &mut entry.demand {
                ServiceDemand::Always => {
                    return ActionResult::GaveUp(GivenUp::Service(entry.service.name.clone(), failure));
                }
                ServiceDemand::On(waiting) => {
                    if let Some(updates) = waiting.take() {
                        updates.send_replace(ServiceAvailability::GivenUp(failure));
                    }
                }
            },
        }
        ActionResult::Done
    }
}

/// Result of an action.
pub(crate) enum ActionResult {
    Done,
    Answered(ServiceInput),
    GaveUp(GivenUp),
}

/// Returns a number in 0.0..1.0 from the clock's nanoseconds; jitter needs no better source.
fn random() -> f64 {
    let nanos = unix_now().subsec_nanos();
    f64::from(nanos % 1_000_000) / 1_000_000.0
}

/// Waits until this time; for ever without a time.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
