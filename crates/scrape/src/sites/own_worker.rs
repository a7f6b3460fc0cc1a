//! Workers that execute the tasks of one site only. Another part of the program keeps such a worker up while a request for it
//! lives.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use orch_journal::SiteName;
use orch_journal::failure::ServiceFailure;

/// A request for a site's own worker, which is needed until this value is dropped.
pub trait WorkerRequest: Send + Sync {
    /// Waits until the worker can be used.
    ///
    /// # Errors
    /// The worker was given up.
    fn usable(&self) -> BoxFuture<'_, Result<(), ServiceFailure>>;

    /// Waits until the worker is given up; for ever if that does not happen.
    fn given_up(&self) -> BoxFuture<'_, ServiceFailure>;
}

type RequestFunction = dyn Fn(&SiteName) -> Box<dyn WorkerRequest> + Send + Sync;

/// A handle that requests the own workers of sites. Cheap to clone.
#[derive(Clone)]
pub struct OwnWorkers(Arc<RequestFunction>);

impl OwnWorkers {
    pub fn new(request: impl Fn(&SiteName) -> Box<dyn WorkerRequest> + Send + Sync + 'static) -> Self {
        Self(Arc::new(request))
    }

    pub(crate) fn request(&self, site: &SiteName) -> Box<dyn WorkerRequest> {
        (self.0)(site)
    }
}

impl fmt::Debug for OwnWorkers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OwnWorkers").finish_non_exhaustive()
    }
}
