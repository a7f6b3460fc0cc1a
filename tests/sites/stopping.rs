//! One site is stopped while others go on: nothing of it is left within seconds, and nothing of the others is touched.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use orch::celery::ControlTarget;
use orch::config::{SiteConfig, SiteDependencies};
use orch::journal::RequestSender;
use orch::journal::{EventKind, SiteStatus};
use orch::scrape::sites::{KeptMonitor, SiteReport, WorkersAfterRun, cancel};
use serde_json::{Value, json};

use crate::scene::{Scene, dispatched, report, run, run_all, run_all_kept, site};
use crate::support::celery::WorkerOptions;
use crate::support::wait;

/// Time that the project promises.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);

fn alice() -> RequestSender {
    RequestSender {
        pid: 12,
        user: "alice".to_owned(),
    }
}

fn stop(scene: &Scene, name: &str) {
    scene.context.stop_requests.add(name.into(), alice());
}

/// Returns the first task of the latest attempt at a site.
fn root_of(scene: &Scene, name: &str) -> String {
    let root = |event: EventKind| match event {
        EventKind::SiteDispatched { site, task_id, .. } if site.as_str() == name => Some(task_id),
        _ => None,
    };
    let mut roots = scene.events().into_iter().filter_map(root);
    roots.next_back().expect("it was dispatched")
}

fn messages(scene: &Scene) -> Vec<Value> {
    let mut connection = scene.redis.connection(0);
    let queued: Vec<String> = redis::cmd("LRANGE")
        .arg(&["celery", "0", "-1"])
        .query(&mut connection)
        .expect("the server answers");
    let unacked: Vec<String> = redis::cmd("HVALS")
        .arg("unacked")
        .query(&mut connection)
        .expect("the server answers");
    let read = |text: &String| serde_json::from_str::<Value>(text).expect("JSON");
    let unacked = unacked.iter().map(|text| read(text)[0].clone());
    queued.iter().map(read).chain(unacked).collect()
}

/// Returns the messages and the tasks in workers of the job with this first task; some of its tasks are known by id.
async fn left_of(scene: &Scene, root: &str, tasks: &HashSet<String>) -> Vec<String> {
    let messages = messages(scene).into_iter();
    let of_it = |message: &Value| message["headers"]["root_id"] == root;
    let mut left: Vec<String> = messages
        .filter(of_it)
        .map(|message| format!("message {}", message["headers"]["task"]))
        .collect();
    let control = scene.context.celery.control();
    let within = Duration::from_secs(5);
    let (active, reserved) = tokio::join!(
        control.active(&ControlTarget::All, within),
        control.reserved(&ControlTarget::All, within)
    );
    for (what, replies) in [("active", active), ("reserved", reserved)] {
        let replies = replies.expect("Redis answers");
        assert!(!replies.nodes.is_empty(), "no worker answers");
        for task in replies.good().flat_map(|(_, held)| held) {
            if task.id.as_str() == root || tasks.contains(task.id.as_str()) {
                left.push(format!("{what} {task:?}"));
            }
        }
    }
    left
}

/// Returns the ids of the chunks of a job, which the result of its dispatch task names.
fn chunks_of(scene: &Scene, root: &str) -> HashSet<String> {
    let result = scene.key(&format!("celery-task-meta-{root}")).expect("its result");
    let result: Value = serde_json::from_str(&result).expect("JSON");
    fn ids(value: &Value, found: &mut HashSet<String>) {
        match value {
            Value::String(text) if text.len() == 36 => drop(found.insert(text.clone())),
            Value::Array(values) => values.iter().for_each(|value| ids(value, found)),
            _ => {}
        }
    }
    let mut found = HashSet::new();
    ids(&result["children"], &mut found);
    found
}

async fn until_active(scene: &Scene, task: &str, count: usize) {
    let control = scene.context.celery.control();
    let mut active = None;
    let is_active = wait::within_async(Duration::from_secs(20), async || {
        let replies = control.active(&ControlTarget::All, Duration::from_secs(5)).await;
        let replies = active.insert(replies.expect("Redis answers"));
        let running = replies.good().flat_map(|(_, running)| running);
        let number = running.filter(|running| running.name.as_deref() == Some(task)).count();
        (number >= count).then_some(())
    });
    assert!(is_active.await.is_some(), "{active:?}");
}

fn ends(of: &str) -> impl Fn(&EventKind) -> bool {
    move |event| matches!(event, EventKind::SiteFinished { site, .. } if site.as_str() == of)
}

fn started(of: &str) -> impl Fn(&EventKind) -> bool {
    move |event| matches!(event, EventKind::SiteJobStarted { site, .. } if site.as_str() == of)
}

fn expect_stopped(report: &SiteReport) {
    assert_eq!(report.status, SiteStatus::Cancelled, "{report:#?}");
    assert_eq!(
        report.reason.as_deref(),
        Some("it was stopped by pid 12 of user alice"),
        "{report:#?}"
    );
}

fn expect_whole(report: &SiteReport, chunks: u64) {
    assert_eq!(
        (report.status, report.attempts),
        (SiteStatus::Complete, 1),
        "{report:#?}"
    );
    let counts = report.counts;
    assert_eq!(
        (counts.completed_chunks, counts.total_chunks, counts.results),
        (Some(chunks), Some(chunks), Some(2 * chunks)),
        "{report:#?}"
    );
}

fn three_sites() -> Vec<SiteConfig> {
    vec![
        dispatched("first", json!({"chunks": 12, "seconds": 0.6})),
        dispatched("doomed", json!({"chunks": 60, "seconds": 20})),
        dispatched("last", json!({"chunks": 12, "seconds": 0.6})),
    ]
}

fn one_of_three(settings: Vec<(&'static str, &'static str)>) {
    let mut scene = Scene::without_worker();
    scene.start_worker_with(WorkerOptions {
        concurrency: 6,
        settings,
        ..WorkerOptions::default()
    });
    let context = scene.context.clone();
    let (reports, root, chunks) = run(async {
        let stopping = async {
            for name in ["first", "doomed", "last"] {
                scene.until("its job", started(name)).await;
            }
            until_active(&scene, "jobs.chunk", 4).await;
            let root = root_of(&scene, "doomed");
            let chunks = chunks_of(&scene, &root);
            assert!(chunks.len() >= 60, "{chunks:?}");
            assert!(!left_of(&scene, &root, &chunks).await.is_empty());
            let asked = Instant::now();
            stop(&scene, "doomed");
            while !left_of(&scene, &root, &chunks).await.is_empty() {
                assert!(
                    asked.elapsed() < GONE_TIMEOUT,
                    "{:#?}",
                    left_of(&scene, &root, &chunks).await
                );
            }
            let gone = asked.elapsed();
            scene.until("its end", ends("doomed")).await;
            println!("gone after {gone:?}, reported after {:?}", asked.elapsed());
            (root, chunks)
        };
        let (reports, (root, chunks)) = tokio::join!(run_all(&context, three_sites(), 3), stopping);
        (reports, root, chunks)
    });
    expect_stopped(report(&reports, "doomed"));
    expect_whole(report(&reports, "first"), 12);
    expect_whole(report(&reports, "last"), 12);
    let events = scene.events();
    let asked = |event: &EventKind| matches!(event, EventKind::SiteStopRequested { site, by } if site.as_str() == "doomed" && by == "pid 12 of user alice");
    assert_eq!(events.iter().filter(|event| asked(event)).count(), 1);
    let job_id = events.iter().find_map(|event| match event {
        EventKind::SiteJobStarted { site, job_id, .. } if site.as_str() == "doomed" => Some(job_id.clone()),
        _ => None,
    });
    let job_id = job_id.expect("its job");
    let key = |name: &str| scene.key(&format!("{name}:{job_id}:status"));
    assert_eq!(key("scrape_doomed").as_deref(), Some("CANCELLED"));
    assert_eq!(key("scraping").as_deref(), Some("PROCESSING"), "its callback has run");
    let left = run(left_of(&scene, &root, &chunks));
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn one_of_three_running_sites_is_stopped_and_the_others_are_untouched() {
    one_of_three(Vec::new());
}

#[test]
fn it_is_stopped_as_well_where_tasks_are_acknowledged_late() {
    let late = [("task_acks_late", "true"), ("task_reject_on_worker_lost", "true")];
    one_of_three(late.to_vec());
}

#[test]
fn what_a_dispatch_task_publishes_in_its_grace_is_caught() {
    let scene = Scene::new();
    let context = scene.context.clone();
    let sites = vec![
        site(
            "doomed",
            "jobs.dispatch_later",
            json!({"signal_list": "publish now", "chunks": 40, "seconds": 20}),
        ),
        dispatched("other", json!({"chunks": 4, "seconds": 0.5})),
    ];
    let reports = run(async {
        let stopping = async {
            until_active(&scene, "jobs.dispatch_later", 1).await;
            let root = root_of(&scene, "doomed");
            let asked = Instant::now();
            stop(&scene, "doomed");
            let is_stopped = |event: &EventKind| matches!(event, EventKind::SiteStopRequested { .. });
            scene.until("the stop of the site", is_stopped).await;
            let pushed: redis::RedisResult<u64> = redis::cmd("LPUSH")
                .arg("publish now")
                .arg(1)
                .query(&mut scene.redis.connection(1));
            assert_eq!(pushed.expect("the server answers"), 1);
            scene.until("its end", ends("doomed")).await;
            assert!(asked.elapsed() < GONE_TIMEOUT, "{:?}", asked.elapsed());
            let chunks = chunks_of(&scene, &root);
            assert!(chunks.len() >= 40, "it had its grace: {chunks:?}");
            let left = left_of(&scene, &root, &chunks).await;
            assert!(left.is_empty(), "{left:#?}");
        };
        tokio::join!(run_all(&context, sites, 2), stopping).0
    });
    expect_stopped(report(&reports, "doomed"));
    expect_whole(report(&reports, "other"), 4);
}

#[test]
fn what_ignores_sigterm_is_killed() {
    let scene = Scene::new();
    let context = scene.context.clone();
    let sites = vec![site("doomed", "jobs.stubborn", json!({"seconds": 60}))];
    let reports = run(async {
        let stopping = async {
            until_active(&scene, "jobs.stubborn", 1).await;
            let root = root_of(&scene, "doomed");
            let asked = Instant::now();
            stop(&scene, "doomed");
            scene.until("its end", ends("doomed")).await;
            assert!(asked.elapsed() < GONE_TIMEOUT, "{:?}", asked.elapsed());
            let left = left_of(&scene, &root, &HashSet::new()).await;
            assert!(left.is_empty(), "{left:#?}");
        };
        tokio::join!(run_all(&context, sites, 1), stopping).0
    });
    expect_stopped(&reports[0]);
}

#[test]
fn a_site_that_has_not_begun_or_waits_for_its_retry_is_stopped_and_its_dependents_are_skipped() {
    let scene = Scene::new();
    let context = scene.context.clone();
    let mut fails = site("retries", "jobs.raises", json!({}));
    fails.retries = 3;
    fails.retry_backoff = Duration::from_secs(40);
    let after = |name: &str, needed: &str| {
        let needs = SiteDependencies {
            after: vec![needed.into()],
            ..SiteDependencies::default()
        };
        SiteConfig {
            dependencies: needs,
            ..site(name, "jobs.whole", json!({}))
        }
    };
    // The longest chain goes first: one after the other `retries`, `runs`, `queued`.
    let sites = vec![
        fails,
        after("retries 2", "retries"),
        after("retries 3", "retries 2"),
        after("retries 4", "retries 3"),
        site("runs", "jobs.whole", json!({"seconds": 3})),
        after("runs 2", "runs"),
        after("runs 3", "runs 2"),
        site("queued", "jobs.whole", json!({})),
        after("after", "queued"),
    ];
    let begun = Instant::now();
    let reports = run(async {
        let stopping = async {
            let retrying = |event: &EventKind| matches!(event, EventKind::SiteRetrying { .. });
            scene.until("the retry", retrying).await;
            until_active(&scene, "jobs.whole", 1).await;
            stop(&scene, "queued");
            stop(&scene, "retries");
            stop(&scene, "nobody");
            scene.until("the end of both", ends("retries")).await;
            scene.until("the end of both", ends("queued")).await;
        };
        tokio::join!(run_all(&context, sites, 1), stopping).0
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    expect_stopped(report(&reports, "queued"));
    expect_stopped(report(&reports, "retries"));
    assert_eq!(report(&reports, "queued").attempts, 0);
    assert_eq!(report(&reports, "retries").attempts, 1);
    let after = report(&reports, "after");
    assert_eq!(after.status, SiteStatus::Skipped, "{after:#?}");
    assert_eq!(
        after.reason.as_deref(),
        Some("it is to run after queued, which was stopped")
    );
    for name in ["runs", "runs 2", "runs 3"] {
        assert_eq!(report(&reports, name).status, SiteStatus::Complete, "{reports:#?}");
    }
}

#[test]
fn sites_that_a_stopped_run_had_under_way_are_ended_where_workers_go_on() {
    let scene = Scene::new();
    run(async {
        let kept = KeptMonitor::default();
        tokio::select! {
            reports = run_all_kept(&scene.context, &kept, vec![dispatched("doomed", json!({"chunks": 40, "seconds": 20}))], 1) => {
                panic!("ended too early: {reports:#?}")
            }
            () = async {
                scene.until("its job", started("doomed")).await;
                until_active(&scene, "jobs.chunk", 2).await;
            } => {}
        }
        let root = root_of(&scene, "doomed");
        let chunks = chunks_of(&scene, &root);
        let asked = Instant::now();
        let reports = cancel(&scene.context, &kept, WorkersAfterRun::Continue).await;
        assert!(asked.elapsed() < GONE_TIMEOUT, "{:?}", asked.elapsed());
        assert_eq!(reports[0].status, SiteStatus::Cancelled, "{reports:#?}");
        let left = left_of(&scene, &root, &chunks).await;
        assert!(left.is_empty(), "{left:#?}");
    });
}
