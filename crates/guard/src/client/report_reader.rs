//! The thread that reads the guard's reports, and that ends the remaining processes if the guard is killed.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use super::channel::{GuardChannel, lock};
use super::lost::end_descendants;
use super::start::GuardProcess;
use crate::control_group::HeldGroup;
use crate::inherited_children::InheritedChildren;
use crate::protocol::GuardReport;

/// An event of the guard.
#[derive(Debug)]
pub enum GuardEvent {
    Report(GuardReport),
    /// The guard died. orch has ended the guard's processes, unless there is a reason why that is not certain.
    Lost {
        unsure: Option<String>,
    },
}

/// The thread that reads the guard's reports.
pub struct ReportReader {
    pub shared: Arc<GuardChannel>,
    /// Result of the guard's start: success, or the reason of the failure.
    pub started: Sender<Result<(), String>>,
    pub run_id: String,
    /// Descendants of this process that do not belong to the guard.
    pub inherited: InheritedChildren,
    /// The control group of the guard and of all guarded processes, if there is one.
    pub group: Option<HeldGroup>,
    pub child: Arc<Mutex<GuardProcess>>,
}

impl ReportReader {
    /// Reads until the guard closes the socket; if that was not expected, ends what the guard has left.
    pub fn run(mut self, socket: UnixStream, on_event: impl Fn(GuardEvent)) {
        let mut lines = BufReader::new(socket);
        let mut line = Vec::new();
        loop {
            line.clear();
            match lines.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => match serde_json::from_slice::<GuardReport>(&line) {
                    Ok(report) => self.take(report, &on_event),
                    Err(error) => tracing::warn!(%error, "could not parse a report of the guard"),
                },
            }
        }
        let is_expected = lock(&self.shared.known).all_gone;
        if !is_expected {
            // The guard may still be alive, with a broken socket; the guard must be dead before the descendants become
            // children of orch.
            lock(&self.child).kill();
            // All processes at once, before they can do more.
            if let Some(group) = self.group.as_ref().map(HeldGroup::group)
                && let Err(error) = group.kill()
            {
                tracing::warn!(%error, group = %group.path().display(), "could not end the run's control group");
            }
        }
        lock(&self.child).wait();
        let mut unsure = None;
        if !is_expected {
            let mains = lock(&self.shared.known).main_pids.clone();
            unsure = end_descendants(&self.run_id, &mains, &self.inherited).err();
        }
        // A group with a process in it cannot be removed; the next start does that.
        if let Some(group) = self.group.take().filter(|_| unsure.is_none()) {
            group.remove();
        }
        {
            let mut known = lock(&self.shared.known);
            known.closed = true;
            if unsure.is_some() {
                known.unsure.clone_from(&unsure);
            }
        }
        self.shared.changed.notify_all();
        // The result of a stop that orch has given up names what is left.
        let is_named = unsure.is_some() && lock(&self.shared.known).is_given_up;
        if !is_expected && !is_named {
            on_event(GuardEvent::Lost { unsure });
        }
    }

    /// Names the processes in the run's control group besides the guard. The guard reports that there are none; this is
    /// a check of that report.
    fn left_in_group(&self) -> Option<String> {
        let group = self.group.as_ref()?.group();
        let guard = lock(&self.child).pid();
        let left = group.processes().into_iter().filter(|pid| *pid != guard);
        let left: Vec<String> = left.map(|pid| pid.to_string()).collect();
        let group = group.path().display();
        (!left.is_empty()).then(|| {
            format!(
                "processes are left in the run's control group {group}: {}",
                left.join(", ")
            )
        })
    }

    fn take(&self, report: GuardReport, on_event: &impl Fn(GuardEvent)) {
        match &report {
            GuardReport::Started { .. } => {
                self.started.send(Ok(())).ok();
            }
            GuardReport::Spawned { service, pid } => {
                let mut known = lock(&self.shared.known);
                known.main_pids.insert(service.clone(), *pid);
                if let Some(plan) = known.starting.remove(service) {
                    known.plans.insert(service.clone(), plan);
                }
            }
            GuardReport::SpawnFailed { service, .. } => {
                lock(&self.shared.known).starting.remove(service);
            }
            GuardReport::Gone { service } => {
                let mut known = lock(&self.shared.known);
                known.plans.remove(service);
                known.main_pids.remove(service);
            }
            GuardReport::AllGone => {
                let left = self.left_in_group();
                let mut known = lock(&self.shared.known);
                known.all_gone = true;
                known.unsure = known.unsure.take().or(left);
                drop(known);
                self.shared.changed.notify_all();
            }
            // After the start nobody receives from this channel.
            GuardReport::Refused { error, .. } => {
                self.started.send(Err(error.clone())).ok();
            }
            GuardReport::Exited { .. } | GuardReport::Signalled { .. } => {}
        }
        on_event(GuardEvent::Report(report));
    }
}
