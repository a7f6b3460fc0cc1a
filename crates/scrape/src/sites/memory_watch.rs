//! Memory check of a run: reads the memory while sites wait for a turn, and reports once why they wait.

use std::time::Duration;

use crate::schedule::memory_gate::{AdmissionLimit, GateChange, MemoryGate, SiteLoad};
use orch_base::system::memory::MemoryReader;
use orch_journal::{EventKind, Recorder, SiteName};

/// Memory check of a run.
#[derive(Clone, Debug)]
pub struct MemoryWatch {
    gate: MemoryGate,
    reader: MemoryReader,
    /// The failure to read the memory has been reported.
    is_blind: bool,
}

impl MemoryWatch {
    /// Time between two checks.
    pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

    /// Creates the check that keeps `reserve` bytes available; `None` for 0, because then there is nothing to check.
    pub fn new(reserve: u64) -> Option<Self> {
        (reserve > 0).then(|| Self {
            gate: MemoryGate::new(reserve),
            reader: MemoryReader::of_this_process(),
            is_blind: false,
        })
    }

    /// Age below which a site may still grow to its expected memory peak.
    pub const SETTLING_DELAY: Duration = Duration::from_secs(60);

    /// Returns how many sites may begin now.
    pub(crate) fn check(&mut self, sites: SiteLoad, now: Duration, recorder: &Recorder) -> AdmissionLimit {
        let reading = match self.reader.read() {
            Ok(reading) => reading,
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    let reason = error.to_string();
                    recorder.emit(EventKind::MemoryCheckFailed { reason });
                }
                return AdmissionLimit::All;
            }
        };
        let (admissions, news) = self.gate.apply_reading(&reading, sites, now);
        match news {
            Some(GateChange::Shut(shortage)) => recorder.emit(EventKind::MemoryGateShut { shortage }),
            Some(GateChange::Opened) => recorder.emit(EventKind::MemoryGateOpened),
            Some(GateChange::ForcedAdmission(shortage)) => recorder.emit(EventKind::MemoryGateForced { shortage }),
            None => {}
        }
        admissions
    }
}

/// Reports that a site waits only for memory.
pub(crate) fn report_memory_wait(site: &SiteName, memory: u64, recorder: &Recorder) {
    recorder.emit(EventKind::SiteMemoryAwaited {
        site: site.clone(),
        memory_bytes: memory,
    });
}
