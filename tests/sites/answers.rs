//! Every kind of result that a dispatch task may return, all sites at once on one worker.

use orch::journal::{EventKind, FollowStage, SiteCounts, SiteStatus};
use serde_json::json;

use crate::scene::{Scene, dispatched, report, run, run_all, site};

#[test]
fn sites_end_as_their_jobs_do() {
    let scene = Scene::new();
    let sites = vec![
        dispatched("dict", json!({})),
        dispatched("text.bg", json!({"answer": "text"})),
        dispatched("json", json!({"answer": "json"})),
        dispatched("untracked", json!({"track": false})),
        dispatched("broken", json!({"fail": true})),
        site("no-urls", "jobs.no_urls", json!({})),
        site("says-error", "jobs.says_error", json!({})),
        site("raises", "jobs.raises", json!({})),
        site("unknown-task", "jobs.no_such_task", json!({})),
        site("whole", "jobs.whole", json!({"seconds": 0.5})),
    ];
    let reports = run(run_all(&scene.context, sites, 16));

    let full = SiteCounts {
        total_urls: Some(12),
        total_chunks: Some(3),
        completed_chunks: Some(3),
        results: Some(6),
        errors: Some(0),
    };
    for name in ["dict", "text.bg", "json"] {
        let report = report(&reports, name);
        assert_eq!(report.status, SiteStatus::Complete, "{report:#?}");
        // The app's own count of errors has precedence over that of the callback.
        assert_eq!(report.counts, full, "{name}");
        assert_eq!(scene.stage_names(name), [FollowStage::Chord], "{name}");
    }
    // Without keys of the app, the result of the callback fills the counts.
    assert_eq!(
        report(&reports, "untracked").counts,
        SiteCounts {
            errors: Some(1),
            ..full
        }
    );

    for (name, reason) in [
        ("broken", "the chord failed: ChordError: Dependency"),
        (
            "says-error",
            "the dispatch task answered with an error: says-error is closed",
        ),
        ("raises", "the dispatch task failed: RuntimeError: raises has moved"),
        ("unknown-task", "the dispatch task failed: NotRegistered"),
    ] {
        let report = report(&reports, name);
        assert_eq!(report.status, SiteStatus::Failed, "{report:#?}");
        assert!(
            report.reason.as_ref().is_some_and(|text| text.starts_with(reason)),
            "{report:#?}"
        );
    }
    assert!(*scene.context.task_failures.borrow() > 0);

    let report_of = |name| report(&reports, name);
    // The job has ended, with no results.
    let nothing = report_of("no-urls");
    assert_eq!(nothing.status, SiteStatus::Degraded);
    assert_eq!((nothing.counts.total_urls, nothing.counts.results), (Some(0), Some(0)));
    let whole = SiteCounts {
        results: Some(7),
        errors: Some(0),
        ..SiteCounts::default()
    };
    assert_eq!(
        (report_of("whole").status, report_of("whole").counts),
        (SiteStatus::Complete, whole)
    );

    // The events of each site come in their order, the end of the chord before everything that follows from it.
    let of_site = |event: &EventKind| match event {
        EventKind::SiteQueued { site } => (site.as_str() == "dict").then_some("queued"),
        EventKind::SiteDispatched { site, .. } => (site.as_str() == "dict").then_some("dispatched"),
        EventKind::SiteJobStarted { site, .. } => (site.as_str() == "dict").then_some("started"),
        EventKind::SiteStageEntered { site, .. } => (site.as_str() == "dict").then_some("stage"),
        EventKind::SiteChordCompleted { site, .. } => (site.as_str() == "dict").then_some("chord"),
        EventKind::SiteFinished { site, .. } => (site.as_str() == "dict").then_some("finished"),
        _ => None,
    };
    let order: Vec<_> = scene.events().iter().filter_map(of_site).collect();
    assert_eq!(order, ["queued", "dispatched", "started", "stage", "chord", "finished"]);
}

#[test]
fn progress_is_told_while_chunks_end() {
    let scene = Scene::new();
    let reports = run(run_all(
        &scene.context,
        vec![dispatched("slow", json!({"chunks": 12, "seconds": 1}))],
        4,
    ));
    assert_eq!(reports[0].status, SiteStatus::Complete, "{reports:#?}");
    let progress = |event: &EventKind| match event {
        EventKind::SiteProgressed { counts, .. } => counts.completed_chunks,
        _ => None,
    };
    let progress: Vec<u64> = scene.events().iter().filter_map(progress).collect();
    assert!(progress.iter().any(|done| (1..12).contains(done)), "{progress:?}");
    assert!(progress.is_sorted(), "{progress:?}");
}
