//! Tasks that wait in a queue that no worker consumes: the queue is named, and the job does not pass for complete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use orch::celery::Target;
use orch::run::{EventKind, SiteStatus};
use orch::sites::Asker;
use serde_json::json;

use crate::scene::{Scene, dispatched, report, run, run_all, site};
use crate::support::celery::{Worker, WorkerOptions};

/// Notices that name a queue without a consumer.
fn notices(scene: &Scene) -> Vec<String> {
    let notice = |event| match event {
        EventKind::Noticed { message, .. } if message.contains("no worker consumes") => Some(message),
        _ => None,
    };
    scene.events().into_iter().filter_map(notice).collect()
}

async fn until_noticed(scene: &Scene) {
    let is_it = |event: &EventKind| matches!(event, EventKind::Noticed { message, .. } if message.contains("no worker consumes"));
    scene.until("the notice", is_it).await;
}

/// A worker of two processes whose app routes its chunks like this.
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
        // Its events would say that all is done: one task, and it succeeded.
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
        ("named", "5 tasks of it wait in the queue `slow`"),
        ("silent", "1 task of it waits in the queue `slow`"),
        ("priority", "3 tasks of it wait in the queue `later`"),
        ("dispatch", "1 task of it waits in the queue `nowhere`"),
    ] {
        let report = report(&reports, name);
        assert_eq!(report.status, SiteStatus::Failed, "{report:#?}");
        assert_eq!(
            report.reason.as_deref(),
            Some(format!("the job can never finish: {waiting}, {consumers}").as_str())
        );
    }
    let notices = notices(&scene);
    assert_eq!(notices.len(), 3, "one for each queue: {notices:#?}");
    let slow = notices
        .iter()
        .find(|notice| notice.contains("`slow`"))
        .expect("a notice");
    assert!(slow.contains(consumers), "{slow}");
    assert!(slow.contains("hint:  add `slow` to `[celery] queues`"), "{slow}");

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
            // It blocks the thread for as long as the worker takes to start; the grace counts meanwhile.
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
            let answers = control.cancel_consumer("celery", &Target::All, within).await;
            assert_eq!(answers.expect("Redis answers").good().count(), 1);
            until_noticed(&scene).await;
            let notice = notices(&scene).remove(0);
            let answers = control.add_consumer("celery", &Target::All, within).await;
            assert_eq!(answers.expect("Redis answers").good().count(), 1);
            notice
        };
        tokio::join!(run_all(&context, sites, 1), cancel)
    });
    assert!(
        notice.contains("in the queue `celery`, which no worker consumes any more; worker w1@test consumes no queue"),
        "{notice}"
    );
    assert!(notice.contains("`orch celery control add-consumer celery`"), "{notice}");
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
            let asker = Asker {
                pid: 12,
                user: "alice".to_owned(),
            };
            scene.context.stops.ask("books".into(), asker);
        };
        tokio::join!(run_all(&context, sites, 1), stop).0
    });
    assert_eq!(reports[0].status, SiteStatus::Cancelled, "{reports:#?}");
    let left = run(scene.context.celery.broker_queues()).expect("Redis answers");
    assert!(left.messages.values().all(|messages| *messages == 0), "{left:?}");
}
