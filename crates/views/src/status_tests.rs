//! Tests of the status of runs: the judgement, and the lines for people.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::run_conditions::RunConditions;
use crate::status::{LeftProcesses, ObservedRun, RunLife, ServiceUse, StatusPart};
use orch_journal::any_event;
use orch_journal::{
    Event, EventKind, JOURNAL_FORMAT, PlannedService, RunCommand, RunStart, RunState, ServiceName, SiteCounts,
    SiteStatus, StopReason,
};

fn observed(kinds: &[EventKind], life: RunLife) -> ObservedRun {
    let (mut state, mut conditions) = (RunState::default(), RunConditions::default());
    for (seq, kind) in (1..).zip(kinds) {
        let elapsed = seq as f64;
        state.apply(&Event {
            seq,
            at: 1000.0 + elapsed,
            elapsed,
            kind: kind.clone(),
        });
        conditions.apply(kind);
    }
    ObservedRun {
        now: state.elapsed + 60.0,
        state,
        life,
        conditions,
        uses: BTreeMap::new(),
    }
}

fn started(services: &[&str], sites: &[&str]) -> EventKind {
    let planned = |name: &&str| PlannedService {
        name: ServiceName::new(*name),
        oneshot: false,
    };
    EventKind::RunStarted(RunStart {
        format: JOURNAL_FORMAT,
        run_id: "3a1b".into(),
        command: RunCommand::Run,
        version: String::new(),
        instance: "shop".to_owned(),
        config: "orch.toml".into(),
        directory: "/state/runs/3a1b".into(),
        pid: 7,
        guard_pid: 8,
        services: services.iter().map(planned).collect(),
        sites: sites.iter().map(|site| (*site).into()).collect(),
        resumes: None,
    })
}

fn over(died_at: Option<f64>) -> RunLife {
    RunLife::Over {
        died_at,
        left: LeftProcesses::Ended,
    }
}

fn ready(service: &str) -> EventKind {
    EventKind::ServiceReady {
        service: ServiceName::new(service),
        elapsed_ms: 1,
        detail: "on 127.0.0.1:6379".to_owned(),
    }
}

fn finished(site: &str, status: SiteStatus) -> EventKind {
    EventKind::SiteFinished {
        site: site.into(),
        status,
        counts: SiteCounts::default(),
        elapsed_ms: 1,
        reason: None,
        dependency: None,
        cause: None,
    }
}

fn text(run: &ObservedRun) -> String {
    let lines = run.lines(None);
    lines.iter().map(|line| format!("{}\n", line.whole(false))).collect()
}

#[test]
fn a_run_is_well_if_its_services_are_ready_and_no_site_has_a_problem() {
    let start = started(&["redis", "web"], &["a", "b"]);
    let reason = || "it exited".to_owned();
    let failed = EventKind::ServiceFailed {
        service: ServiceName::new("web"),
        reason: reason(),
        log: None,
    };
    let stopping = EventKind::StopStarted {
        reason: StopReason::Terminate,
        bound_ms: 1,
    };
    for (events, problems) in [
        (vec![], vec!["the run is starting"]),
        (vec![start.clone()], vec!["2 services not ready yet: redis, web"]),
        (vec![start.clone(), ready("redis"), ready("web")], vec![]),
        (
            vec![start.clone(), ready("redis"), failed],
            vec!["service web has failed: it exited"],
        ),
        (
            vec![
                start.clone(),
                ready("redis"),
                ready("web"),
                finished("a", SiteStatus::Complete),
            ],
            vec![],
        ),
        (
            vec![
                start.clone(),
                ready("redis"),
                ready("web"),
                finished("a", SiteStatus::Failed),
            ],
            vec!["1 site failed: a"],
        ),
        (
            vec![start, stopping],
            vec!["the run is stopping after SIGTERM for 1m00s"],
        ),
    ] {
        let run = observed(&events, RunLife::Active);
        assert_eq!(run.problems(), problems);
        assert_eq!(run.is_well(), problems.is_empty());
        let ended = observed(&events, over(None));
        assert!(!ended.is_well() && ended.problems().is_empty());
    }
}

#[test]
fn the_lines_show_use_and_life_and_stay_short() {
    let sites: Vec<String> = (0..3000).map(|number| format!("site-{number}")).collect();
    let sites: Vec<&str> = sites.iter().map(String::as_str).collect();
    let services: Vec<String> = (0..300).map(|number| format!("service-{number}")).collect();
    let mut names: Vec<&str> = services.iter().map(String::as_str).collect();
    names.push("redis");
    let mut run = observed(&[started(&names, &sites), ready("redis")], RunLife::Active);
    run.uses.insert(
        ServiceName::new("redis"),
        ServiceUse {
            processes: 2,
            cpu_percent: 12.4,
            cpu_seconds: 9.0,
            rss_bytes: 12 << 20,
            ports: vec![6379, 6380, 6381, 6382],
        },
    );
    let shown = text(&run);
    assert!(shown.lines().count() < 60, "{shown}");
    assert!(
        shown.contains("+282 more services") && shown.contains("+2981 more sites"),
        "{shown}"
    );
    let StatusPart::Service(redis) = run.parts("redis")[0] else {
        panic!("a service")
    };
    let details: String = run
        .part_lines(StatusPart::Service(redis))
        .iter()
        .map(|line| format!("{}\n", line.whole(false)))
        .collect();
    assert!(
        details.contains("2 processes, CPU 12%, RSS 12 MiB, port 6379,6380,6381,…, 0 restarts"),
        "{details}"
    );
    run.life = RunLife::EndedByGuard {
        guard_pid: Some(8),
        died_at: Some(1030.0),
        stop_bound: Duration::from_millis(4500),
    };
    let shown = text(&run);
    assert!(
        shown.contains("orch has died at ") && shown.contains("(33s ago)"),
        "{shown}"
    );
    assert!(
        shown.contains("its guard (pid 8) ends its processes, within 5s"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_events_can_be_shown(events in proptest::collection::vec(any_event(), 0..20)) {
        let kinds: Vec<EventKind> = events.into_iter().map(|event| event.kind).collect();
        for life in [RunLife::Active, over(Some(f64::MAX))] {
            let run = observed(&kinds, life);
            let shown = text(&run);
            prop_assert!(!shown.contains(|letter: char| letter.is_control() && letter != '\n'));
            for name in run.names() {
                for part in run.parts(name) {
                    run.part_lines(part);
                    run.is_part_well(part);
                }
            }
        }
    }
}
