//! Snapshot of a run: the result of [`RunState::apply`] over all events so far. Views draw only this; `summary.json` is
//! the last one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::totals::RunTotals;
use super::views::{LeftoversView, ProxiesView, ServiceView, SiteView, StopView};
use crate::event_values::RunCommand;
use crate::facts::admission_change::SiteAdmission;
use crate::ids::{RunId, SiteName};
use crate::run_outcome::RunOutcome;

/// State of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub header: Option<RunHeader>,
    /// Sequence number of the last event.
    pub seq: u64,
    /// Wall clock of the first and the last event, Unix seconds.
    pub started_at: f64,
    pub updated_at: f64,
    /// Seconds from the first to the last event.
    pub elapsed: f64,
    /// Services in start order.
    pub services: Vec<ServiceView>,
    pub leftovers: Option<LeftoversView>,
    pub proxies: ProxiesView,
    /// Sites in the order of the configuration.
    pub sites: Vec<SiteView>,
    /// Index of each site in `sites`, because events look up one of thousands.
    #[serde(skip)]
    pub(crate) site_places: foldhash::HashMap<SiteName, usize>,
    /// Admission of the sites that have not begun.
    #[serde(default)]
    pub admission: SiteAdmission,
    /// Totals of all sites; a snapshot is read without them.
    #[serde(skip_deserializing)]
    pub totals: RunTotals,
    /// Expected end of the last site, in seconds of run time; `None`: not known.
    pub expected_end: Option<f64>,
    pub warnings: u64,
    pub errors: u64,
    pub stop: Option<StopView>,
    pub outcome: Option<RunOutcome>,
    pub exit_code: Option<u8>,
    /// Error as the user sees it, if the run did not succeed.
    pub error: Option<String>,
}

impl RunState {
    /// Returns this state, read from a journal, with everything that a journal does not contain.
    pub(crate) fn restored(&self) -> Self {
        let mut state = self.clone();
        let names = state.sites.iter().map(|site| site.name.clone());
        state.site_places = names.zip(0..).collect();
        state.totals = RunTotals::of(&state.sites);
        state
    }

    /// Returns the site of this name, if an event has mentioned the site.
    pub fn site_named(&self, name: &SiteName) -> Option<&SiteView> {
        self.sites.get(*self.site_places.get(name)?)
    }
}

/// Data of the first event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    pub run_id: RunId,
    pub command: RunCommand,
    pub version: String,
    pub instance: String,
    pub config: PathBuf,
    pub directory: PathBuf,
    pub pid: i32,
    pub guard_pid: i32,
    /// The run that this one continues.
    pub resumes: Option<RunId>,
}
