//! Status of runs for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::status::{ObservedRun, ServiceUse};
use orch_journal::{RunState, ServiceName};

/// Object that `orch status --json` prints.
#[derive(Debug, Serialize)]
pub struct StatusJson<'r> {
    /// True if something runs, and all of it is as it should be.
    well: bool,
    /// Runs with living processes; the latest run if there are none.
    runs: Vec<RunJson<'r>>,
}

/// One run: the object of `summary.json` with further fields.
#[derive(Debug, Serialize)]
struct RunJson<'r> {
    life: &'static str,
    well: bool,
    problems: Vec<String>,
    /// Time of the death of orch, Unix seconds.
    died_at: Option<f64>,
    /// Run time now, seconds; the times `since` and `started` of services and sites are run times, too.
    now: f64,
    service_use: &'r BTreeMap<ServiceName, ServiceUse>,
    /// Queues with waiting tasks that no worker consumes.
    unconsumed_queues: BTreeMap<&'r str, u64>,
    #[serde(flatten)]
    state: &'r RunState,
}

impl<'r> StatusJson<'r> {
    /// Describes these runs.
    pub fn of(runs: &'r [ObservedRun]) -> Self {
        let describe = |run: &'r ObservedRun| RunJson {
            life: run.life.word(),
            well: run.is_well(),
            problems: run.problems(),
            died_at: run.life.died_at(),
            now: run.now,
            service_use: &run.uses,
            unconsumed_queues: run.conditions.unconsumed_queues(),
            state: &run.state,
        };
        Self {
            well: !runs.is_empty() && runs.iter().all(ObservedRun::is_well),
            runs: runs.iter().map(describe).collect(),
        }
    }
}
