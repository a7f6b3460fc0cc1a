//! The own workers of sites, as services that are up on demand.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use orch_journal::failure::ServiceFailure;
use orch_scrape::sites::{OwnWorkers, WorkerRequest};
use orch_supervisor::worker::site_worker::service_name;
use orch_supervisor::{OnDemand, ServiceRequest};

/// A request for a service that is the worker of one site.
struct RequestedService(ServiceRequest);

impl WorkerRequest for RequestedService {
    fn usable(&self) -> BoxFuture<'_, Result<(), ServiceFailure>> {
        self.0.usable().boxed()
    }

    fn given_up(&self) -> BoxFuture<'_, ServiceFailure> {
        self.0.given_up().boxed()
    }
}

/// Returns the handle with which sites request their own workers from the supervisor.
pub(super) fn own_workers(services: &OnDemand) -> OwnWorkers {
    let services = services.clone();
    OwnWorkers::new(move |site| Box::new(RequestedService(services.request(service_name(site)))))
}
