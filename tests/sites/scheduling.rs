//! Limits, retries, timeouts and cancellation.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use orch::celery::ControlTarget;
use orch::config::SiteTimeout;
use orch::journal::{EventKind, SiteStatus};
use orch::scrape::sites::{KeptMonitor, OutagePolicy, RunPlan, WorkersAfterRun, cancel};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::scene::{LEASE_TIMEOUT, Scene, dispatched, leases, report, run, run_all, run_all_kept, site};

#[test]
fn no_more_sites_at_a_time_than_allowed_and_a_failure_stops_no_other() {
    let scene = Scene::new();
    let mut sites: Vec<_> = (0..5)
        .map(|n| site(&format!("s{n}"), "jobs.busy", json!({"seconds": 0.3})))
        .collect();
    sites.insert(1, site("raises", "jobs.raises", json!({})));
    let reports = run(run_all(&scene.context, sites, 2));
    let together: Vec<_> = reports.iter().filter_map(|report| report.counts.results).collect();
    assert_eq!(together.len(), 5, "{reports:#?}");
    assert!(
        together.iter().all(|now| *now <= 2) && together.contains(&2),
        "{together:?}"
    );
    assert_eq!(report(&reports, "raises").status, SiteStatus::Failed);
    let names: Vec<_> = reports.iter().map(|report| report.site.as_str()).collect();
    assert_eq!(
        names,
        ["s0", "raises", "s1", "s2", "s3", "s4"],
        "reports come in the order of the sites"
    );
}

#[test]
fn the_end_is_foreexpected_ends_from_earlier_runs_and_corrected_by_what_is_seen() {
    let scene = Scene::new();
    let sites = |prefix: &str, count: usize| -> Vec<_> {
        (0..count)
            .map(|n| site(&format!("{prefix}{n}"), "jobs.busy", json!({"seconds": 1.2})))
            .collect()
    };
    let expected_ends = || -> Vec<u64> {
        let in_ms = |event| match event {
            EventKind::EndExpected { in_ms } => Some(in_ms),
            _ => None,
        };
        scene.events().into_iter().filter_map(in_ms).collect()
    };
    // Their duration is unknown until the first has ended.
    run(run_all(&scene.context, sites("new", 4), 1));
    let first = expected_ends();
    assert!(first.first().is_some_and(|in_ms| *in_ms < 5_000), "{first:?}");

    // The expected duration is 20 s each, two at a time.
    let known = sites("known", 4);
    let expected = known.iter().map(|site| (site.name.clone(), Duration::from_secs(20)));
    let work = RunPlan::new(known.clone(), 2, &BTreeMap::new(), &expected.collect()).expect("there is an order");
    let leases = leases(&scene.context, LEASE_TIMEOUT, OutagePolicy::StopWork);
    run(orch::scrape::sites::run_all(
        &scene.context,
        &KeptMonitor::default(),
        work,
        leases,
        Instant::now(),
    ));
    let second = expected_ends().split_off(first.len());
    assert!(
        second.first().is_some_and(|in_ms| (39_000..=40_000).contains(in_ms)),
        "two after two: {second:?}"
    );
    // Later the end of the other two is expected anew, in any case no later than at first.
    assert!(
        second.len() > 1 && second[1..].iter().all(|in_ms| *in_ms < 30_000),
        "{second:?}"
    );
}

#[test]
fn a_failed_site_is_tried_again_with_growing_pauses() {
    let scene = Scene::new();
    let mut twice = site("twice", "jobs.fails_at_first", json!({"times": 2}));
    twice.retries = 2;
    let mut never = site("never", "jobs.raises", json!({}));
    never.retries = 1;
    let reports = run(run_all(&scene.context, vec![twice, never], 2));
    assert_eq!(
        (reports[0].status, reports[0].attempts),
        (SiteStatus::Complete, 3),
        "{reports:#?}"
    );
    assert_eq!(
        (reports[1].status, reports[1].attempts),
        (SiteStatus::Failed, 2),
        "{reports:#?}"
    );
    let pauses = |event: &EventKind| match event {
        EventKind::SiteRetrying {
            site,
            attempt,
            backoff_ms,
            ..
        } if site.as_str() == "twice" => Some((*attempt, *backoff_ms)),
        _ => None,
    };
    let pauses: Vec<_> = scene.events().iter().filter_map(pauses).collect();
    assert_eq!(pauses, [(2, 50), (3, 100)]);
}

#[test]
fn what_a_failed_attempt_has_left_is_ended_before_the_next() {
    let scene = Scene::new();
    // More tasks than the worker has slots: those of the next attempt would have to wait for them.
    let mut halfway = site(
        "halfway",
        "jobs.raises_in_the_middle_at_first",
        json!({"chunks": 9, "seconds": 40}),
    );
    halfway.retries = 1;
    let begun = Instant::now();
    let reports = run(run_all(&scene.context, vec![halfway], 1));
    assert_eq!(
        (reports[0].status, reports[0].attempts),
        (SiteStatus::Complete, 2),
        "{reports:#?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_site_that_runs_out_of_time_fails_and_its_tasks_are_ended() {
    let scene = Scene::new();
    // More than the worker prefetches.
    let mut slow = dispatched("slow", json!({"chunks": 40, "seconds": 30}));
    slow.timeout = SiteTimeout::Fixed(Duration::from_secs(3));
    slow.retries = 5;
    let mut whole = site("whole", "jobs.whole", json!({"seconds": 30}));
    whole.timeout = SiteTimeout::Fixed(Duration::from_secs(3));
    let started = Instant::now();
    let (reports, active) = run(async {
        let reports = run_all(&scene.context, vec![slow, whole], 2).await;
        let control = scene.context.celery.control();
        let mut active = usize::MAX;
        while active > 0 && started.elapsed() < Duration::from_secs(20) {
            let replies = control
                .active(&ControlTarget::All, Duration::from_secs(5))
                .await
                .expect("Redis answers");
            active = replies.good().map(|(_, active)| active.len()).sum();
        }
        (reports, active)
    });
    for report in &reports {
        assert_eq!((report.status, report.attempts), (SiteStatus::Failed, 1), "{report:#?}");
        assert!(
            report
                .reason
                .as_ref()
                .is_some_and(|reason| reason.starts_with("out of time")),
            "{report:#?}"
        );
        // The tasks of the site take thirty seconds.
        assert!((3..15).contains(&report.elapsed.as_secs()), "{report:#?}");
    }
    assert_eq!(active, 0, "the tasks of the sites still run");
    let queued: u64 = redis::cmd("LLEN")
        .arg("celery")
        .query(&mut scene.redis.connection(0))
        .expect("the server answers");
    assert_eq!(queued, 0, "tasks of the sites are still queued");
}

#[test]
fn dropped_sites_are_reported_and_marked_and_left_for_who_goes_on_with_them() {
    let mut scene = Scene::without_worker();
    scene.start_worker(1);
    let sites = vec![
        dispatched("running", json!({"chunks": 3, "seconds": 20})),
        site("waiting", "jobs.whole", json!({"seconds": 20})),
        site("queued", "jobs.whole", json!({})),
    ];
    let (reports, revoked) = run(async {
        let started = |event: &EventKind| matches!(event, EventKind::SiteStageEntered { .. });
        let kept = KeptMonitor::default();
        tokio::select! {
            reports = run_all_kept(&scene.context, &kept, sites, 2) => panic!("ended too early: {reports:#?}"),
            () = scene.until("the chord's start", started) => {}
        }
        let begun = Instant::now();
        let reports = cancel(&scene.context, &kept, WorkersAfterRun::End).await;
        assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
        let control = scene.context.celery.control();
        let revoked = control
            .call("revoked", json!({}), &ControlTarget::All, Duration::from_secs(5))
            .await;
        (reports, revoked.expect("Redis answers"))
    });
    let names: Vec<_> = reports.iter().map(|report| report.site.as_str()).collect();
    assert_eq!(names, ["queued", "running", "waiting"]);
    assert!(
        reports.iter().all(|report| report.status == SiteStatus::Cancelled),
        "{reports:#?}"
    );
    let events = scene.events();
    let finished = |name: &str| {
        let ended = |event: &&EventKind| matches!(event, EventKind::SiteFinished { site, .. } if site.as_str() == name);
        events.iter().filter(ended).count()
    };
    assert_eq!(
        (finished("running"), finished("waiting"), finished("queued")),
        (1, 1, 1)
    );
    let task_of = |name: &str| {
        let task = |event: &EventKind| match event {
            EventKind::SiteDispatched { site, task_id, .. } if site.as_str() == name => Some(task_id.clone()),
            _ => None,
        };
        events.iter().find_map(task).expect("it was dispatched")
    };
    let (_, revoked) = revoked.good().next().expect("the worker answers");
    assert!(!revoked.to_string().contains(&task_of("waiting")), "{revoked}");
    assert!(!revoked.to_string().contains(&task_of("running")), "{revoked}");
    let job_id = events.iter().find_map(|event| match event {
        EventKind::SiteJobStarted { job_id, .. } => Some(job_id.clone()),
        _ => None,
    });
    let job_id = job_id.expect("the job was started");
    assert_eq!(
        scene.key(&format!("scrape_running:{job_id}:status")).as_deref(),
        Some("CANCELLED")
    );
}

/// Subscribes to the control commands of the run; resolves when the run searches for a job that has been quiet for 10 s. A run asks
/// workers for their reserved tasks at its start, and again in each search.
fn first_search(scene: &Scene) -> oneshot::Receiver<()> {
    let mut connection = scene.redis.connection(0);
    let (found, is_found) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut requests = connection.as_pubsub();
        requests.subscribe("/0.celery.pidbox").expect("Redis is up");
        ready.send(()).expect("the test waits for it");
        for _ in ["at the start", "in the search"] {
            loop {
                let request = requests.get_message().and_then(|message| message.get_payload());
                // The server ends with the test.
                let Ok::<String, _>(request) = request else { return };
                let request: Value = serde_json::from_str(&request).expect("JSON");
                let body = BASE64.decode(request["body"].as_str().expect("text")).expect("base64");
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                if body["method"] == "reserved" {
                    break;
                }
            }
        }
        found.send(()).ok();
    });
    is_ready.recv().expect("it subscribes");
    is_found
}

#[test]
fn a_task_on_a_queue_that_nobody_consumes_is_waited_for_and_not_lost() {
    let scene = Scene::new();
    let mut elsewhere = site("elsewhere", "jobs.whole", json!({}));
    elsewhere.dispatch.queue = Some("elsewhere".to_owned());
    let searched = first_search(&scene);
    let reports = run(async {
        let consume = async {
            searched.await.expect("a search for the quiet job");
            let control = scene.context.celery.control();
            control
                .add_consumer("elsewhere", &ControlTarget::All, Duration::from_secs(5))
                .await
                .expect("Redis answers");
        };
        tokio::join!(run_all(&scene.context, vec![elsewhere], 1), consume).0
    });
    assert_eq!(reports[0].status, SiteStatus::Complete, "{reports:#?}");
    // A wait costs no processor time: no loop spins.
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    let on_processor: u64 = statistics
        .split(' ')
        .next()
        .and_then(|field| field.parse().ok())
        .expect("nanoseconds");
    assert!(on_processor < 500_000_000, "{on_processor} ns");
}
