//! Tests of a service's state machine, input by input.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use orch_config::{RestartPolicy, RestartWhen};
use orch_journal::failure::ServiceFailure;

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
    Service::new(
        "web".into(),
        ServiceRole::Daemon {
            restart,
            liveness_failures: 3,
            ready_at_spawn: false,
        },
        PathBuf::from("/log"),
    )
}

fn oneshot() -> Service {
    Service::new("tables".into(), ServiceRole::Oneshot, PathBuf::from("/log"))
}

const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core_dumped: false,
};

fn drive(service: &mut Service, inputs: impl IntoIterator<Item = ServiceInput>) -> Vec<ServiceAction> {
    let now = Instant::now();
    inputs
        .into_iter()
        .flat_map(|input| service.step(input, now, 0.5))
        .collect()
}

fn up() -> [ServiceInput; 4] {
    [
        ServiceInput::DependenciesReady,
        ServiceInput::Prepared,
        ServiceInput::Spawned(7),
        ServiceInput::BecameReady("it".into()),
    ]
}

#[test]
fn comes_up_and_is_restarted_at_once_after_its_first_death() {
    let mut service = daemon();
    drive(&mut service, up());
    assert!(service.is_usable());
    let actions = drive(&mut service, [ServiceInput::Exited(KILLED)]);
    assert!(matches!(
        actions[..],
        [
            ServiceAction::StopProbes,
            ServiceAction::Emit(EventKind::ServiceExited { .. })
        ]
    ));
    assert!(!service.is_usable(), "dependents must not start on a dead service");
    let actions = drive(&mut service, [ServiceInput::Gone]);
    assert!(
        matches!(
            &actions[..],
            [ServiceAction::Emit(EventKind::ServiceRestarting {
                attempt: 1,
                backoff_ms: 0,
                ..
            })]
        ),
        "{actions:?}"
    );
    assert_eq!(service.state, ServiceState::Waiting);
}

#[test]
fn gives_up_after_the_limit() {
    let mut service = daemon();
    for _ in 0..2 {
        drive(&mut service, up());
        drive(
            &mut service,
            [
                ServiceInput::Exited(KILLED),
                ServiceInput::Gone,
                ServiceInput::BackoffElapsed,
            ],
        );
        assert_eq!(service.state, ServiceState::Waiting);
    }
    drive(&mut service, up());
    let actions = drive(&mut service, [ServiceInput::Exited(KILLED), ServiceInput::Gone]);
    let Some(ServiceAction::GiveUp(failure)) = actions.last() else {
        panic!("{actions:?}")
    };
    assert!(failure.summary.contains("after 2 restarts"), "{failure}");
}

#[test]
fn an_exit_by_itself_before_readiness_fails_the_start_but_a_signal_does_not() {
    let mut service = daemon();
    drive(&mut service, up().into_iter().take(3));
    let actions = drive(
        &mut service,
        [ServiceInput::Exited(ExitStatus::Code(1)), ServiceInput::Gone],
    );
    assert!(matches!(actions.last(), Some(ServiceAction::GiveUp(_))), "{actions:?}");
    let mut service = daemon();
    drive(&mut service, up().into_iter().take(3));
    drive(&mut service, [ServiceInput::Exited(KILLED), ServiceInput::Gone]);
    assert_eq!(service.state, ServiceState::Waiting);
}

/// Returns a daemon that has been ready, has died, and is about to be started again.
fn died_once() -> Service {
    let mut service = daemon();
    drive(&mut service, up());
    drive(&mut service, [ServiceInput::Exited(KILLED), ServiceInput::Gone]);
    assert_eq!(service.state, ServiceState::Waiting);
    service
}

#[test]
fn a_start_that_fails_after_a_first_success_is_tried_again_and_the_very_first_is_not() {
    let refused = || ServiceFailure::infrastructure("could not start `web`").with_cause("no such program");
    for inputs in [
        vec![ServiceInput::DependenciesReady, ServiceInput::PrepareFailed(refused())],
        vec![
            ServiceInput::DependenciesReady,
            ServiceInput::Prepared,
            ServiceInput::SpawnFailed(refused()),
        ],
    ] {
        let mut fresh = daemon();
        let actions = drive(&mut fresh, inputs.clone());
        assert!(matches!(actions.last(), Some(ServiceAction::GiveUp(_))), "{actions:?}");
        let mut once = oneshot();
        drive(&mut once, inputs.clone());
        assert_eq!(once.state, ServiceState::Failed);

        let mut service = died_once();
        let actions = drive(&mut service, inputs.clone());
        let Some(ServiceAction::Emit(EventKind::ServiceRestarting { backoff_ms, reason, .. })) =
            actions.get(actions.len() - 2)
        else {
            panic!("{actions:?}")
        };
        assert_eq!(
            (*backoff_ms, reason.as_str()),
            (250, "could not start `web`: no such program")
        );
        assert!(matches!(service.state, ServiceState::BackingOff { .. }));
        assert!(!service.is_usable());
        // The cause is gone: the service is up again, and only the death counts towards the limit of two restarts.
        drive(&mut service, [ServiceInput::BackoffElapsed]);
        drive(&mut service, up());
        drive(
            &mut service,
            [
                ServiceInput::Exited(KILLED),
                ServiceInput::Gone,
                ServiceInput::BackoffElapsed,
            ],
        );
        assert_eq!(service.state, ServiceState::Waiting);

        // The cause stays.
        let mut service = died_once();
        let mut now = Instant::now();
        let mut last = Vec::new();
        for _ in 0..3 {
            now += Duration::from_secs(30);
            let again = inputs.iter().cloned().chain([ServiceInput::BackoffElapsed]);
            last = again.flat_map(|input| service.step(input, now, 0.5)).collect();
        }
        let Some(ServiceAction::GiveUp(failure)) = last.last() else {
            panic!("{last:?}")
        };
        assert!(failure.summary.contains("tried again 2 times"), "{failure}");
        assert_eq!(service.state, ServiceState::Failed);
    }
}

#[test]
fn only_a_series_of_failed_liveness_probes_counts_as_dead() {
    let mut service = daemon();
    drive(&mut service, up());
    let failed = || ServiceInput::LivenessFailed("no answer".into());
    drive(
        &mut service,
        [failed(), failed(), ServiceInput::LivenessPassed, failed(), failed()],
    );
    assert!(matches!(service.state, ServiceState::Ready { failed_probes: 2, .. }));
    let actions = drive(&mut service, [failed()]);
    assert_eq!(actions, [ServiceAction::StopProbes, ServiceAction::StopTree]);
    drive(&mut service, [ServiceInput::Exited(KILLED), ServiceInput::Gone]);
    assert_eq!(service.state, ServiceState::Waiting);
}

#[test]
fn an_unhealthy_reused_service_is_reported_once() {
    let mut service = daemon();
    drive(
        &mut service,
        [
            ServiceInput::DependenciesReady,
            ServiceInput::FoundHealthy("there".into()),
        ],
    );
    let failed = || ServiceInput::LivenessFailed("no answer".into());
    assert_eq!(drive(&mut service, [failed(), failed()]).len(), 1);
    assert!(service.is_usable());
    assert_eq!(
        drive(&mut service, [ServiceInput::LivenessPassed, failed(), failed()]).len(),
        1
    );
}

#[test]
fn a_oneshot_completes_with_code_0_only() {
    let mut service = oneshot();
    drive(&mut service, up().into_iter().take(3));
    drive(
        &mut service,
        [ServiceInput::Exited(ExitStatus::Code(0)), ServiceInput::Gone],
    );
    assert_eq!(service.state, ServiceState::Completed);
    let mut service = oneshot();
    drive(&mut service, up().into_iter().take(3));
    let actions = drive(&mut service, [ServiceInput::Exited(KILLED), ServiceInput::Gone]);
    assert!(matches!(actions.last(), Some(ServiceAction::GiveUp(_))), "{actions:?}");
}

fn any_input() -> impl Strategy<Value = ServiceInput> {
    prop_oneof![
        Just(ServiceInput::DependenciesReady),
        Just(ServiceInput::FoundHealthy("there".into())),
        Just(ServiceInput::Prepared),
        Just(ServiceInput::PrepareFailed(ServiceFailure::infrastructure("no"))),
        Just(ServiceInput::Spawned(7)),
        Just(ServiceInput::SpawnFailed(ServiceFailure::infrastructure("no"))),
        Just(ServiceInput::BecameReady("it".into())),
        Just(ServiceInput::ReadinessFailed(ServiceFailure::infrastructure("late"))),
        Just(ServiceInput::LivenessPassed),
        Just(ServiceInput::LivenessFailed("no".into())),
        Just(ServiceInput::Exited(KILLED)),
        Just(ServiceInput::Exited(ExitStatus::Code(0))),
        Just(ServiceInput::Gone),
        Just(ServiceInput::BackoffElapsed),
        Just(ServiceInput::MemoryLimitExceeded("much".into())),
        Just(ServiceInput::Needed),
        Just(ServiceInput::NotNeeded),
    ]
}

#[test]
fn a_service_that_is_not_needed_stays_down_until_it_is_needed() {
    let mut service = daemon();
    drive(&mut service, up());
    let actions = drive(&mut service, [ServiceInput::NotNeeded]);
    assert!(actions.contains(&ServiceAction::StopTree), "{actions:?}");
    // The restart policy is not applied, whatever the exit status is.
    let actions = drive(&mut service, [ServiceInput::Exited(KILLED), ServiceInput::Gone]);
    assert!(
        matches!(
            actions.as_slice(),
            [ServiceAction::Emit(EventKind::ServiceStopped { .. })]
        ),
        "{actions:?}"
    );
    assert_eq!(service.state, ServiceState::Waiting);
    drive(&mut service, up());
    assert!(service.is_usable());

    // A service that is about to be started again stays down, too.
    let mut dead = daemon();
    drive(&mut dead, up());
    drive(
        &mut dead,
        [
            ServiceInput::Exited(KILLED),
            ServiceInput::NotNeeded,
            ServiceInput::Gone,
        ],
    );
    assert_eq!(dead.state, ServiceState::Waiting);
    let mut starting = daemon();
    drive(
        &mut starting,
        [ServiceInput::DependenciesReady, ServiceInput::NotNeeded],
    );
    assert_eq!(starting.state, ServiceState::Waiting);
    assert!(drive(&mut starting, [ServiceInput::NotNeeded]).is_empty());
}

#[test]
fn a_service_above_its_limit_is_started_again_whatever_the_policy_says() {
    let mut service = daemon();
    if let ServiceRole::Daemon { restart, .. } = &mut service.role {
        restart.when = RestartWhen::Never;
    }
    let mut now = Instant::now();
    let mut overgrown = |service: &mut Service, after: u64| {
        up().into_iter().for_each(|input| drop(service.step(input, now, 0.5)));
        now += Duration::from_secs(after);
        let end = [
            ServiceInput::MemoryLimitExceeded("much".into()),
            ServiceInput::Exited(ExitStatus::Code(0)),
            ServiceInput::Gone,
        ];
        end.into_iter()
            .flat_map(|input| service.step(input, now, 0.5))
            .collect::<Vec<_>>()
    };
    for _ in 0..10 {
        let actions = overgrown(&mut service, 30);
        assert!(actions.contains(&ServiceAction::StopTree), "{actions:?}");
        assert_eq!(service.state, ServiceState::Waiting);
    }
    // A service that exceeds the limit soon after each start is in a crash loop.
    overgrown(&mut service, 1);
    assert_eq!(service.state, ServiceState::Waiting);
    overgrown(&mut service, 1);
    assert!(matches!(service.state, ServiceState::BackingOff { .. }));
    service.step(ServiceInput::BackoffElapsed, Instant::now(), 0.5);
    overgrown(&mut service, 1);
    assert_eq!(service.state, ServiceState::Failed);
}

#[test]
fn a_start_that_fails_for_good_is_not_tried_again() {
    for (failure, is_final) in [
        (ServiceFailure::infrastructure("no"), false),
        (ServiceFailure::infrastructure("no").permanent(), true),
    ] {
        let mut service = daemon();
        drive(&mut service, up());
        drive(
            &mut service,
            [
                ServiceInput::Exited(ExitStatus::Code(1)),
                ServiceInput::Gone,
                ServiceInput::BackoffElapsed,
                ServiceInput::DependenciesReady,
                ServiceInput::PrepareFailed(failure),
            ],
        );
        assert_eq!(service.state == ServiceState::Failed, is_final, "{:?}", service.state);
    }
}

#[test]
fn a_service_that_was_given_up_is_tried_again_when_it_is_needed() {
    let mut service = daemon();
    let refused = ServiceFailure::infrastructure("no");
    drive(
        &mut service,
        [ServiceInput::DependenciesReady, ServiceInput::PrepareFailed(refused)],
    );
    drive(&mut service, [ServiceInput::NotNeeded]);
    assert_eq!(service.state, ServiceState::Failed);
    drive(&mut service, [ServiceInput::Needed]);
    drive(&mut service, up());
    assert!(service.is_usable());
}

proptest! {
    #[test]
    fn no_order_of_inputs_spawns_twice_or_revives_the_failed(inputs in prop::collection::vec(any_input(), 0..60)) {
        let mut service = daemon();
        let now = Instant::now();
        let mut alive = false;
        for input in inputs {
            let was_failed = service.state == ServiceState::Failed;
            let actions = service.step(input.clone(), now, 0.5);
            if was_failed {
                prop_assert!(actions.is_empty());
            }
            for action in actions {
                if action == ServiceAction::Spawn {
                    prop_assert!(!alive, "spawned while the last one was not gone");
                    alive = true;
                }
            }
            if matches!(service.state, ServiceState::Waiting | ServiceState::BackingOff { .. } | ServiceState::Failed) {
                alive = false;
            }
        }
    }
}
