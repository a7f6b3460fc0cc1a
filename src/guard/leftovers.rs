//! Ending what dead runs have left: by pid and start time from their records, and by the run id in the environment.
//!
//! Never by name. A pid is held by a pidfd while it is checked who has it, so that its reuse cannot hit a stranger.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::process_table;
use super::{RUN_ID_VARIABLE, SERVICE_VARIABLE, records};

/// How long the end of killed processes is awaited.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// What was ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Pid and service of each process.
    pub ended: Vec<(i32, String)>,
}

impl Leftovers {
    /// Whether there was nothing.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self
            .ended
            .iter()
            .map(|(pid, service)| format!("{service} ({pid})"))
            .collect();
        write!(formatter, "ended what dead runs had left: {}", list.join(", "))
    }
}

/// Sends SIGKILL to the process of this pid if it started at this time; whether it did.
pub fn kill_exactly(pid: i32, start_time: u64) -> bool {
    let Some(held) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return false;
    };
    // From here on the pid may be reused, but not what is held.
    let same = process_table::look_up(pid).is_some_and(|process| process.start_time == start_time && !process.zombie);
    same && pidfd_send_signal(&held, Signal::KILL).is_ok()
}

/// Ends what the dead runs of this state directory have left. The caller holds the instance's lock: every run that is
/// recorded there is dead.
///
/// # Errors
/// The records cannot be read.
pub fn end_leftovers(state_dir: &Path) -> io::Result<Leftovers> {
    let runs = records::read_all(state_dir)?;
    if runs.is_empty() {
        return Ok(Leftovers::default());
    }
    let dead: BTreeSet<&str> = runs.iter().map(|(run_id, _, _)| run_id.as_str()).collect();
    let recorded: Vec<&records::Record> = runs.iter().flat_map(|(_, _, records)| records).collect();
    let mut leftovers = Leftovers::default();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut alive = false;
        for process in process_table::all().into_iter().filter(|process| !process.zombie) {
            let record = recorded
                .iter()
                .find(|record| record.pid == process.pid && record.start_time == process.start_time)
                .map(|record| record.service.clone());
            let tagged = || {
                let run_id = process_table::variable(process.pid, RUN_ID_VARIABLE)?;
                dead.contains(run_id.as_str()).then(|| {
                    process_table::variable(process.pid, SERVICE_VARIABLE).unwrap_or_else(|| "a service".to_owned())
                })
            };
            // A session outlives its leader: what daemonised halfway is known by it.
            let of_session = || {
                let leader = recorded.iter().find(|record| record.pid == process.session)?;
                (process.start_time >= leader.start_time && !process_table::is_alive(leader.pid))
                    .then(|| leader.service.clone())
            };
            let Some(service) = record.or_else(tagged).or_else(of_session) else {
                continue;
            };
            if kill_exactly(process.pid, process.start_time) {
                alive = true;
                if !leftovers.ended.iter().any(|(pid, _)| *pid == process.pid) {
                    leftovers.ended.push((process.pid, service));
                }
            }
        }
        if !alive || Instant::now() >= deadline {
            break;
        }
        std::thread::park_timeout(PAUSE);
    }
    for (_, path, _) in &runs {
        std::fs::remove_file(path)?;
    }
    Ok(leftovers)
}
