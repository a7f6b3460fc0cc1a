//! Requests to stop sites of a run, with the process that asked. The reader of stop requests writes here; the run of
//! the sites reads.
//!
//! Not here: how a request arrives, and how a site is stopped ([`crate::sites`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use orch_journal::{RequestSender, SiteName};

/// Requests to stop sites. Cheap to clone; clones share one state. A request stays until a
/// person lets the site begin again.
#[derive(Clone, Debug, Default)]
pub struct StopRequests(Arc<StopRequestState>);

#[derive(Debug, Default)]
struct StopRequestState {
    requests: Mutex<BTreeMap<SiteName, RequestSender>>,
    /// Number of requests so far.
    count: watch::Sender<usize>,
}

impl StopRequests {
    /// Requests the stop of a site. A request for a site that is not in the run, or has ended, has no effect.
    pub fn add(&self, site: SiteName, by: RequestSender) {
        // The first request counts as the cause.
        self.requests().entry(site).or_insert(by);
        self.0.count.send_modify(|count| *count += 1);
    }

    /// Forgets the request, because the site begins again.
    pub(crate) fn remove(&self, site: &SiteName) {
        self.requests().remove(site);
    }

    /// Locks the requests. A panic elsewhere leaves no half-written entry.
    fn requests(&self) -> MutexGuard<'_, BTreeMap<SiteName, RequestSender>> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the stop of this site is requested.
    pub fn is_requested(&self, site: &SiteName) -> bool {
        self.requests().contains_key(site)
    }

    pub(crate) fn of(&self, site: &SiteName) -> Option<RequestSender> {
        self.requests().get(site).cloned()
    }

    pub fn all(&self) -> Vec<(SiteName, RequestSender)> {
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
    pub async fn wait_for(&self, site: &SiteName) -> RequestSender {
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
