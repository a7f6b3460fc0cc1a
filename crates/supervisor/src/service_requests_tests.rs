//! Tests of requests to one service: a table of all states, and random orders of requests and inputs.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::states::{ServiceInput, ServiceRole};
use orch_config::{RestartPolicy, RestartWhen};
use orch_journal::failure::ServiceFailure;

const NO_AWAITED: &str = "";
const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core_dumped: false,
};

fn service(role: ServiceRole) -> Service {
    Service::new("web".into(), role, PathBuf::from("/log"))
}

fn daemon() -> Service {
    let restart = RestartPolicy {
        when: RestartWhen::Always,
        backoff: Duration::from_millis(250),
        backoff_max: Duration::from_secs(30),
        jitter: 0.0,
        limit: 2,
        window: Duration::from_secs(300),
        stable: Duration::from_secs(30),
    };
    service(ServiceRole::Daemon {
        restart,
        liveness_failures: 3,
        ready_at_spawn: false,
    })
}

fn in_state(state: ServiceState) -> Service {
    let mut service = daemon();
    service.state = state;
    service
}

fn failure() -> ServiceFailure {
    ServiceFailure::infrastructure("no")
}

fn ending(then: AfterStop) -> ServiceState {
    ServiceState::Ending {
        ready_for: None,
        reason: "it was killed".to_owned(),
        status: None,
        then,
    }
}

/// Lists every state with its answers to stop, start and restart, and the state after each.
fn table() -> Vec<(ServiceState, [(RequestResult, ServiceState); 3])> {
    use RequestResult::{Done, NothingToDo as Nothing, Refused};
    use ServiceState as S;
    let now = Instant::now();
    let by_request = |then| S::Ending {
        ready_for: None,
        reason: "a request ended it".to_owned(),
        status: None,
        then,
    };
    let ready = S::Ready {
        since: now,
        pid: 7,
        failed_probes: 0,
    };
    let of_ready = |then| S::Ending {
        ready_for: Some(Duration::ZERO),
        reason: "a request ended it".to_owned(),
        status: None,
        then,
    };
    let (stay, again) = (AfterStop::StayStopped, AfterStop::StartAgain);
    let (preparing, spawning) = (S::Preparing { since: now }, S::Starting { since: now, pid: None });
    let starting = S::Starting {
        since: now,
        pid: Some(7),
    };
    let same = |state: &S, stop, start, restart| {
        let row = |result| (result, state.clone());
        (state.clone(), [row(stop), row(start), row(restart)])
    };
    let row = |state: &S, stop: (RequestResult, S), start, restart| (state.clone(), [stop, start, restart]);
    let backing_off = S::BackingOff { until: now };
    let reused = S::Reused { unhealthy: true };
    let mut rows = vec![
        row(
            &S::Waiting,
            (Done, S::Stopped),
            (Nothing, S::Waiting),
            (Nothing, S::Waiting),
        ),
        row(
            &preparing,
            (Done, S::Stopped),
            (Nothing, preparing.clone()),
            (Nothing, preparing.clone()),
        ),
        row(
            &ready,
            (Done, of_ready(stay.clone())),
            (Nothing, ready.clone()),
            (Done, of_ready(again.clone())),
        ),
        row(&backing_off, (Done, S::Stopped), (Done, S::Waiting), (Done, S::Waiting)),
        same(&reused, Refused, Nothing, Refused),
        row(
            &S::Completed,
            (Nothing, S::Completed),
            (Nothing, S::Completed),
            (Done, S::Waiting),
        ),
    ];
    for state in [&spawning, &starting] {
        rows.push(row(
            state,
            (Done, by_request(stay.clone())),
            (Nothing, state.clone()),
            (Done, by_request(again.clone())),
        ));
    }
    for state in [S::Down, S::Stopped, S::Failed] {
        rows.push(row(
            &state,
            (Nothing, state.clone()),
            (Done, S::Waiting),
            (Done, S::Waiting),
        ));
    }
    let (stops, starts) = (ending(stay.clone()), ending(again.clone()));
    for (then, stop, start) in [
        (AfterStop::StayStopped, Nothing, Done),
        (AfterStop::StayDown, Nothing, Done),
        (AfterStop::StartAgain, Done, Nothing),
        (AfterStop::Recycle, Done, Nothing),
        (AfterStop::ApplyRestartPolicy, Done, Done),
        (AfterStop::Fail(failure()), Nothing, Done),
    ] {
        let state = ending(then);
        let after = |result, wanted: &S| match result {
            Done => (Done, wanted.clone()),
            other => (other, state.clone()),
        };
        rows.push((
            state.clone(),
            [after(stop, &stops), after(start, &starts), after(start, &starts)],
        ));
    }
    rows
}

const VERBS: [ServiceVerb; 3] = [ServiceVerb::Stop, ServiceVerb::Start, ServiceVerb::Restart];

#[test]
fn every_state_answers_every_request() {
    for (state, answers) in table() {
        for (verb, (result, next)) in VERBS.into_iter().zip(answers) {
            let mut service = in_state(state.clone());
            let now = match state {
                ServiceState::Ready { since, .. } => since,
                _ => Instant::now(),
            };
            let answer = service.request(verb, NO_AWAITED, now);
            assert_eq!(
                (answer.result, &service.state),
                (result, &next),
                "{verb:?} in {state:?}"
            );
            assert!(answer.detail.starts_with("web "), "{}", answer.detail);
            if result != RequestResult::Done {
                assert!(answer.actions.is_empty(), "{verb:?} in {state:?}");
            }
        }
    }
}

#[test]
fn a_service_that_waits_names_its_dependencies() {
    let answer = daemon().request(ServiceVerb::Restart, "redis", Instant::now());
    assert_eq!(answer.result, RequestResult::NothingToDo);
    assert_eq!(answer.detail, "web starts as soon as it can use redis");
}

/// One step of a random life: an input of the driver, or a request.
#[derive(Clone, Debug)]
enum LifeStep {
    Input(ServiceInput),
    Request(ServiceVerb),
}

fn any_step() -> impl Strategy<Value = LifeStep> {
    let input = prop_oneof![
        Just(ServiceInput::DependenciesReady),
        Just(ServiceInput::FoundHealthy("there".into())),
        Just(ServiceInput::Prepared),
        Just(ServiceInput::PrepareFailed(failure())),
        Just(ServiceInput::Spawned(7)),
        Just(ServiceInput::SpawnFailed(failure())),
        Just(ServiceInput::BecameReady("up".into())),
        Just(ServiceInput::ReadinessFailed(failure())),
        Just(ServiceInput::LivenessPassed),
        Just(ServiceInput::LivenessFailed("no".into())),
        Just(ServiceInput::Exited(KILLED)),
        Just(ServiceInput::Exited(ExitStatus::Code(0))),
        Just(ServiceInput::Gone),
        Just(ServiceInput::BackoffElapsed),
        Just(ServiceInput::MemoryLimitExceeded("much".into())),
    ];
    prop_oneof![
        3 => input.prop_map(LifeStep::Input),
        1 => proptest::sample::select(VERBS.to_vec()).prop_map(LifeStep::Request),
    ]
}

fn any_role() -> impl Strategy<Value = Service> {
    prop_oneof![Just(daemon()), Just(service(ServiceRole::Oneshot))]
}

/// Gives a service the inputs that its driver and the guard would give it, until nothing more happens.
fn settle(service: &mut Service) {
    let now = Instant::now();
    for _ in 0..20 {
        let input = match &service.state {
            ServiceState::Waiting => ServiceInput::DependenciesReady,
            ServiceState::Preparing { .. } => ServiceInput::Prepared,
            ServiceState::Starting { pid: None, .. } => ServiceInput::Spawned(7),
            ServiceState::Starting { .. } => match service.role {
                ServiceRole::Oneshot => ServiceInput::Exited(ExitStatus::Code(0)),
                ServiceRole::Daemon { .. } => ServiceInput::BecameReady("up".into()),
            },
            ServiceState::Ending { .. } => ServiceInput::Gone,
            ServiceState::BackingOff { .. } => ServiceInput::BackoffElapsed,
            ServiceState::Ready { .. }
            | ServiceState::Reused { .. }
            | ServiceState::Completed
            | ServiceState::Down
            | ServiceState::Stopped
            | ServiceState::Failed => return,
        };
        service.step(input, now, 0.5);
    }
    panic!("the service does not settle: {:?}", service.state);
}

proptest! {
    #[test]
    fn no_order_of_requests_and_inputs_spawns_twice_or_starts_what_is_stopped(
        mut service in any_role(),
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let now = Instant::now();
        let mut alive = false;
        for step in steps {
            let before = service.state.clone();
            let actions = match step {
                LifeStep::Input(input) => {
                    let actions = service.step(input, now, 0.5);
                    if matches!(before, ServiceState::Stopped | ServiceState::Failed) {
                        prop_assert!(actions.is_empty() && service.state == before, "{before:?}: {actions:?}");
                    }
                    actions
                }
                LifeStep::Request(verb) => {
                    let answer = service.request(verb, NO_AWAITED, now);
                    prop_assert!(!answer.detail.is_empty());
                    let changed = service.state != before;
                    prop_assert_eq!(changed, answer.result == RequestResult::Done, "{:?} in {:?}", verb, before);
                    answer.actions
                }
            };
            for action in actions {
                if action == ServiceAction::Spawn {
                    prop_assert!(!alive, "spawned while the last process was not gone");
                    alive = true;
                }
            }
            if !matches!(
                service.state,
                ServiceState::Starting { .. } | ServiceState::Ready { .. } | ServiceState::Ending { .. }
            ) {
                alive = false;
            }
        }
    }

    #[test]
    fn a_stopped_service_stays_down_until_a_request_starts_it(
        mut service in any_role(),
        before in prop::collection::vec(any_step(), 0..60),
        after in prop::collection::vec(any_step(), 0..60),
    ) {
        let now = Instant::now();
        for step in before {
            match step {
                LifeStep::Input(input) => drop(service.step(input, now, 0.5)),
                LifeStep::Request(verb) => drop(service.request(verb, NO_AWAITED, now)),
            }
        }
        let answer = service.request(ServiceVerb::Stop, NO_AWAITED, now);
        if answer.result == RequestResult::Done {
            for step in after {
                if let LifeStep::Input(input) = step {
                    let actions = service.step(input, now, 0.5);
                    prop_assert!(!actions.contains(&ServiceAction::Spawn), "{actions:?}");
                }
            }
            settle(&mut service);
            prop_assert_eq!(&service.state, &ServiceState::Stopped);
        }
        // From wherever it is, a start leads to a running or completed service.
        settle(&mut service);
        service.request(ServiceVerb::Start, NO_AWAITED, now);
        settle(&mut service);
        prop_assert!(service.is_usable(), "{:?}", service.state);
    }
}
