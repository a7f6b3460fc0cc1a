//! Observation of a run from another process: the journal is folded as it grows, and each look adds the life of the run
//! and the use of the machine by its services.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use crate::orchestrator::instance::living_runs::life;
use orch_base::net::socket_owner::listening_ports;
use orch_base::system::tree_use::TreeUse;
use orch_base::wall_clock::unix_now;
use orch_journal::{Event, JournalTail, RunDirectory, RunId, RunState, ServiceName, catch_up};
use orch_views::{ObservedRun, RunConditions, RunLife, ServiceUse};

/// Observer of one run.
pub struct RunObserver {
    run_id: RunId,
    directory: RunDirectory,
    /// `None`: the run has not created its journal yet.
    journal: Option<JournalTail>,
    state: RunState,
    conditions: RunConditions,
    /// Measurements of the last look.
    measured: BTreeMap<ServiceName, TreeUse>,
}

impl RunObserver {
    /// Creates an observer that has read nothing yet.
    pub fn new(run_id: RunId, directory: RunDirectory) -> Self {
        Self {
            run_id,
            directory,
            journal: None,
            state: RunState::default(),
            conditions: RunConditions::default(),
            measured: BTreeMap::new(),
        }
    }

    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    pub fn directory(&self) -> &RunDirectory {
        &self.directory
    }

    /// Reads the new events and looks at the processes.
    ///
    /// # Errors
    /// The journal cannot be read, or a process cannot be looked up.
    pub fn look(&mut self, state_dir: &Path) -> io::Result<ObservedRun> {
        // This order matters: the journal then includes every event that the run wrote before the end.
        let life = life(state_dir, &self.run_id, &self.directory)?;
        self.read()?;
        let uses = match life.is_running() {
            true => self.measure(),
            false => BTreeMap::new(),
        };
        Ok(ObservedRun {
            now: self.run_time(life),
            state: self.state.clone(),
            life,
            conditions: self.conditions.clone(),
            uses,
        })
    }

    fn read(&mut self) -> io::Result<()> {
        let (state, conditions) = (&mut self.state, &mut self.conditions);
        let mut fold = |event: Event| {
            state.apply(&event);
            conditions.apply(&event.kind);
        };
        let Some(journal) = &mut self.journal else {
            match catch_up(&self.directory.journal(), fold) {
                Ok(journal) => self.journal = Some(journal),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            return Ok(());
        };
        while let Some(event) = journal.next_event()? {
            fold(event);
        }
        Ok(())
    }

    /// Measures the services; a process that cannot be measured is left out.
    fn measure(&mut self) -> BTreeMap<ServiceName, ServiceUse> {
        let services = self.state.services.iter();
        let living: Vec<(ServiceName, i32)> = services
            .filter_map(|service| Some((service.name.clone(), service.pid?)))
            .collect();
        let listening = match living.is_empty() {
            true => HashMap::new(),
            false => listening_ports(),
        };
        let (mut uses, mut measured) = (BTreeMap::new(), BTreeMap::new());
        for (name, pid) in living {
            match TreeUse::measure(pid, &listening) {
                Ok(Some(tree)) => {
                    uses.insert(name.clone(), ServiceUse::of(&tree, self.measured.get(&name)));
                    measured.insert(name, tree);
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(service = %name, %error, "could not measure the service"),
            }
        }
        self.measured = measured;
        uses
    }

    /// Returns the run time: by the wall clock, as no other process has the monotonic clock of the run's start.
    fn run_time(&self, life: RunLife) -> f64 {
        let now = unix_now().as_secs_f64();
        match life.is_running() && self.state.seq > 0 {
            true => (now - self.state.started_at).max(self.state.elapsed),
            false => self.state.elapsed,
        }
    }
}
