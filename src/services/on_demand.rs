//! Services that are up only while somebody needs them, such as a site's own worker.
//!
//! A need is a value: as long as it lives the supervisor keeps the service up; dropped, it stops it by its stop plan.
//! One that is given up is told to who needs it, and is no reason to end the run.

use tokio::sync::{mpsc, watch};

use super::failure::Failure;
use super::inbox::Message;
use crate::run::ServiceName;

/// How a needed service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    /// Being started, or started again.
    Coming,
    Usable,
    GivenUp(Failure),
}

/// Asks the supervisor for services. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OnDemand(Option<mpsc::UnboundedSender<Message>>);

impl OnDemand {
    pub(super) fn new(sender: mpsc::UnboundedSender<Message>) -> Self {
        Self(Some(sender))
    }

    /// Has it started. One need of a service at a time: a second takes the place of the first.
    pub fn need(&self, name: ServiceName) -> Needed {
        let (tell, availability) = watch::channel(Availability::Coming);
        let asked = Message::Needed {
            name: name.clone(),
            tell,
        };
        match &self.0 {
            // A supervisor that is gone has taken the run with it.
            Some(sender) => drop(sender.send(asked)),
            None => asked.refuse(),
        }
        Needed {
            name,
            sender: self.0.clone(),
            availability,
        }
    }
}

/// A service that is needed until this is dropped.
#[must_use]
pub struct Needed {
    name: ServiceName,
    sender: Option<mpsc::UnboundedSender<Message>>,
    availability: watch::Receiver<Availability>,
}

impl Needed {
    /// Waits until it can be used; the supervisor bounds the wait by the service's own limits.
    ///
    /// # Errors
    /// It was given up.
    pub async fn usable(&self) -> Result<(), Failure> {
        match self.until(|availability| *availability != Availability::Coming).await {
            Availability::GivenUp(failure) => Err(failure),
            Availability::Coming | Availability::Usable => Ok(()),
        }
    }

    /// Waits until it is given up, for ever where it is not.
    pub async fn given_up(&self) -> Failure {
        loop {
            let given_up = |availability: &Availability| matches!(availability, Availability::GivenUp(_));
            if let Availability::GivenUp(failure) = self.until(given_up).await {
                return failure;
            }
        }
    }

    async fn until(&self, wanted: impl Fn(&Availability) -> bool) -> Availability {
        let mut availability = self.availability.clone();
        let found = availability
            .wait_for(|now| wanted(now))
            .await
            .map(|found| found.clone());
        match found {
            Ok(found) => found,
            // The supervisor is gone: its end is what the run returns.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Needed {
    fn drop(&mut self) {
        if let Some(sender) = &self.sender {
            let name = self.name.clone();
            drop(sender.send(Message::NotNeeded { name }));
        }
    }
}
