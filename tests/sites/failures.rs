//! Failed tasks: the first one of each kind of error is recorded with traceback and log, all are counted at the end.

use orch::journal::{EventKind, FailedTask, SiteErrors, SiteStatus, TaskEndKind};
use orch::scrape::sites::{JobContext, WorkerLogs};
use serde_json::json;

use crate::scene::{Scene, dispatched, report, run, run_all, site};
use crate::support::celery::WorkerOptions;

fn failed_of(scene: &Scene, name: &str) -> Vec<FailedTask> {
    let failed = |event| match event {
        EventKind::TaskFailed(failed) if failed.site.as_ref().is_some_and(|site| site.as_str() == name) => {
            Some(*failed)
        }
        _ => None,
    };
    scene.events().into_iter().filter_map(failed).collect()
}

fn counted_of(scene: &Scene, name: &str) -> Vec<(String, u64)> {
    let counted = |event| match event {
        EventKind::SiteErrorsCounted(SiteErrors { site, errors, .. }) if site.as_str() == name => Some(errors),
        _ => None,
    };
    let errors = scene.events().into_iter().filter_map(counted).flatten();
    errors.map(|error| (error.signature, error.count)).collect()
}

/// Returns the context with the log of the test's worker.
fn with_log(scene: &Scene) -> JobContext {
    let log = scene
        .worker
        .as_ref()
        .expect("a worker runs")
        .process
        .log_path()
        .to_owned();
    JobContext {
        worker_logs: std::sync::Arc::new(WorkerLogs {
            shared: Some(log),
            ..WorkerLogs::default()
        }),
        ..scene.context.clone()
    }
}

#[test]
fn each_end_of_a_task_without_success_has_a_kind_of_its_own() {
    let scene = Scene::new();
    let context = with_log(&scene);
    let ends = [
        (
            "raises",
            TaskEndKind::Raised,
            "ValueError: page 7 of http://shop.test/p/7 is 'empty'",
        ),
        ("too_long", TaskEndKind::TimeLimit, "SoftTimeLimitExceeded"),
        ("far_too_long", TaskEndKind::TimeLimit, "TimeLimitExceeded"),
        ("killed", TaskEndKind::ProcessLost, "WorkerLostError"),
        ("unstorable", TaskEndKind::ResultUnstorable, "EncodeError"),
        ("rejected", TaskEndKind::Rejected, "rejected"),
        ("expired", TaskEndKind::Expired, "TaskRevokedError: expired"),
    ];
    let sites = ends
        .iter()
        .map(|(how, ..)| site(how, "jobs.dispatch_end", json!({ "how": how })));
    let mut sites: Vec<_> = sites.collect();
    sites.push(site("dispatch", "jobs.raises", json!({})));
    let reports = run(run_all(&context, sites, 16));
    for (how, kind, exception) in ends {
        let report = report(&reports, how);
        assert_eq!(report.status, SiteStatus::Failed, "{report:#?}");
        let failed = failed_of(&scene, how);
        let [failed] = failed.as_slice() else {
            panic!("{how}: {failed:#?}")
        };
        assert_eq!(failed.kind, kind, "{failed:#?}");
        assert!(failed.exception.starts_with(exception), "{failed:#?}");
        assert_eq!(counted_of(&scene, how), [(failed.signature.clone(), 1)]);
        assert_eq!(failed.chunk.unwrap_or(1), 1, "{failed:#?}");
    }
    let raised = &failed_of(&scene, "raises")[0];
    assert_eq!(raised.signature, "ValueError: page <n> of <url> is <text>");
    assert_eq!(raised.task.as_deref(), Some("jobs.one_end"));
    let traceback = raised.traceback.as_deref().unwrap_or_default();
    assert!(
        traceback.contains("in one_end") && traceback.contains("ValueError: page 7"),
        "{traceback}"
    );
    let log = raised.log.as_ref().expect("the worker has a log");
    assert!(log.lines.last().expect("lines").contains(&raised.task_id), "{log:#?}");

    let dispatch = &failed_of(&scene, "dispatch")[0];
    assert_eq!(dispatch.task.as_deref(), Some("jobs.raises"));
    assert_eq!(
        (dispatch.exception.as_str(), dispatch.chunk),
        ("RuntimeError: dispatch has moved", None)
    );
}

#[test]
fn failures_of_one_kind_are_one_error_over_all_chunks() {
    let scene = Scene::new();
    let sites = vec![
        dispatched("broken", json!({"fail": true, "chunks": 5})),
        dispatched("whole", json!({"chunks": 3})),
    ];
    run(run_all(&scene.context, sites, 2));
    let failed = failed_of(&scene, "broken");
    assert_eq!(failed.len(), 1, "{failed:#?}");
    let counted = counted_of(&scene, "broken");
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert_eq!(counted[0].0, "ValueError: chunk <n> is broken");
    // The attempt ends with the first failures; the other chunks may not have run.
    assert!((1..=5).contains(&counted[0].1), "{counted:?}");
    assert_eq!(counted_of(&scene, "whole"), []);
}

#[test]
fn without_events_the_results_show_the_failures() {
    let mut scene = Scene::without_worker();
    scene.start_worker_with_app(
        "jobs_app",
        WorkerOptions {
            concurrency: 2,
            events: false,
            ..WorkerOptions::default()
        },
    );
    let sites = vec![
        dispatched("broken", json!({"fail": true, "chunks": 4})),
        site("raises", "jobs.raises", json!({})),
    ];
    let reports = run(run_all(&scene.context, sites, 2));
    assert_eq!(report(&reports, "broken").status, SiteStatus::Failed);
    let failed = failed_of(&scene, "broken");
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert!(failed[0].exception.starts_with("ValueError: chunk "), "{failed:#?}");
    let dispatch = failed_of(&scene, "raises");
    assert_eq!(dispatch.len(), 1, "{dispatch:#?}");
    let traceback = dispatch[0].traceback.as_deref().unwrap_or_default();
    assert!(traceback.contains("in raises"), "{traceback}");
}
