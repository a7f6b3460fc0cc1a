//! The end of everything that belongs to the run: all descendants at once, the control group, the records.

use std::collections::BTreeSet;
use std::io;

use super::kill_tree::{RemainingProcesses, kill_children, kill_descendants};
use crate::control_group::RunGroup;
use crate::log::log;
use crate::records::RunRecords;
use orch_base::system::processes;

/// The traces of the run, and the progress of their removal.
pub struct RunCleanup {
    pub records: RunRecords,
    /// The control group that contains this process and all started processes.
    group: Option<RunGroup>,
    /// The kernel has been asked to end the whole group.
    group_ended: bool,
    /// Recorded processes that the guard may not end: pid and start time.
    refused: BTreeSet<(i32, u64)>,
    /// The last logged text about a stop that makes no progress.
    complaint: Option<String>,
}

impl RunCleanup {
    /// Returns the traces of a run that has just begun.
    pub fn new(records: RunRecords, group: Option<RunGroup>) -> Self {
        Self {
            records,
            group,
            group_ended: false,
            refused: BTreeSet::new(),
            complaint: None,
        }
    }

    /// Kills all descendants, and returns the processes that were seen.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn kill_all(&mut self) -> io::Result<RemainingProcesses> {
        if kill_children() {
            return Ok(RemainingProcesses::default());
        }
        if self.kill_group() {
            return Ok(RemainingProcesses {
                any: true,
                ..RemainingProcesses::default()
            });
        }
        kill_descendants()
    }

    /// Asks the kernel once to end the whole control group; returns true if the kernel does.
    fn kill_group(&mut self) -> bool {
        let Some(group) = self.group.as_ref().filter(|_| !self.group_ended) else {
            return false;
        };
        self.group_ended = true;
        // This process leaves the group first; otherwise the kernel would kill it as well.
        let ended = group.leave().and_then(|()| group.kill());
        if let Err(error) = &ended {
            log(&format!("could not end {}: {error}", group.path().display()));
        }
        ended.is_ok()
    }

    /// Logs and records processes of other users, which cannot be ended. Each is recorded once: after a stop that was
    /// too slow, `orch clean` must still find them.
    pub fn note_refused(&mut self, refused: &BTreeSet<i32>, to_kill: &[String]) {
        if refused.is_empty() {
            return;
        }
        for pid in refused {
            let Ok(Some(process)) = processes::look_up(*pid) else {
                continue;
            };
            if !self.refused.insert((*pid, process.start_time)) {
                continue;
            }
            let service = match to_kill {
                [one] => one.clone(),
                _ => "a service".to_owned(),
            };
            if let Err(error) = self.records.record_unkillable(*pid, process.start_time, &service) {
                log(&format!(
                    "could not record process {pid}, which cannot be ended: {error}"
                ));
            }
        }
        let pids: Vec<String> = refused.iter().map(ToString::to_string).collect();
        let pids = pids.join(", ");
        self.complain(format!(
            "waiting for processes of another user, which the guard may not end: {pids}"
        ));
    }

    /// Logs the cause of a delayed stop, once for each cause.
    pub fn complain(&mut self, text: String) {
        if self.complaint.as_ref() != Some(&text) {
            log(&text);
            self.complaint = Some(text);
        }
    }

    /// Removes the traces of the run, of which nothing is left. After a goodbye, orch waits for the end of this process
    /// and then removes the group: to leave the group would take the kernel many milliseconds, the removal does not.
    pub fn close(&self, removes_group: bool) {
        self.records.remove();
        if removes_group
            && let Some(group) = &self.group
            && group.leave().is_ok()
        {
            group.remove();
        }
    }
}
