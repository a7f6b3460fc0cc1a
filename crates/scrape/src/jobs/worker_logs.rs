//! Logs of the workers that execute the tasks of sites.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use orch_journal::SiteName;

/// Files to which workers write.
#[derive(Clone, Debug, Default)]
pub struct WorkerLogs {
    /// Log of the worker for all sites without a worker of their own; `None`: another program owns the worker.
    pub shared: Option<PathBuf>,
    /// Logs of the sites' own workers.
    pub own: BTreeMap<SiteName, PathBuf>,
}

impl WorkerLogs {
    /// Returns the log of the worker that executes the tasks of a site, or those of no site.
    pub(crate) fn of(&self, site: Option<&SiteName>) -> Option<&Path> {
        let own = site.and_then(|site| self.own.get(site));
        own.or(self.shared.as_ref()).map(PathBuf::as_path)
    }
}
