//! Logs of the failed tasks of all sites of a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::failure_log::FailureLog;
use orch_journal::{SiteErrors, SiteName};

/// Logs by site. Cheap to clone; clones share one state.
#[derive(Clone, Debug, Default)]
pub struct SiteFailures(Arc<Mutex<BTreeMap<SiteName, FailureLog>>>);

impl SiteFailures {
    /// Returns the log of a site; all attempts at the site share it.
    pub(crate) fn of(&self, site: &SiteName) -> FailureLog {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.entry(site.clone()).or_default().clone()
    }

    /// Takes the counts of a site that has ended; `None` if no task of the site has failed.
    pub(crate) fn take(&self, site: &SiteName) -> Option<SiteErrors> {
        let log = {
            let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            logs.remove(site)?
        };
        let (errors, others) = log.most_frequent();
        (others > 0 || !errors.is_empty()).then(|| SiteErrors {
            site: site.clone(),
            errors,
            others,
        })
    }
}
