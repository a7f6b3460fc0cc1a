//! Services that are up only while a caller needs them, such as a site's own worker.
//!
//! A request for a service is a value: the supervisor keeps the service up as long as the value lives, and runs the
//! stop plan when the value is dropped. If the service is given up, the caller is informed; the run continues.

use tokio::sync::{mpsc, watch};

use crate::inbox::SupervisorMessage;
use crate::states::ServiceAvailability;
use orch_journal::ServiceName;
use orch_journal::failure::ServiceFailure;

/// A handle with which callers request services from the supervisor. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OnDemand(Option<mpsc::UnboundedSender<SupervisorMessage>>);

impl OnDemand {
    pub(crate) fn new(sender: mpsc::UnboundedSender<SupervisorMessage>) -> Self {
        Self(Some(sender))
    }

    /// Requests a service. A service has one request at a time: a second one replaces the first.
    pub fn request(&self, name: ServiceName) -> ServiceRequest {
        let (updates, availability) = watch::channel(ServiceAvailability::Starting);
        let request = SupervisorMessage::Needed {
            name: name.clone(),
            updates,
        };
        match &self.0 {
            // Without the supervisor the run is over, too.
            Some(sender) => drop(sender.send(request)),
            None => request.refuse(),
        }
        ServiceRequest {
            name,
            sender: self.0.clone(),
            availability,
        }
    }
}

/// A request for a service, which is needed until this value is dropped.
#[must_use]
pub struct ServiceRequest {
    name: ServiceName,
    sender: Option<mpsc::UnboundedSender<SupervisorMessage>>,
    availability: watch::Receiver<ServiceAvailability>,
}

impl ServiceRequest {
    /// Waits until the service can be used; the supervisor bounds the wait by the service's own limits.
    ///
    /// # Errors
    /// The service was given up.
    pub async fn usable(&self) -> Result<(), ServiceFailure> {
        match self
            .until(|availability| *availability != ServiceAvailability::Starting)
            .await
        {
            ServiceAvailability::GivenUp(failure) => Err(failure),
            ServiceAvailability::Starting | ServiceAvailability::Usable => Ok(()),
        }
    }

    /// Waits until the service is given up; for ever if that does not happen.
    pub async fn given_up(&self) -> ServiceFailure {
        loop {
            let given_up = |availability: &ServiceAvailability| matches!(availability, ServiceAvailability::GivenUp(_));
            if let ServiceAvailability::GivenUp(failure) = self.until(given_up).await {
                return failure;
            }
        }
    }

    async fn until(&self, wanted: impl Fn(&ServiceAvailability) -> bool) -> ServiceAvailability {
        let mut availability = self.availability.clone();
        let found = availability
            .wait_for(|now| wanted(now))
            .await
            .map(|found| found.clone());
        match found {
            Ok(found) => found,
            // The supervisor is gone: the run returns the error.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for ServiceRequest {
    fn drop(&mut self) {
        if let Some(sender) = &self.sender {
            let name = self.name.clone();
            drop(sender.send(SupervisorMessage::NotNeeded { name }));
        }
    }
}
