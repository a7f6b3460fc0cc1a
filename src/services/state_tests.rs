//! The life of a service, input by input.

use proptest::prelude::*;

use super::*;
use crate::config::RestartWhen;

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
        Role::Daemon {
            restart,
            liveness_failures: 3,
            ready_at_spawn: false,
        },
        PathBuf::from("/log"),
    )
}

fn oneshot() -> Service {
    Service::new("tables".into(), Role::Oneshot, PathBuf::from("/log"))
}

const KILLED: ExitStatus = ExitStatus::Signal {
    signal: 9,
    core_dumped: false,
};

fn drive(service: &mut Service, inputs: impl IntoIterator<Item = Input>) -> Vec<Action> {
    let now = Instant::now();
    inputs
        .into_iter()
        .flat_map(|input| service.step(input, now, 0.5))
        .collect()
}

fn up() -> [Input; 4] {
    [
        Input::DependenciesReady,
        Input::Prepared,
        Input::Spawned(7),
        Input::BecameReady("it".into()),
    ]
}

#[test]
fn comes_up_and_is_restarted_at_once_after_its_first_death() {
    let mut service = daemon();
    drive(&mut service, up());
    assert!(service.is_usable());
    let actions = drive(&mut service, [Input::Exited(KILLED)]);
    assert!(matches!(
        actions[..],
        [Action::StopProbes, Action::Emit(EventKind::ServiceExited { .. })]
    ));
    assert!(!service.is_usable(), "dependents must not start on a dead service");
    let actions = drive(&mut service, [Input::Gone]);
    assert!(
        matches!(
            &actions[..],
            [Action::Emit(EventKind::ServiceRestarting {
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
            [Input::Exited(KILLED), Input::Gone, Input::BackoffElapsed],
        );
        assert_eq!(service.state, ServiceState::Waiting);
    }
    drive(&mut service, up());
    let actions = drive(&mut service, [Input::Exited(KILLED), Input::Gone]);
    let Some(Action::GiveUp(failure)) = actions.last() else {
        panic!("{actions:?}")
    };
    assert!(failure.what.contains("after 2 restarts"), "{failure}");
}

#[test]
fn an_exit_by_itself_before_readiness_fails_the_start_but_a_signal_does_not() {
    let mut service = daemon();
    drive(&mut service, up().into_iter().take(3));
    let actions = drive(&mut service, [Input::Exited(ExitStatus::Code(1)), Input::Gone]);
    assert!(matches!(actions.last(), Some(Action::GiveUp(_))), "{actions:?}");
    let mut service = daemon();
    drive(&mut service, up().into_iter().take(3));
    drive(&mut service, [Input::Exited(KILLED), Input::Gone]);
    assert_eq!(service.state, ServiceState::Waiting);
}

/// A daemon that has been ready, has died, and is about to be started again.
fn died_once() -> Service {
    let mut service = daemon();
    drive(&mut service, up());
    drive(&mut service, [Input::Exited(KILLED), Input::Gone]);
    assert_eq!(service.state, ServiceState::Waiting);
    service
}

#[test]
fn a_start_that_fails_after_a_first_success_is_tried_again_and_the_very_first_is_not() {
    let refused = || Failure::infrastructure("start `web`").because("no such program");
    for inputs in [
        vec![Input::DependenciesReady, Input::PrepareFailed(refused())],
        vec![Input::DependenciesReady, Input::Prepared, Input::SpawnFailed(refused())],
    ] {
        let mut fresh = daemon();
        let actions = drive(&mut fresh, inputs.clone());
        assert!(matches!(actions.last(), Some(Action::GiveUp(_))), "{actions:?}");
        let mut once = oneshot();
        drive(&mut once, inputs.clone());
        assert_eq!(once.state, ServiceState::Failed);

        let mut service = died_once();
        let actions = drive(&mut service, inputs.clone());
        let Some(Action::Emit(EventKind::ServiceRestarting { backoff_ms, reason, .. })) =
            actions.get(actions.len() - 2)
        else {
            panic!("{actions:?}")
        };
        assert_eq!((*backoff_ms, reason.as_str()), (250, "start `web`: no such program"));
        assert!(matches!(service.state, ServiceState::BackingOff { .. }));
        assert!(!service.is_usable());
        // The cause is gone: it is up again, and has used up none of its two restarts but that of its death.
        drive(&mut service, [Input::BackoffElapsed]);
        drive(&mut service, up());
        drive(
            &mut service,
            [Input::Exited(KILLED), Input::Gone, Input::BackoffElapsed],
        );
        assert_eq!(service.state, ServiceState::Waiting);

        // The cause stays.
        let mut service = died_once();
        let mut now = Instant::now();
        let mut last = Vec::new();
        for _ in 0..3 {
            now += Duration::from_secs(30);
            let again = inputs.iter().cloned().chain([Input::BackoffElapsed]);
            last = again.flat_map(|input| service.step(input, now, 0.5)).collect();
        }
        let Some(Action::GiveUp(failure)) = last.last() else {
            panic!("{last:?}")
        };
        assert!(failure.what.contains("tried again 2 times"), "{failure}");
        assert_eq!(service.state, ServiceState::Failed);
    }
}

#[test]
fn only_a_series_of_failed_liveness_probes_counts_as_dead() {
    let mut service = daemon();
    drive(&mut service, up());
    let failed = || Input::LivenessFailed("no answer".into());
    drive(
        &mut service,
        [failed(), failed(), Input::LivenessPassed, failed(), failed()],
    );
    assert!(matches!(service.state, ServiceState::Ready { failed_probes: 2, .. }));
    let actions = drive(&mut service, [failed()]);
    assert_eq!(actions, [Action::StopProbes, Action::StopTree]);
    drive(&mut service, [Input::Exited(KILLED), Input::Gone]);
    assert_eq!(service.state, ServiceState::Waiting);
}

#[test]
fn a_reused_service_is_said_to_be_unhealthy_once() {
    let mut service = daemon();
    drive(
        &mut service,
        [Input::DependenciesReady, Input::FoundHealthy("there".into())],
    );
    let failed = || Input::LivenessFailed("no answer".into());
    assert_eq!(drive(&mut service, [failed(), failed()]).len(), 1);
    assert!(service.is_usable());
    assert_eq!(
        drive(&mut service, [Input::LivenessPassed, failed(), failed()]).len(),
        1
    );
}

#[test]
fn a_oneshot_completes_with_code_0_only() {
    let mut service = oneshot();
    drive(&mut service, up().into_iter().take(3));
    drive(&mut service, [Input::Exited(ExitStatus::Code(0)), Input::Gone]);
    assert_eq!(service.state, ServiceState::Completed);
    let mut service = oneshot();
    drive(&mut service, up().into_iter().take(3));
    let actions = drive(&mut service, [Input::Exited(KILLED), Input::Gone]);
    assert!(matches!(actions.last(), Some(Action::GiveUp(_))), "{actions:?}");
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::DependenciesReady),
        Just(Input::FoundHealthy("there".into())),
        Just(Input::Prepared),
        Just(Input::PrepareFailed(Failure::infrastructure("no"))),
        Just(Input::Spawned(7)),
        Just(Input::SpawnFailed(Failure::infrastructure("no"))),
        Just(Input::BecameReady("it".into())),
        Just(Input::ReadinessFailed(Failure::infrastructure("late"))),
        Just(Input::LivenessPassed),
        Just(Input::LivenessFailed("no".into())),
        Just(Input::Exited(KILLED)),
        Just(Input::Exited(ExitStatus::Code(0))),
        Just(Input::Gone),
        Just(Input::BackoffElapsed),
        Just(Input::Overgrown("much".into())),
        Just(Input::Needed),
        Just(Input::NotNeeded),
    ]
}

#[test]
fn what_nobody_needs_any_more_ends_and_rests_until_somebody_does() {
    let mut service = daemon();
    drive(&mut service, up());
    let actions = drive(&mut service, [Input::NotNeeded]);
    assert!(actions.contains(&Action::StopTree), "{actions:?}");
    // Whatever its end, nobody judges it.
    let actions = drive(&mut service, [Input::Exited(KILLED), Input::Gone]);
    assert!(
        matches!(actions.as_slice(), [Action::Emit(EventKind::ServiceStopped { .. })]),
        "{actions:?}"
    );
    assert_eq!(service.state, ServiceState::Waiting);
    drive(&mut service, up());
    assert!(service.is_usable());

    // Nor does one that is about to be started again come back.
    let mut dead = daemon();
    drive(&mut dead, up());
    drive(&mut dead, [Input::Exited(KILLED), Input::NotNeeded, Input::Gone]);
    assert_eq!(dead.state, ServiceState::Waiting);
    let mut starting = daemon();
    drive(&mut starting, [Input::DependenciesReady, Input::NotNeeded]);
    assert_eq!(starting.state, ServiceState::Waiting);
    assert!(drive(&mut starting, [Input::NotNeeded]).is_empty());
}

#[test]
fn what_holds_too_much_begins_anew_whatever_the_policy_says_of_its_end() {
    let mut service = daemon();
    if let Role::Daemon { restart, .. } = &mut service.role {
        restart.when = RestartWhen::Never;
    }
    let mut now = Instant::now();
    let mut overgrown = |service: &mut Service, after: u64| {
        up().into_iter().for_each(|input| drop(service.step(input, now, 0.5)));
        now += Duration::from_secs(after);
        let end = [
            Input::Overgrown("much".into()),
            Input::Exited(ExitStatus::Code(0)),
            Input::Gone,
        ];
        end.into_iter()
            .flat_map(|input| service.step(input, now, 0.5))
            .collect::<Vec<_>>()
    };
    for _ in 0..10 {
        let actions = overgrown(&mut service, 30);
        assert!(actions.contains(&Action::StopTree), "{actions:?}");
        assert_eq!(service.state, ServiceState::Waiting);
    }
    // A limit that it is above as soon as it runs is no limit to live with.
    overgrown(&mut service, 1);
    assert_eq!(service.state, ServiceState::Waiting);
    overgrown(&mut service, 1);
    assert!(matches!(service.state, ServiceState::BackingOff { .. }));
    service.step(Input::BackoffElapsed, Instant::now(), 0.5);
    overgrown(&mut service, 1);
    assert_eq!(service.state, ServiceState::Failed);
}

#[test]
fn a_start_that_fails_for_good_is_not_tried_again() {
    for (failure, is_final) in [
        (Failure::infrastructure("no"), false),
        (Failure::infrastructure("no").lasting(), true),
    ] {
        let mut service = daemon();
        drive(&mut service, up());
        drive(
            &mut service,
            [
                Input::Exited(ExitStatus::Code(1)),
                Input::Gone,
                Input::BackoffElapsed,
                Input::DependenciesReady,
                Input::PrepareFailed(failure),
            ],
        );
        assert_eq!(service.state == ServiceState::Failed, is_final, "{:?}", service.state);
    }
}

#[test]
fn what_was_given_up_is_tried_again_for_who_needs_it_anew() {
    let mut service = daemon();
    let refused = Failure::infrastructure("no");
    drive(&mut service, [Input::DependenciesReady, Input::PrepareFailed(refused)]);
    drive(&mut service, [Input::NotNeeded]);
    assert_eq!(service.state, ServiceState::Failed);
    drive(&mut service, [Input::Needed]);
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
                if action == Action::Spawn {
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
