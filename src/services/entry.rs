//! One service in the hands of the supervisor: its state, its program, who needs it, the question that is under way.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::on_demand::Availability;
use super::program::Program;
use super::state::Service;
use crate::guard::SpawnOrder;

/// A service as the supervisor knows it.
pub(super) struct Entry {
    pub service: Service,
    pub program: Arc<dyn Program>,
    /// What to spawn once prepared.
    pub order: Option<Box<SpawnOrder>>,
    /// Raised at each start and death: an answer to an older question is not for this one.
    pub generation: u64,
    pub probe: Option<AbortHandle>,
    /// Length of its log before the last spawn: what stands before that was said by an earlier one.
    pub log_offset: u64,
    pub demand: Demand,
    /// The most that its processes have held of memory since it was needed.
    pub peak: u64,
    /// It has been made to begin anew, and is not back yet.
    pub is_renewed: bool,
    /// The user was told why its log is empty.
    pub is_silence_told: bool,
}

/// Whether a service is to be up.
pub(super) enum Demand {
    Always,
    /// For as long as somebody needs it, who is told how it is.
    On(Option<watch::Sender<Availability>>),
}

impl Demand {
    pub fn is_wanted(&self) -> bool {
        !matches!(self, Demand::On(None))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
    }
}

impl Entry {
    /// Not started.
    pub fn new(program: Arc<dyn Program>) -> Self {
        Self {
            service: Service::new(program.name().clone(), program.role(), program.log().to_owned()),
            demand: match program.is_on_demand() {
                true => Demand::On(None),
                false => Demand::Always,
            },
            program,
            order: None,
            generation: 0,
            probe: None,
            log_offset: 0,
            peak: 0,
            is_renewed: false,
            is_silence_told: false,
        }
    }

    /// Tells who needs it how it is.
    pub fn tell(&self) {
        let Demand::On(Some(who)) = &self.demand else { return };
        let now = match self.service.is_usable() {
            true => Availability::Usable,
            false => Availability::Coming,
        };
        who.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Ends the question that is under way, so that at most one runs for a service.
    pub fn next_generation(&mut self) -> u64 {
        if let Some(probe) = self.probe.take() {
            probe.abort();
        }
        self.generation += 1;
        self.generation
    }
}

/// What is started where, for people: a long command (a script in an argument) is cut.
pub(super) fn command_line(order: &SpawnOrder) -> String {
    const SHOWN: usize = 240;
    let words: Vec<String> = order
        .argv
        .iter()
        .map(
            |word| match word.contains([' ', '\t', '\'', '"', '$', '*']) || word.is_empty() {
                true => format!("'{}'", word.replace('\'', "'\\''")),
                false => word.clone(),
            },
        )
        .collect();
    let mut line = words.join(" ").replace(['\n', '\r'], " ");
    if let Some((end, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(end);
        line.push_str("...");
    }
    format!("`{line}` in {}", order.directory.display())
}

/// Length of a log, 0 when there is none.
pub(super) fn log_length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |metadata| metadata.len())
}
