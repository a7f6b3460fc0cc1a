//! Jobs whose end no result reports, and the fallbacks of orch.

use std::time::Duration;

use orch::celery::ControlTarget;
use orch::config::DynamicTimeout;
use orch::journal::{EventKind, FollowStage, SiteStatus};
use serde_json::json;

use crate::scene::{PACE, Scene, dispatched, report, run, run_all, site};
use crate::support::celery::WorkerOptions;

#[test]
fn jobs_without_a_result_are_followed_by_keys_and_events() {
    use FollowStage::*;
    let scene = Scene::new();
    let mut late = dispatched("late", json!({"chunks": 4, "seconds": 2.5}));
    late.dynamic_timeout = DynamicTimeout {
        timeout_min: Duration::from_secs(1),
        time_per_chunk: Duration::from_millis(10),
        ..PACE
    };
    let sites = vec![
        late,
        dispatched("no-chord", json!({"answer": "no_chord", "seconds": 0.5})),
        dispatched("header", json!({"answer": "header", "seconds": 0.5})),
        dispatched("no-job", json!({"answer": "nothing", "seconds": 0.5})),
        dispatched(
            "own-id",
            json!({"answer": "nothing", "seconds": 0.5, "job_id": "{job_id}"}),
        ),
        dispatched("ignored-callback", json!({"callback": "jobs.aggregate_ignored"})),
        dispatched(
            "ignored-untracked",
            json!({"callback": "jobs.aggregate_ignored", "track": false}),
        ),
        site("ignored-dispatch", "jobs.dispatch_ignored", json!({})),
        site(
            "ignored-all",
            "jobs.dispatch_ignored",
            json!({"answer": "nothing", "seconds": 0.3}),
        ),
        site(
            "ignored-broken",
            "jobs.dispatch_ignored",
            json!({"answer": "nothing", "fail": true}),
        ),
    ];
    let reports = run(run_all(&scene.context, sites, 16));
    for (name, stages, status) in [
        // The dynamic timeout passes first; the result of the chord still counts when it comes.
        ("late", vec![Chord, ProgressKeys], SiteStatus::Complete),
        ("no-chord", vec![ProgressKeys], SiteStatus::Complete),
        ("header", vec![ProgressKeys], SiteStatus::Complete),
        ("no-job", vec![TaskEvents], SiteStatus::Complete),
        ("own-id", vec![ProgressKeys], SiteStatus::Complete),
        ("ignored-callback", vec![Chord, TaskEvents], SiteStatus::Complete),
        ("ignored-untracked", vec![Chord, TaskEvents], SiteStatus::Complete),
        ("ignored-dispatch", vec![Chord], SiteStatus::Complete),
        ("ignored-all", vec![TaskEvents], SiteStatus::Complete),
        ("ignored-broken", vec![TaskEvents], SiteStatus::Failed),
    ] {
        let report = report(&reports, name);
        assert_eq!(report.status, status, "{report:#?}\n{:#?}", scene.stages(name));
        assert_eq!(scene.stage_names(name), stages, "{:#?}", scene.stages(name));
    }
    assert_eq!(scene.stages("late")[1].1, "the chord has no result after 1s");
    // Not before the end of the work.
    for (name, results) in [("no-chord", 6), ("own-id", 6), ("header", 6)] {
        assert_eq!(report(&reports, name).counts.results, Some(results), "{name}");
    }
}

#[test]
fn a_callback_that_leaves_neither_result_nor_event_is_judged_by_the_keys() {
    let mut scene = Scene::without_worker();
    scene.start_worker_with(WorkerOptions {
        concurrency: 4,
        events: false,
        ..WorkerOptions::default()
    });
    let sites = vec![
        dispatched("tracked", json!({"callback": "jobs.aggregate_ignored", "seconds": 1})),
        dispatched(
            "unfinished",
            json!({"callback": "jobs.aggregate_ignored", "seconds": 1, "status": "AGGREGATING"}),
        ),
    ];
    let reports = run(async {
        let silence = async {
            for name in ["tracked", "unfinished"] {
                let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { site, .. } if site.as_str() == name);
                scene.until("the job's start", started).await;
            }
            let control = scene.context.celery.control();
            let sent = control
                .call("disable_events", json!({}), &ControlTarget::All, Duration::from_secs(5))
                .await;
            sent.expect("the worker obeys");
        };
        tokio::join!(run_all(&scene.context, sites, 4), silence).0
    });
    let tracked = report(&reports, "tracked");
    assert_eq!(tracked.status, SiteStatus::Complete, "{tracked:#?}");
    assert_eq!(scene.stage_names("tracked"), [FollowStage::Chord]);
    let unfinished = report(&reports, "unfinished");
    assert_eq!(unfinished.status, SiteStatus::Unknown, "{unfinished:#?}");
    let reason = unfinished.reason.as_deref().unwrap_or_default();
    assert!(
        reason.contains("the end of the chord's callback is not known") && reason.contains("status AGGREGATING"),
        "{reason}"
    );
}
