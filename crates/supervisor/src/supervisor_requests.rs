//! The supervisor's part in requests of persons to services: finds the service, passes the request to the pure state
//! machine, answers, and performs the actions.

use std::time::Instant;

use crate::service_requests::{ServiceAnswer, ServiceVerb};
use crate::states::ServiceState;
use crate::supervised::SupervisedService;
use crate::supervisor::Supervisor;
use orch_journal::{PendingRequest, ServiceName};

impl Supervisor {
    /// Answers a request at once, and begins the requested action.
    pub(crate) fn handle_request(&mut self, name: &ServiceName, verb: ServiceVerb, request: PendingRequest) {
        let Some(index) = self.services.find(name.as_str()) else {
            return request.refuse(format!("the run has no service {name}"));
        };
        let awaited = self.awaited_dependencies(index);
        let Some(entry) = self.services.entries.get_mut(index) else {
            return;
        };
        if entry.program.is_on_demand() && !is_of_running_service(entry, verb) {
            return request.refuse(format!(
                "{name} runs only while its site needs it: a request can restart it while it runs"
            ));
        }
        let ServiceAnswer {
            result,
            detail,
            actions,
        } = entry.service.request(verb, &awaited, Instant::now());
        // Comes before the events of the effect, which the requesting command looks for after the answer.
        request.answer(result, detail);
        for action in actions {
            // None of these actions has a result of its own: the guard reports the ends of processes.
            self.perform(index, action);
        }
    }

    /// Describes the dependencies that a service waits for; empty if there are none.
    fn awaited_dependencies(&self, index: usize) -> String {
        let unusable = self.services.unusable_dependencies(index, &self.order).into_iter();
        let described = unusable.filter_map(|index| {
            let service = &self.services.entries.get(index)?.service;
            Some(match service.state {
                ServiceState::Stopped => format!("{}, which is stopped", service.name),
                ServiceState::Failed => format!("{}, which has failed", service.name),
                _ => service.name.to_string(),
            })
        });
        described.collect::<Vec<_>>().join(" and ")
    }
}

fn is_of_running_service(entry: &SupervisedService, verb: ServiceVerb) -> bool {
    let runs = matches!(
        entry.service.state,
        ServiceState::Starting { .. } | ServiceState::Ready { .. }
    );
    verb == ServiceVerb::Restart && entry.demand.is_wanted() && runs
}
