//! Requests to stop sites of a run, with the process that asked. The reader of stop requests writes here; the run of
//! the sites reads.
//!
//! Not here: how a request arrives, and how a site is stopped ([`crate::sites`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use orch_journal::SiteName;

/// Process that requested the stop of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequester {
    /// Pid of the requesting process.
    pub pid: i32,
    pub user: String,
}

/// Writes for example `pid 12 of user alice`.
impl fmt::Display for StopRequester {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pid {} of user {}", self.pid, self.user)
    }
}

/// Requests to stop sites. Cheap to clone; clones share one state. A request stays: a stopped site is stopped for the
/// rest of the run.
#[derive(Clone, Debug, Default)]
pub struct StopRequests(Arc<StopRequestState>);

#[derive(Debug, Default)]
struct StopRequestState {
    requests: Mutex<BTreeMap<SiteName, StopRequester>>,
    /// Number of sites with a stop request.
    count: watch::Sender<usize>,
}

impl StopRequests {
    /// Requests the stop of a site. A request for a site that is not in the run, or has ended, has no effect.
    pub fn add(&self, site: SiteName, by: StopRequester) {
        let count = {
            let mut requests = self.requests();
            // The first request counts as the cause.
            requests.entry(site).or_insert(by);
            requests.len()
        };
        self.0.count.send_replace(count);
    }

    /// Locks the requests. A panic elsewhere leaves no half-written entry.
    fn requests(&self) -> MutexGuard<'_, BTreeMap<SiteName, StopRequester>> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn of(&self, site: &SiteName) -> Option<StopRequester> {
        self.requests().get(site).cloned()
    }

    pub fn all(&self) -> Vec<(SiteName, StopRequester)> {
        self.requests()
            .iter()
            .map(|(site, by)| (site.clone(), by.clone()))
            .collect()
    }

    /// Returns the number of requests, which rises with each one.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.0.count.subscribe()
    }

    /// Waits until the stop of this site is requested. Safe to cancel.
    pub async fn wait_for(&self, site: &SiteName) -> StopRequester {
        let mut count = self.count();
        loop {
            count.borrow_and_update();
            if let Some(by) = self.of(site) {
                return by;
            }
            if count.changed().await.is_err() {
                // The channel stays open while this handle exists.
                std::future::pending::<()>().await;
            }
        }
    }
}
