//! First event of a run: the run itself, and its plan.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::event_values::{PlannedService, RunCommand};
use crate::ids::{RunId, SiteName};
use crate::resumption::Resumption;

/// First event of a run: the run itself, and its plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    /// Version of the journal's format; readers refuse a greater one.
    pub format: u32,
    pub run_id: RunId,
    pub command: RunCommand,
    /// Version of orch.
    pub version: String,
    pub instance: String,
    pub config: PathBuf,
    /// `<state>/runs/<run id>`.
    pub directory: PathBuf,
    pub pid: i32,
    pub guard_pid: i32,
    pub services: Vec<PlannedService>,
    pub sites: Vec<SiteName>,
    /// The run that this one continues, with the progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumes: Option<Resumption>,
}
