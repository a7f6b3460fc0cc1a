//! Tests of the fold, event by event.

use super::model::RunState;
use super::views::{ServicePhase, SitePhase, SiteView};
use crate::event::{Event, EventKind};
use crate::event_values::{FollowStage, ProgressSource};
use crate::exit_status::ExitStatus;
use crate::ids::{JobId, ServiceName, SiteName};
use crate::site_counts::SiteCounts;
use crate::site_status::SiteStatus;

fn folded(kinds: impl IntoIterator<Item = EventKind>) -> RunState {
    let mut state = RunState::default();
    for (number, kind) in (1_u32..).zip(kinds) {
        state.apply(&Event {
            seq: number.into(),
            at: 1_000.0 + f64::from(number),
            elapsed: f64::from(number),
            kind,
        });
    }
    state
}

#[test]
fn a_new_attempt_inherits_nothing_but_its_start() {
    let site = || SiteName::new("books");
    let chunks = |total| SiteCounts {
        total_chunks: Some(total),
        ..SiteCounts::default()
    };
    let state = folded([
        EventKind::SiteDispatched {
            site: site(),
            attempt: 1,
            task_id: "one".to_owned(),
            job_id: None,
            fencing_token: None,
        },
        EventKind::SiteJobStarted {
            site: site(),
            job_id: JobId::new("job"),
            chord_id: None,
            counts: chunks(9),
            timeout_ms: 1,
        },
        EventKind::SiteStageEntered {
            site: site(),
            stage: FollowStage::Chord,
            reason: String::new(),
        },
        EventKind::SiteProgressed {
            site: site(),
            counts: chunks(9),
            source: ProgressSource::Chord,
        },
        EventKind::SiteRetrying {
            site: site(),
            attempt: 2,
            backoff_ms: 1,
            reason: "its chord failed".to_owned(),
        },
        EventKind::SiteDispatched {
            site: site(),
            attempt: 2,
            task_id: "two".to_owned(),
            job_id: None,
            fencing_token: None,
        },
    ]);
    let expected = SiteView {
        phase: SitePhase::Dispatching,
        attempt: 2,
        started: Some(1.0),
        ..SiteView::waiting(site())
    };
    assert_eq!(state.sites, [expected]);
}

#[test]
fn an_event_costs_the_same_among_many_sites() {
    let begun = std::time::Instant::now();
    let names: Vec<SiteName> = (0..20_000)
        .map(|number| SiteName::new(format!("site{number}")))
        .collect();
    let queued = |site: &SiteName| EventKind::SiteQueued { site: site.clone() };
    let state = folded((0..10).flat_map(|_| names.iter().rev().map(queued)));
    assert_eq!(state.sites.len(), names.len());
    assert_eq!(
        state.site_named(&names[7]).map(|site| site.phase),
        Some(SitePhase::Queued)
    );
    // A linear search for each event would need two thousand million comparisons.
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_service_that_exits_has_no_process_and_one_that_returns_keeps_its_restarts() {
    let redis = || ServiceName::new("redis");
    let mut kinds = vec![
        EventKind::ServiceSpawned {
            service: redis(),
            pid: 7,
        },
        EventKind::ServiceExited {
            service: redis(),
            status: ExitStatus::Code(1),
            log: "redis.log".into(),
        },
    ];
    let down = folded(kinds.clone());
    assert_eq!(
        (down.services[0].phase, down.services[0].pid),
        (ServicePhase::Restarting, None)
    );
    kinds.extend([
        EventKind::ServiceRestarting {
            service: redis(),
            attempt: 1,
            backoff_ms: 0,
            reason: "it exited".to_owned(),
        },
        EventKind::ServiceStarting {
            service: redis(),
            attempt: 2,
        },
        EventKind::ServiceReady {
            service: redis(),
            elapsed_ms: 1,
            detail: "answers".to_owned(),
        },
    ]);
    let up = folded(kinds);
    let view = &up.services[0];
    assert_eq!((view.phase, view.restarts, view.since), (ServicePhase::Ready, 1, 5.0));
    assert_eq!(view.detail, "answers");
}

#[test]
fn the_phase_of_an_ended_site_is_written_as_its_status() {
    let phases = [SitePhase::Ended(SiteStatus::Degraded), SitePhase::Running];
    assert_eq!(
        serde_json::to_value(phases).unwrap(),
        serde_json::json!(["degraded", "running"])
    );
    let counted: std::collections::BTreeMap<SitePhase, u8> = phases.into_iter().zip(1..).collect();
    assert_eq!(
        serde_json::to_string(&counted).unwrap(),
        r#"{"running":2,"degraded":1}"#
    );
}
