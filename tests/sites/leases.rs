//! A site's lease: taken, waited for, renewed, lost, taken over; two runs share the process, the Redis and the worker.

use std::time::{Duration, Instant};

use orch::celery::Target;
use orch::config::SiteConfig;
use orch::run::{EndCause, EventKind, RunId, SiteStatus};
use orch::sites::{Holder, LeaseStore, Occupant, Outage, SiteReport, Terms, run_all};
use serde_json::json;

use crate::scene::{LEASE, Scene, dispatched, leases, run, site, work};

/// Short, so that it is outlived in a test; the times within it are shares of it.
const SHORT: Duration = Duration::from_secs(3);

const LEASE_KEY: &str = "orch:orch:lease:shop";
const COMPLETED_KEY: &str = "orch:orch:lease:shop:completed";

fn waits(seconds: u64) -> SiteConfig {
    site("shop", "jobs.whole", json!({ "seconds": seconds }))
}

fn command<T: redis::FromRedisValue>(scene: &Scene, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command
        .query(&mut scene.redis.connection(0))
        .expect("the server answers")
}

async fn run_now(scene: &Scene, site: SiteConfig, leases: LeaseStore) -> SiteReport {
    let mut reports = run_all(&scene.context, work(vec![site], 1), leases, Instant::now()).await;
    reports.remove(0)
}

async fn dispatch(scene: &Scene) {
    let dispatched = |event: &EventKind| matches!(event, EventKind::SiteDispatched { .. });
    scene.until("the dispatch", dispatched).await;
}

/// Waits until the worker runs exactly so many tasks.
async fn until_active(scene: &Scene, tasks: usize) {
    let control = scene.context.celery.control();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = control.active(&Target::All, Duration::from_secs(5)).await;
        let found = found.expect("Redis answers");
        if found.good().map(|(_, found)| found.len()).sum::<usize>() == tasks {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} are active");
    }
}

fn reason(report: &SiteReport) -> &str {
    report.reason.as_deref().unwrap_or_default()
}

fn noticed(scene: &Scene, text: &str) -> bool {
    let said = |event: &EventKind| matches!(event, EventKind::Noticed { message, .. } if message.contains(text));
    scene.events().iter().any(said)
}

#[test]
fn a_held_site_is_refused_or_waited_for_and_its_token_rises() {
    let scene = Scene::new();
    let strict = || leases(&scene.context, LEASE, Outage::EndsTheWork);
    let fenced = || {
        site(
            "shop",
            "jobs.fenced",
            json!({"token": "{fencing_token}", "site": "{site}"}),
        )
    };
    let (first, refused, waited, next) = run(async {
        let others = async {
            dispatch(&scene).await;
            let refused = run_now(&scene, waits(0), strict()).await;
            let wait_until = Instant::now() + Duration::from_secs(30);
            let waited = run_all(&scene.context, work(vec![fenced()], 1), strict(), wait_until).await;
            (refused, waited)
        };
        let (first, (refused, mut waited)) = tokio::join!(run_now(&scene, waits(3), strict()), others);
        let next = run_now(&scene, fenced(), strict()).await;
        (first, refused, waited.remove(0), next)
    });
    assert_eq!(first.status, SiteStatus::Complete, "{first:#?}");
    assert_eq!(
        (refused.status, refused.attempts, refused.cause),
        (SiteStatus::Failed, 0, Some(EndCause::Refused)),
        "{refused:#?}"
    );
    let Some(Occupant::Run(holder)) = &refused.held_by else {
        panic!("{refused:#?}");
    };
    for word in [
        holder.run_id.as_str(),
        &holder.host,
        &holder.pid.to_string(),
        "since 20",
    ] {
        assert!(reason(&refused).contains(word), "{word} is not in {refused:#?}");
    }
    assert_eq!(waited.status, SiteStatus::Complete, "{waited:#?}");
    assert!(noticed(&scene, "shop waits for run"), "{:#?}", scene.events());
    assert!(
        waited.counts.results > Some(1_000_000_000) && next.counts.results > waited.counts.results,
        "tokens: {waited:#?} {next:#?}"
    );
    let mut left: Vec<String> = command(&scene, &["KEYS", "orch:*"]);
    left.sort_unstable();
    assert_eq!(left, [COMPLETED_KEY, "orch:orch:lease:shop:token"]);
    let ends: i64 = command(&scene, &["TTL", "orch:orch:lease:shop:token"]);
    assert!(ends > 24 * 60 * 60, "{ends}");
}

#[test]
fn another_instance_or_another_site_is_another_lease() {
    let scene = Scene::new();
    let other = LeaseStore::new(
        scene.context.celery.clone(),
        "other",
        Holder::of_this_process(&RunId::random(), None),
        Terms {
            duration: LEASE,
            outage: Outage::EndsTheWork,
        },
    );
    let strict = || leases(&scene.context, LEASE, Outage::EndsTheWork);
    let (first, beside) = run(async {
        let beside = async {
            dispatch(&scene).await;
            let elsewhere = site("elsewhere", "jobs.whole", json!({}));
            tokio::join!(run_now(&scene, waits(0), other), run_now(&scene, elsewhere, strict()))
        };
        tokio::join!(run_now(&scene, waits(2), strict()), beside)
    });
    for report in [first, beside.0, beside.1] {
        assert_eq!(report.status, SiteStatus::Complete, "{report:#?}");
    }
}

#[test]
fn a_lease_that_vanishes_is_taken_again_and_one_that_is_stolen_ends_the_work() {
    let scene = Scene::new();
    let short = || leases(&scene.context, SHORT, Outage::EndsTheWork);
    let report = run(async {
        let vanish = async {
            dispatch(&scene).await;
            let before: String = command(&scene, &["GET", LEASE_KEY]);
            let _: u64 = command(&scene, &["DEL", LEASE_KEY]);
            let deadline = Instant::now() + SHORT;
            while command::<Option<String>>(&scene, &["GET", LEASE_KEY]).as_ref() != Some(&before) {
                assert!(Instant::now() < deadline, "it was not taken again");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(run_now(&scene, waits(4), short()), vanish).0
    });
    assert_eq!(report.status, SiteStatus::Complete, "{report:#?}");

    let mut stolen = dispatched("shop", json!({"chunks": 8, "seconds": 40}));
    stolen.retries = 3;
    let thief = json!({"token": 9, "host": "elsewhere", "pid": 1, "run_id": "thief", "started_at": 0}).to_string();
    let began = Instant::now();
    let report = run(async {
        let steal = async {
            let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
            scene.until("the chord", started).await;
            until_active(&scene, 4).await;
            let _: () = command(&scene, &["SET", LEASE_KEY, &thief]);
        };
        let report = tokio::join!(run_now(&scene, stolen, short()), steal).0;
        until_active(&scene, 0).await;
        report
    });
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!((report.status, report.attempts), (SiteStatus::Failed, 1), "{report:#?}");
    let told = reason(&report);
    assert!(
        told.starts_with("its lease was lost to run thief on host elsewhere (pid 1, since 1970-01-0")
            && told.contains("; it is held by run thief"),
        "{told}"
    );
    assert_eq!(
        command::<String>(&scene, &["GET", LEASE_KEY]),
        thief,
        "the thief's lease"
    );
    let job_id = scene.events().into_iter().find_map(|event| match event {
        EventKind::SiteJobStarted { job_id, .. } => Some(job_id),
        _ => None,
    });
    let job_id = job_id.expect("the job was started");
    let status = scene.key(&format!("scrape_shop:{job_id}:status"));
    assert_eq!(status.as_deref(), Some("FAILED"));
}

#[test]
fn a_lease_that_was_another_runs_meanwhile_is_lost_even_when_that_is_over() {
    let scene = Scene::new();
    let report = run(async {
        let meanwhile = async {
            dispatch(&scene).await;
            let _: u64 = command(&scene, &["DEL", LEASE_KEY]);
            let _: u64 = command(&scene, &["INCR", "orch:orch:lease:shop:token"]);
        };
        let short = leases(&scene.context, SHORT, Outage::EndsTheWork);
        tokio::join!(run_now(&scene, waits(40), short), meanwhile).0
    });
    assert_eq!(report.status, SiteStatus::Failed, "{report:#?}");
    assert_eq!(
        reason(&report),
        "its lease was lost to another run, which has ended since"
    );
    assert!(report.elapsed < Duration::from_secs(20), "{report:#?}");
}

/// A lease is lost to a run that has left this beside it, under a token that is higher or lower; how the site ends.
fn lost_to_one_that_left(status: &str, higher: bool) -> SiteReport {
    let scene = Scene::new();
    let mut hangs = site("shop", "jobs.hangs_at_first", json!({}));
    hangs.retries = 1;
    run(async {
        let meanwhile = async {
            dispatch(&scene).await;
            scene.until_key("jobs:attempts:shop").await;
            let ours: u64 = command(&scene, &["GET", "orch:orch:lease:shop:token"]);
            let _: u64 = command(&scene, &["DEL", LEASE_KEY]);
            let _: u64 = command(&scene, &["INCR", "orch:orch:lease:shop:token"]);
            let completed = json!({
                "token": if higher { ours + 1 } else { ours - 1 },
                "by": {"host": "elsewhere", "pid": 1, "run_id": "other", "started_at": 0},
                "status": status, "counts": {"results": 3}, "reason": "3 results, it should have 9",
                "of_a_newer_version": true,
            });
            let _: () = command(&scene, &["SET", COMPLETED_KEY, &completed.to_string()]);
        };
        let short = leases(&scene.context, SHORT, Outage::EndsTheWork);
        tokio::join!(run_now(&scene, hangs, short), meanwhile).0
    })
}

#[test]
fn what_another_run_has_completed_since_is_its_end_and_what_was_before_is_not() {
    use SiteStatus::{Complete, Degraded};
    for (status, higher, expected) in [
        ("complete", true, (Complete, 1, Some(3), Some(EndCause::ByAnotherRun))),
        ("degraded", true, (Degraded, 1, Some(3), Some(EndCause::ByAnotherRun))),
        // It is that of the night before, or says of no end that is good.
        ("complete", false, (Complete, 2, Some(1), None)),
        ("failed", true, (Complete, 2, Some(1), None)),
    ] {
        let report = lost_to_one_that_left(status, higher);
        let found = (report.status, report.attempts, report.counts.results, report.cause);
        assert_eq!(found, expected, "{report:#?}");
        if report.cause.is_some() {
            assert_eq!(
                reason(&report),
                "run other on host elsewhere completed it: 3 results, it should have 9"
            );
        }
    }
}

#[test]
fn an_outage_longer_than_the_lease_ends_the_attempt_and_the_next_takes_it_anew() {
    let mut scene = Scene::new();
    let context = scene.context.clone();
    let short = leases(&context, SHORT, Outage::EndsTheWork);
    let mut hangs = site("shop", "jobs.hangs_at_first", json!({}));
    hangs.retries = 1;
    let reports = run(async {
        let outage = async {
            dispatch(&scene).await;
            scene.until_key("jobs:attempts:shop").await;
            scene.redis.kill();
            let retrying = |event: &EventKind| matches!(event, EventKind::SiteRetrying { .. });
            scene.until("the loss", retrying).await;
            scene.redis.start_again();
        };
        tokio::join!(run_all(&context, work(vec![hangs], 1), short, Instant::now()), outage).0
    });
    let why = scene.events().into_iter().find_map(|event| match event {
        EventKind::SiteRetrying { reason, .. } => Some(reason),
        _ => None,
    });
    let why = why.expect("it was tried again");
    assert!(
        why.starts_with("its lease could not be renewed for 2s: cannot renew the lease of a site at 127.0.0.1:"),
        "{why}"
    );
    assert_eq!(reports[0].status, SiteStatus::Complete, "{reports:#?}");
    assert_eq!(reports[0].attempts, 2);
    // The first attempt's task, which nobody could revoke during the outage, is in nobody's way.
    assert!(noticed(&scene, "has not given its lease back"), "{:#?}", scene.events());
    run(until_active(&scene, 0));
}

#[test]
fn an_outage_of_a_redis_that_nobody_else_reaches_is_waited_out() {
    let mut scene = Scene::new();
    let context = scene.context.clone();
    let waited_out = leases(&context, SHORT, Outage::IsWaitedOut);
    let reports = run(async {
        let outage = async {
            dispatch(&scene).await;
            until_active(&scene, 1).await;
            scene.redis.kill();
            // Longer than the lease: when the server is back it is gone.
            tokio::time::sleep(SHORT + Duration::from_secs(1)).await;
            scene.redis.start_again();
        };
        // Ends when Redis is back, so that Celery can store its result.
        tokio::join!(
            run_all(&context, work(vec![waits(12)], 1), waited_out, Instant::now()),
            outage
        )
        .0
    });
    assert_eq!(reports[0].status, SiteStatus::Complete, "{reports:#?}");
    assert_eq!(reports[0].attempts, 1);
}

#[test]
fn what_a_run_has_left_is_ended_before_the_next_begins() {
    let mut scene = Scene::without_worker();
    scene.start_worker(1);
    let begun = Instant::now();
    let short = |lock: Option<&str>| {
        let me = Holder::of_this_process(&RunId::random(), lock.map(str::to_owned));
        let terms = Terms {
            duration: SHORT,
            outage: Outage::EndsTheWork,
        };
        LeaseStore::new(scene.context.celery.clone(), "orch", me, terms)
    };
    let chord = || dispatched("shop", json!({"chunks": 4, "seconds": 40}));
    let (stranger, owner) = run(async {
        // A run that ends without a word.
        tokio::select! {
            report = run_now(&scene, chord(), short(Some("boot:1:1"))) => panic!("ended too early: {report:#?}"),
            () = async {
                let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
                scene.until("the chord", started).await;
                until_active(&scene, 1).await;
            } => {}
        }
        let stranger = run_now(&scene, waits(0), short(Some("boot:1:2"))).await;
        // Who holds the dead run's lock need not wait.
        let owner = run_now(&scene, waits(0), short(Some("boot:1:1"))).await;
        (stranger, owner)
    });
    assert!(stranger.held_by.is_some(), "{stranger:#?}");
    assert_eq!(owner.status, SiteStatus::Complete, "{owner:#?}");
    // Four chunks of 40 s were in the way of the one slot.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(noticed(&scene, "has not given its lease back"), "{:#?}", scene.events());

    let waited = run(async {
        tokio::select! {
            report = run_now(&scene, chord(), short(None)) => panic!("ended too early: {report:#?}"),
            () = until_active(&scene, 1) => {}
        }
        let wait_until = Instant::now() + Duration::from_secs(30);
        run_all(&scene.context, work(vec![waits(0)], 1), short(None), wait_until).await
    });
    assert_eq!(waited[0].status, SiteStatus::Complete, "{waited:#?}");
}
