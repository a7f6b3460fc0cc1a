//! Tasks that wait in a queue that no worker consumes: the queue is named, and the job does not count as complete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orch::celery::ControlTarget;
use orch::journal::RequestSender;
use orch::journal::{EventKind, SiteStatus};
use serde_json::json;

use crate::scene::{Scene, dispatched, report, run, run_all, site};
use crate::support::celery::{Worker, WorkerOptions};

/// Returns the reports of queues without a consumer: the queue, whether it was consumed before, and the workers.
fn reports_of_queues(scene: &Scene) -> Vec<(String, bool, String)> {
    let report = |event| match event {
        EventKind::QueueUnconsumed {
            queue,
            waiting: 1..,
            was_consumed,
            workers,
        } => Some((queue, was_consumed, workers)),
        _ => None,
    };
    scene.events().into_iter().filter_map(report).collect()
}

async fn until_noticed(scene: &Scene) {
    let is_it = |event: &EventKind| matches!(event, EventKind::QueueUnconsumed { .. });
    scene.until("the notice", is_it).await;
}

/// Starts a worker of two processes whose app routes its chunks like this.
fn routed(routes: &'static str) -> Scene {
    let mut scene = Scene::without_worker();
    scene.start_worker_with(WorkerOptions {
        settings: vec![("task_routes", routes)],
        ..WorkerOptions::default()
    });
    scene
}

#[test]
fn chunks_in_a_queue_without_a_consumer_fail_their_site_and_leave_nothing() {
    let scene = routed(r#"{"jobs.chunk": {"queue": "slow"}, "jobs.check_one": {"queue": "later", "priority": 6}}"#);
    let mut dispatch_waits = site("dispatch", "jobs.whole", json!({}));
    dispatch_waits.dispatch.queue = Some("nowhere".to_owned());
    let sites = vec![
        dispatched("named", json!({"chunks": 5})),
        // By its events the job would be complete: one task, which succeeded.
        dispatched("silent", json!({"chunks": 1, "answer": "nothing", "track": false})),
        site("priority", "jobs.checks", json!({"count": 3})),
        dispatch_waits,
        site("good", "jobs.whole", json!({"seconds": 0.5})),
    ];
    let begun = Instant::now();
    let reports = run(run_all(&scene.context, sites, 8));
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());

    assert_eq!(report(&reports, "good").status, SiteStatus::Complete);
    let consumers = "which no worker consumes; worker w1@test consumes celery";
    for (name, waiting) in [
        ("named", "5 of its tasks wait in the queue `slow`"),
        ("silent", "1 of its tasks waits in the queue `slow`"),
        ("priority", "3 of its tasks wait in the queue `later`"),
        ("dispatch", "1 of its tasks waits in the queue `nowhere`"),
    ] {
        let report = report(&reports, name);
        assert_eq!(report.status, SiteStatus::Failed, "{report:#?}");
        assert_eq!(
            report.reason.as_deref(),
            Some(format!("the job can never finish: {waiting}, {consumers}").as_str())
        );
    }
    let mut queues = reports_of_queues(&scene);
    queues.sort();
    let report = |queue: &str| (queue.to_owned(), false, "worker w1@test consumes celery".to_owned());
    assert_eq!(queues, ["later", "nowhere", "slow"].map(report), "one for each queue");

    let left = run(scene.context.celery.broker_queues()).expect("Redis answers");
    let left: BTreeMap<String, u64> = left.messages.into_iter().filter(|(_, count)| *count > 0).collect();
    assert!(left.is_empty(), "another worker would run them: {left:?}");
}

#[test]
fn a_worker_that_comes_to_consume_the_queue_makes_the_job_go_on() {
    let scene = routed(r#"{"jobs.chunk": {"queue": "slow"}}"#);
    let sites = vec![dispatched("books", json!({"chunks": 3, "answer": "nothing"}))];
    let context = scene.context.clone();
    let reports = run(async {
        let help = async {
            until_noticed(&scene).await;
            let options = WorkerOptions {
                app: "jobs_app",
                node: "w2@test",
                arguments: vec!["--queues".to_owned(), "slow".to_owned()],
                ..WorkerOptions::default()
            };
            // The start of the worker blocks the only thread; the grace period goes on during this time.
            Worker::start(&scene.redis, options)
        };
        tokio::join!(run_all(&context, sites, 1), help).0
    });
    assert_eq!(reports[0].status, SiteStatus::Complete, "{reports:#?}");
    assert_eq!(scene.key("jobs:chunks").as_deref(), Some("3"), "{reports:#?}");
}

#[test]
fn a_lost_consumer_is_reported_and_the_job_waits_for_it() {
    let mut scene = Scene::without_worker();
    scene.start_worker(1);
    let sites = vec![dispatched("books", json!({"chunks": 30, "seconds": 0.1}))];
    let context = scene.context.clone();
    let (reports, notice) = run(async {
        let cancel = async {
            let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
            scene.until("the chord's start", started).await;
            let control = scene.context.celery.control();
            let within = Duration::from_secs(5);
            let answers = control.cancel_consumer("celery", &ControlTarget::All, within).await;
            assert_eq!(answers.expect("Redis answers").good().count(), 1);
            until_noticed(&scene).await;
            let notice = reports_of_queues(&scene).remove(0);
            let answers = control.add_consumer("celery", &ControlTarget::All, within).await;
            assert_eq!(answers.expect("Redis answers").good().count(), 1);
            notice
        };
        tokio::join!(run_all(&context, sites, 1), cancel)
    });
    let workers = "worker w1@test consumes no queue".to_owned();
    assert_eq!(notice, ("celery".to_owned(), true, workers));
    assert_eq!(reports[0].status, SiteStatus::Complete, "{reports:#?}");
    assert_eq!(reports[0].counts.completed_chunks, Some(30), "{reports:#?}");
}

#[test]
fn a_site_that_is_stopped_leaves_nothing_in_a_queue_that_nobody_has_named() {
    let scene = routed(r#"{"jobs.chunk": {"queue": "slow", "priority": 9}}"#);
    let sites = vec![dispatched("books", json!({"chunks": 60}))];
    let context = scene.context.clone();
    let reports = run(async {
        let stop = async {
            let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
            scene.until("the chord's start", started).await;
            let asker = RequestSender {
                pid: 12,
                user: "alice".to_owned(),
            };
            scene.context.stop_requests.add("books".into(), asker);
        };
        tokio::join!(run_all(&context, sites, 1), stop).0
    });
    assert_eq!(reports[0].status, SiteStatus::Cancelled, "{reports:#?}");
    let left = run(scene.context.celery.broker_queues()).expect("Redis answers");
    assert!(left.messages.values().all(|messages| *messages == 0), "{left:?}");
}
