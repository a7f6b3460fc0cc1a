//! Keeps all services of a run up: one loop that owns their states, takes every input in one order, acts, and emits.
//!
//! Not here: what to do (the pure [`Service::step`]), how to ask a service ([`Program`]), the stop of the run (the
//! guard's). Dropping the supervisor drops all its probes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::attention::{Waited, attend};
use super::entry::{Demand, Entry, command_line, log_length};
use super::failure::Failure;
use super::inbox::{Inbox, Message};
use super::launcher::{Launcher, exit_status};
use super::life::{Action, Input, ServiceState};
use super::on_demand::{Availability, OnDemand};
use super::order::StartOrder;
use super::program::{Prepared, Program, Start};
use super::tree_memory::{self, Held};
use crate::duration_text::shown;
use crate::guard::{GuardEvent, Report};
use crate::run::{EventKind, ExitStatus, Level, Recorder, ServiceName};
use crate::signal_name::signal_name;

/// From one look at what services hold of memory to the next.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// How long the guard may take to start a process: beyond its own limit for an execution.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after the guard orch may be asked to end by the same hand.
const BOTH_ASKED_TIMEOUT: Duration = Duration::from_millis(200);

/// Which services can be used, for those who wait for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// All that are needed are (oneshots: have completed).
    pub all: bool,
    /// Names of those that are.
    pub names: Vec<ServiceName>,
    /// Restarts so far, of all services together.
    pub restarts: u64,
}

/// A service that has been given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub service: ServiceName,
    pub failure: Failure,
}

/// The loop and what it owns.
pub struct Supervisor {
    entries: Vec<Entry>,
    /// Of each entry, by its name: thousands of sites may have a worker of their own.
    positions: HashMap<String, usize>,
    order: StartOrder,
    launcher: Launcher,
    recorder: Recorder,
    inbox: Inbox,
    usable: watch::Sender<Usable>,
    task_holder_deaths: watch::Sender<u64>,
    restarts: u64,
    /// When to look next what services hold of memory.
    measure_at: Option<Instant>,
}

impl Supervisor {
    /// A supervisor of `programs`, none of them started.
    pub fn new(
        programs: Vec<Arc<dyn Program>>,
        order: StartOrder,
        launcher: Launcher,
        recorder: Recorder,
        inbox: Inbox,
    ) -> Self {
        let entries: Vec<Entry> = programs.into_iter().map(Entry::new).collect();
        // Where nobody's memory is of interest nothing wakes an idle instance.
        let measure_at = entries
            .iter()
            .any(has_memory_of_interest)
            .then(|| Instant::now() + MEASURE_EVERY);
        let names = entries.iter().map(|entry| entry.service.name.as_str().to_owned());
        let positions = names.enumerate().map(|(position, name)| (name, position)).collect();
        Self {
            entries,
            positions,
            order,
            launcher,
            recorder,
            inbox,
            usable: watch::Sender::new(Usable::default()),
            task_holder_deaths: watch::Sender::new(0),
            restarts: 0,
            measure_at,
        }
    }

    /// Who can be used, now and whenever it changes.
    pub fn usable(&self) -> watch::Receiver<Usable> {
        self.usable.subscribe()
    }

    /// By whom those are needed that are up on demand.
    pub fn on_demand(&self) -> OnDemand {
        OnDemand::new(self.inbox.sender.clone())
    }

    /// Deaths so far of processes that may have held tasks.
    pub fn task_holder_deaths(&self) -> watch::Receiver<u64> {
        self.task_holder_deaths.subscribe()
    }

    /// For whoever sees the deaths of workers that this supervisor does not run.
    pub fn task_holder_death_counter(&self) -> watch::Sender<u64> {
        self.task_holder_deaths.clone()
    }

    /// Brings all services up and keeps them so, until one has to be given up or the guard is lost.
    ///
    /// May be called again after a given-up service: the others go on.
    pub async fn run(&mut self) -> GivenUp {
        loop {
            if let Some(given_up) = self.start_what_can() {
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
            // The inbox holds a sender of its own: it never closes.
            let Some(message) = message else {
                continue;
            };
            if let Some(given_up) = self.take(message) {
                self.publish();
                return given_up;
            }
        }
    }

    /// Whether a service is left that is run, or is about to be run, by us.
    pub fn keeps_anything(&self) -> bool {
        self.entries.iter().any(|entry| match entry.service.state {
            ServiceState::Waiting
            | ServiceState::Preparing { .. }
            | ServiceState::Starting { .. }
            | ServiceState::Ready { .. }
            | ServiceState::Ending { .. }
            | ServiceState::BackingOff { .. } => true,
            ServiceState::Reused { .. } | ServiceState::Completed | ServiceState::Down | ServiceState::Failed => false,
        })
    }

    /// Has it looked what those hold that are not to hold too much, or that come and go; the answer is a message.
    fn measure(&mut self) {
        self.measure_at = Some(Instant::now() + MEASURE_EVERY);
        let limited = self.entries.iter().filter(|entry| has_memory_of_interest(entry));
        let running = |entry: &Entry| match entry.service.state {
            ServiceState::Ready { pid, .. } => Some((entry.service.name.clone(), pid)),
            _ => None,
        };
        let services: Vec<(ServiceName, i32)> = limited.filter_map(running).collect();
        if services.is_empty() {
            return;
        }
        let sender = self.inbox.sender.clone();
        tokio::task::spawn_blocking(move || drop(sender.send(Message::Measured(tree_memory::look(services)))));
    }

    /// Has the worst begin anew; one at a time, or there would be nobody left to do the work.
    fn take_measures(&mut self, held: &[Held]) -> Option<GivenUp> {
        for held in held {
            if let Some(index) = self.find(held.service.as_str())
                && let Some(entry) = self.entries.get_mut(index)
            {
                entry.peak = entry.peak.max(held.bytes);
            }
        }
        for entry in &mut self.entries {
            entry.is_renewed &= entry.demand.is_wanted() && !entry.service.is_usable();
        }
        if self.entries.iter().any(|entry| entry.is_renewed) {
            return None;
        }
        let limited = held.iter().filter_map(|held| {
            let index = self.find(held.service.as_str())?;
            let entry = self.entries.get(index)?;
            let is_it = matches!(entry.service.state, ServiceState::Ready { pid, .. } if pid == held.pid);
            Some((index, (held.bytes, entry.program.max_memory().filter(|_| is_it)?)))
        });
        let (indices, amounts): (Vec<usize>, Vec<(u64, u64)>) = limited.unzip();
        let worst = tree_memory::worst(&amounts)?;
        let (index, (bytes, limit)) = (*indices.get(worst)?, *amounts.get(worst)?);
        self.entries.get_mut(index)?.is_renewed = true;
        self.step(index, Input::Overgrown(tree_memory::reason(bytes, limit)))
    }

    fn start_what_can(&mut self) -> Option<GivenUp> {
        for index in 0..self.entries.len() {
            let waits = self
                .entries
                .get(index)
                .is_some_and(|entry| entry.demand.is_wanted() && entry.service.state == ServiceState::Waiting);
            if waits && self.dependencies_are_usable(index) {
                let given_up = self.step(index, Input::DependenciesReady);
                if given_up.is_some() {
                    return given_up;
                }
            }
        }
        None
    }

    fn dependencies_are_usable(&self, index: usize) -> bool {
        let Some(entry) = self.entries.get(index) else {
            return false;
        };
        let mut needed = self.order.dependencies(&entry.service.name);
        needed.all(|name| self.find(name.as_str()).is_some_and(|index| self.is_usable(index)))
    }

    fn is_usable(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(|entry| entry.service.is_usable())
    }

    /// Reports, once, why a program that was killed has left nothing in its log. What ends by itself writes it.
    fn explain_silence(&mut self, index: usize, status: ExitStatus) {
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let was_up = matches!(
            entry.service.state,
            ServiceState::Starting { .. } | ServiceState::Ready { .. }
        );
        let was_killed = matches!(status, ExitStatus::Signal { .. });
        let is_silent = log_length(entry.program.log()) <= entry.log_offset;
        if was_up
            && was_killed
            && is_silent
            && !entry.is_silence_told
            && let Some(cure) = entry.program.explain_silence()
        {
            entry.is_silence_told = true;
            self.recorder.emit(EventKind::Noticed {
                level: Level::Warning,
                message: format!("{}: {cure}", entry.service.name),
            });
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    fn publish(&self) {
        let usable: Vec<ServiceName> = self
            .entries
            .iter()
            .filter(|entry| entry.service.is_usable())
            .map(|entry| entry.service.name.clone())
            .collect();
        for entry in &self.entries {
            entry.tell();
        }
        let all = |entry: &Entry| entry.service.is_usable() || !entry.demand.is_wanted();
        let now = Usable {
            all: self.entries.iter().all(all),
            names: usable,
            restarts: self.restarts,
        };
        self.usable.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn take(&mut self, message: Message) -> Option<GivenUp> {
        match message {
            Message::Guard(event) => self.take_guard_event(event),
            Message::Answer {
                name,
                generation,
                input,
            } => {
                let index = self.current(&name, generation)?;
                self.step(index, input)
            }
            Message::Prepared {
                name,
                generation,
                prepared,
            } => {
                let index = self.current(&name, generation)?;
                let input = match prepared {
                    Ok(Prepared::Reuse(detail)) => Input::FoundHealthy(detail),
                    Ok(Prepared::Spawn(order)) => {
                        self.entries.get_mut(index)?.order = Some(order);
                        Input::Prepared
                    }
                    Err(failure) => Input::PrepareFailed(failure),
                };
                self.step(index, input)
            }
            Message::Needed { name, tell } => {
                let Some(index) = self.find(name.as_str()) else {
                    Message::Needed { name, tell }.refuse();
                    return None;
                };
                if let Some(entry) = self.entries.get_mut(index)
                    && let Demand::On(who) = &mut entry.demand
                {
                    *who = Some(tell);
                }
                self.step(index, Input::Needed)
            }
            Message::Measured(held) => self.take_measures(&held),
            Message::Ended(failure) => Some(GivenUp {
                service: "guard".into(),
                failure,
            }),
            Message::NotNeeded { name } => {
                let index = self.find(name.as_str())?;
                if let Some(entry) = self.entries.get_mut(index)
                    && let Demand::On(who) = &mut entry.demand
                {
                    *who = None;
                    let memory_bytes = std::mem::take(&mut entry.peak);
                    if memory_bytes > 0 {
                        let event = EventKind::ServicePeaked {
                            service: name,
                            memory_bytes,
                        };
                        self.recorder.emit(event);
                    }
                    return self.step(index, Input::NotNeeded);
                }
                None
            }
        }
    }

    fn take_guard_event(&mut self, event: GuardEvent) -> Option<GivenUp> {
        if self.launcher.deliver(&event) {
            return None;
        }
        match event {
            GuardEvent::Lost { unsure } => {
                let cause = "it is the parent of all services: they were ended with it, without a warm shutdown";
                let cause = match unsure {
                    None => cause.to_owned(),
                    Some(why) => format!(
                        "{cause}; something of them may live: {why}\n  then:  `orch clean` ends what it can tell to be of this run"
                    ),
                };
                Some(GivenUp {
                    service: "guard".into(),
                    failure: Failure::infrastructure("the guard was killed").because(cause).hint(
                        "look for who sends SIGKILL to `orch guard`: the kernel's out-of-memory killer says so in its log",
                    ),
                })
            }
            GuardEvent::Report(Report::Exited { service, ended, .. }) => {
                let index = self.find(&service)?;
                // Who ends because nobody needs it has been left no task.
                let may_have_lost = |entry: &Entry| entry.program.holds_tasks() && entry.demand.is_wanted();
                if self.entries.get(index).is_some_and(may_have_lost) {
                    self.task_holder_deaths.send_modify(|deaths| *deaths += 1);
                }
                let status = exit_status(ended);
                if let Some(entry) = self.entries.get_mut(index) {
                    let has_failed =
                        matches!(entry.service.state, ServiceState::Starting { .. }) && status != ExitStatus::Code(0);
                    let mended = has_failed.then(|| entry.program.mend_start(entry.log_offset)).flatten();
                    entry.service.start_is_mended = mended.is_some();
                    if let Some(message) = mended {
                        let level = Level::Warning;
                        self.recorder.emit(EventKind::Noticed { level, message });
                    }
                }
                self.explain_silence(index, status);
                self.step(index, Input::Exited(status))
            }
            GuardEvent::Report(Report::Gone { service }) => {
                let index = self.find(&service)?;
                self.step(index, Input::Gone)
            }
            GuardEvent::Report(Report::Signalled {
                signal,
                sender,
                asks_to_end,
            }) => self.take_signal_to_guard(signal, sender, asks_to_end),
            GuardEvent::Report(Report::Refused { order, error }) => {
                self.recorder.emit(EventKind::Noticed {
                    level: Level::Warning,
                    message: format!("the guard could not carry out `{order}`: {error}"),
                });
                None
            }
            GuardEvent::Report(Report::Spawned { service, pid }) => {
                let index = self.find(&service)?;
                self.end_wait_for_spawn(index);
                self.step(index, Input::Spawned(pid))
            }
            GuardEvent::Report(Report::SpawnFailed { service, error }) => {
                let index = self.find(&service)?;
                self.end_wait_for_spawn(index);
                let entry = self.entries.get(index)?;
                let command = entry.service.command.clone().unwrap_or_default();
                let failure = not_started(&entry.service.name, &command).because(error);
                self.step(index, Input::SpawnFailed(failure))
            }
            // These belong to the start and the stop of the run.
            GuardEvent::Report(Report::Started { .. } | Report::AllGone) => None,
        }
    }

    /// Somebody has sent the guard a signal. Where it asks for an end, and orch itself was not asked meanwhile, that is the
    /// end of the run.
    fn take_signal_to_guard(&mut self, signal: i32, sender: u32, asks_to_end: bool) -> Option<GivenUp> {
        let from = match sender {
            0 => "the kernel".to_owned(),
            sender => format!("process {sender}"),
        };
        let name = signal_name(signal);
        if !asks_to_end {
            self.recorder.emit(EventKind::Noticed {
                level: Level::Warning,
                message: format!("the guard took no notice of {name} from {from}; it is the parent of all services"),
            });
            return None;
        }
        let failure = Failure::infrastructure(format!("the guard was asked to end, by {name} from {from}"))
            .because("it is the parent of all services: they are stopped in order")
            .hint("a service that signals its parent process does this; to stop orch, signal orch");
        let sender = self.inbox.sender.clone();
        tokio::spawn(async move {
            // `killall orch` asks both, and then it is orch that was asked.
            tokio::time::sleep(BOTH_ASKED_TIMEOUT).await;
            drop(sender.send(Message::Ended(failure)));
        });
        None
    }

    /// The guard has answered the order to start a service: nobody waits for that any more.
    fn end_wait_for_spawn(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index)
            && matches!(entry.service.state, ServiceState::Starting { pid: None, .. })
        {
            entry.next_generation();
        }
    }

    fn current(&self, name: &ServiceName, generation: u64) -> Option<usize> {
        let index = self.find(name.as_str())?;
        (self.entries.get(index)?.generation == generation).then_some(index)
    }

    fn step(&mut self, index: usize, input: Input) -> Option<GivenUp> {
        let mut inputs = vec![input];
        let mut given_up = None;
        while let Some(input) = inputs.pop() {
            let random = random();
            let Some(entry) = self.entries.get_mut(index) else {
                return given_up;
            };
            for action in entry.service.step(input, Instant::now(), random) {
                match self.act(index, action) {
                    Acted::Done => {}
                    Acted::Answered(answer) => inputs.push(answer),
                    Acted::GaveUp(failure) => given_up = Some(failure),
                }
            }
        }
        given_up
    }

    fn act(&mut self, index: usize, action: Action) -> Acted {
        let sender = self.inbox.sender.clone();
        let Some(entry) = self.entries.get_mut(index) else {
            return Acted::Done;
        };
        let (name, program) = (entry.service.name.clone(), Arc::clone(&entry.program));
        match action {
            Action::Emit(event) => {
                if matches!(event, EventKind::ServiceRestarting { .. }) {
                    self.restarts += 1;
                }
                self.recorder.emit(event);
            }
            Action::Prepare => {
                let generation = entry.next_generation();
                let task = tokio::spawn(async move {
                    let prepared = program.prepare().await;
                    drop(sender.send(Message::Prepared {
                        name,
                        generation,
                        prepared,
                    }));
                });
                entry.probe = Some(task.abort_handle());
            }
            Action::Spawn => {
                let Some(order) = entry.order.take() else {
                    let failure = Failure::infrastructure(format!("`{name}` was to be started without being prepared"));
                    return Acted::Answered(Input::SpawnFailed(failure));
                };
                let command = command_line(&order);
                entry.service.command = Some(command.clone());
                entry.log_offset = log_length(&order.log);
                let generation = entry.next_generation();
                if let Err(error) = self.launcher.spawn(*order) {
                    return Acted::Answered(Input::SpawnFailed(
                        not_started(&name, &command).because(error.to_string()),
                    ));
                }
                // Answered by the guard, which is stopped or gone if it takes so long.
                let launcher = self.launcher.clone();
                let task = tokio::spawn(async move {
                    tokio::time::sleep(SPAWN_TIMEOUT).await;
                    // Else it would run unseen once the guard goes on.
                    drop(launcher.stop(name.as_str()));
                    let why = format!("the guard has not answered within {}", shown(SPAWN_TIMEOUT));
                    let input = Input::SpawnFailed(not_started(&name, &command).because(why));
                    drop(sender.send(Message::Answer {
                        name,
                        generation,
                        input,
                    }));
                });
                entry.probe = Some(task.abort_handle());
            }
            Action::WatchReadiness => {
                let generation = entry.next_generation();
                let spawned = Instant::now();
                let deadline = spawned + program.start_timeout();
                let pid = match entry.service.state {
                    ServiceState::Starting { pid, .. } => pid,
                    _ => None,
                };
                let start = Start {
                    deadline,
                    spawned,
                    pid,
                    log_offset: entry.log_offset,
                };
                let task = tokio::spawn(async move {
                    let Waited { mut output, away } = attend(spawned.into(), Arc::clone(&program).ready(start)).await;
                    // The time in which nobody was there to see it does not count.
                    if output.is_err() && !away.is_zero() {
                        tracing::warn!(service = %name, ?away, "orch was stopped while it waited for a start; it looks again");
                        let deadline = Instant::now() + away;
                        output = program.ready(Start { deadline, ..start }).await;
                    }
                    let input = match output {
                        Ok(detail) => Input::BecameReady(detail),
                        Err(failure) => Input::ReadinessFailed(failure),
                    };
                    drop(sender.send(Message::Answer {
                        name,
                        generation,
                        input,
                    }));
                });
                entry.probe = Some(task.abort_handle());
            }
            Action::WatchLiveness => {
                let generation = entry.next_generation();
                let Some(liveness) = program.liveness() else {
                    return Acted::Done;
                };
                let task = tokio::spawn(async move {
                    loop {
                        tokio::time::sleep(liveness.interval).await;
                        let asked = tokio::time::timeout(liveness.timeout * 2, Arc::clone(&program).alive());
                        let Waited { output, away } = attend(tokio::time::Instant::now(), asked).await;
                        // What nobody was there to hear has not been missing: the next question tells.
                        if !away.is_zero() && !matches!(output, Ok(Ok(()))) {
                            tracing::warn!(service = %name, "orch was stopped while it waited for an answer; it asks again");
                            continue;
                        }
                        let input = match output {
                            Ok(Ok(())) => Input::LivenessPassed,
                            Ok(Err(reason)) => Input::LivenessFailed(reason),
                            Err(_elapsed) => {
                                Input::LivenessFailed(format!("no answer within {}", shown(liveness.timeout)))
                            }
                        };
                        if sender
                            .send(Message::Answer {
                                name: name.clone(),
                                generation,
                                input,
                            })
                            .is_err()
                        {
                            return;
                        }
                    }
                });
                entry.probe = Some(task.abort_handle());
            }
            Action::StopProbes => {
                entry.next_generation();
            }
            Action::StopTree => {
                if let Err(error) = self.launcher.stop(name.as_str()) {
                    // The loss of the guard is reported by its own event, which ends the run.
                    tracing::warn!(service = %name, %error, "stop");
                }
            }
            Action::WakeAt(until) => {
                let generation = entry.next_generation();
                let task = tokio::spawn(async move {
                    tokio::time::sleep_until(until.into()).await;
                    drop(sender.send(Message::Answer {
                        name,
                        generation,
                        input: Input::BackoffElapsed,
                    }));
                });
                entry.probe = Some(task.abort_handle());
            }
            Action::GiveUp(failure) => match &mut entry.demand {
                Demand::Always => return Acted::GaveUp(GivenUp { service: name, failure }),
                Demand::On(who) => {
                    if let Some(who) = who.take() {
                        who.send_replace(Availability::GivenUp(failure));
                    }
                }
            },
        }
        Acted::Done
    }
}

enum Acted {
    Done,
    Answered(Input),
    GaveUp(GivenUp),
}

fn not_started(name: &ServiceName, command: &str) -> Failure {
    Failure::infrastructure(format!("start `{name}` as {command}"))
}

/// Jitter needs no quality: the clock's nanoseconds will do.
fn random() -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    f64::from(nanos % 1_000_000) / 1_000_000.0
}

/// Whether a service is not to hold too much, or comes and goes.
fn has_memory_of_interest(entry: &Entry) -> bool {
    entry.program.max_memory().is_some() || entry.program.is_on_demand()
}

/// Waits until then; for ever where there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
