//! The lease of a site: taken, waited for, renewed, lost, taken over; two runs share the process, the Redis and the
//! worker.

use std::time::{Duration, Instant};

use orch::celery::ControlTarget;
use orch::config::SiteConfig;
use orch::journal::{EndCause, EventKind, RunId, SiteHolder, SiteStatus};
use orch::scrape::sites::{
    JobContext, KeptMonitor, LeaseHolder, LeaseOccupant, LeaseStore, LeaseTerms, OutagePolicy, RunPlan, SiteReport,
};
use serde_json::json;

use crate::scene::{LEASE_TIMEOUT, Scene, dispatched, leases, run, site, work};
use crate::support::schedule::pause;
use crate::support::wait;

/// Lease that expires within a test; the times within it are shares of it.
const SHORT_LEASE_TIMEOUT: Duration = Duration::from_secs(3);

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

async fn run_all(context: &JobContext, work: RunPlan, leases: LeaseStore, wait_until: Instant) -> Vec<SiteReport> {
    orch::scrape::sites::run_all(context, &KeptMonitor::default(), work, leases, wait_until).await
}

async fn run_now(scene: &Scene, site: SiteConfig, leases: LeaseStore) -> SiteReport {
    let mut reports = run_all(&scene.context, work(vec![site], 1), leases, Instant::now()).await;
    reports.remove(0)
}

async fn dispatch(scene: &Scene) {
    let dispatched = |event: &EventKind| matches!(event, EventKind::SiteDispatched { .. });
    scene.until("the dispatch", dispatched).await;
}

/// Waits until the worker executes exactly this number of tasks.
async fn until_active(scene: &Scene, tasks: usize) {
    let control = scene.context.celery.control();
    let mut found = None;
    let are_active = wait::within_async(Duration::from_secs(20), async || {
        let replies = control.active(&ControlTarget::All, Duration::from_secs(5)).await;
        let found = found.insert(replies.expect("Redis answers"));
        let number = found.good().map(|(_, found)| found.len()).sum::<usize>();
        (number == tasks).then_some(())
    });
    assert!(are_active.await.is_some(), "{found:?} are active");
}

fn reason(report: &SiteReport) -> &str {
    report.reason.as_deref().unwrap_or_default()
}

/// Decides whether a lease was acquired that its holder had not released.
fn is_abandoned(scene: &Scene) -> bool {
    let is_it = |event: &EventKind| matches!(event, EventKind::SiteLeaseAbandoned { .. });
    scene.events().iter().any(is_it)
}

#[test]
fn a_held_site_is_refused_or_waited_for_and_its_token_rises() {
    let scene = Scene::new();
    let strict = || leases(&scene.context, LEASE_TIMEOUT, OutagePolicy::StopWork);
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
    let Some(LeaseOccupant::Run(holder)) = &refused.held_by else {
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
    let waits_for_run = |event: &EventKind| match event {
        EventKind::SiteLeaseAwaited { site, holder } => {
            site.as_str() == "shop" && matches!(holder, SiteHolder::Run { .. })
        }
        _ => false,
    };
    assert!(scene.events().iter().any(waits_for_run), "{:#?}", scene.events());
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
        LeaseHolder::of_this_process(&RunId::random(), None),
        LeaseTerms {
            duration: LEASE_TIMEOUT,
            outage: OutagePolicy::StopWork,
        },
    );
    let strict = || leases(&scene.context, LEASE_TIMEOUT, OutagePolicy::StopWork);
    let (first, others) = run(async {
        let others = async {
            dispatch(&scene).await;
            let elsewhere = site("elsewhere", "jobs.whole", json!({}));
            tokio::join!(run_now(&scene, waits(0), other), run_now(&scene, elsewhere, strict()))
        };
        tokio::join!(run_now(&scene, waits(2), strict()), others)
    });
    for report in [first, others.0, others.1] {
        assert_eq!(report.status, SiteStatus::Complete, "{report:#?}");
    }
}

#[test]
fn a_lease_that_vanishes_is_taken_again_and_one_that_is_stolen_ends_the_work() {
    let scene = Scene::new();
    let short = || leases(&scene.context, SHORT_LEASE_TIMEOUT, OutagePolicy::StopWork);
    let report = run(async {
        let vanish = async {
            dispatch(&scene).await;
            let before: String = command(&scene, &["GET", LEASE_KEY]);
            let _: u64 = command(&scene, &["DEL", LEASE_KEY]);
            wait::until_async("the lease is taken again", SHORT_LEASE_TIMEOUT, async || {
                let lease: Option<String> = command(&scene, &["GET", LEASE_KEY]);
                (lease.as_ref() == Some(&before)).then_some(())
            })
            .await;
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
    let why = reason(&report);
    assert!(
        why.starts_with("its lease was lost to run thief on host elsewhere (pid 1, since 1970-01-0")
            && why.contains("; it is held by run thief"),
        "{why}"
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
        let interference = async {
            dispatch(&scene).await;
            let _: u64 = command(&scene, &["DEL", LEASE_KEY]);
            let _: u64 = command(&scene, &["INCR", "orch:orch:lease:shop:token"]);
        };
        let short = leases(&scene.context, SHORT_LEASE_TIMEOUT, OutagePolicy::StopWork);
        tokio::join!(run_now(&scene, waits(40), short), interference).0
    });
    assert_eq!(report.status, SiteStatus::Failed, "{report:#?}");
    assert_eq!(
        reason(&report),
        "its lease was lost to another run, which has ended since"
    );
    assert!(report.elapsed < Duration::from_secs(20), "{report:#?}");
}

/// Lets a site lose its lease to a run that has left this result, under a fencing token that is higher or lower;
/// returns the end of the site.
fn lost_to_one_that_left(status: &str, higher: bool) -> SiteReport {
    let scene = Scene::new();
    let mut hangs = site("shop", "jobs.hangs_at_first", json!({}));
    hangs.retries = 1;
    run(async {
        let interference = async {
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
        let short = leases(&scene.context, SHORT_LEASE_TIMEOUT, OutagePolicy::StopWork);
        tokio::join!(run_now(&scene, hangs, short), interference).0
    })
}

#[test]
fn what_another_run_has_completed_since_is_its_end_and_what_was_before_is_not() {
    use SiteStatus::{Complete, Degraded};
    for (status, higher, expected) in [
        ("complete", true, (Complete, 1, Some(3), Some(EndCause::ByAnotherRun))),
        ("degraded", true, (Degraded, 1, Some(3), Some(EndCause::ByAnotherRun))),
        // The result is from the night before, or reports no successful end.
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
    let short = leases(&context, SHORT_LEASE_TIMEOUT, OutagePolicy::StopWork);
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
    // The task of the first attempt, which could not be revoked during the outage, does not disturb the second one.
    assert!(is_abandoned(&scene), "{:#?}", scene.events());
    run(until_active(&scene, 0));
}

/// Lets an outage of Redis last longer than the lease, so that the lease has expired when the server is back. The length of
/// the outage is the fault of the test: while the server is down, nothing shows that the lease has expired.
async fn outage_beyond_the_lease() {
    pause(SHORT_LEASE_TIMEOUT + Duration::from_secs(1)).await;
}

#[test]
fn an_outage_of_a_redis_that_nobody_else_reaches_is_waited_out() {
    let mut scene = Scene::new();
    let context = scene.context.clone();
    let waited_out = leases(&context, SHORT_LEASE_TIMEOUT, OutagePolicy::WaitForRedis);
    let reports = run(async {
        let outage = async {
            dispatch(&scene).await;
            until_active(&scene, 1).await;
            scene.redis.kill();
            outage_beyond_the_lease().await;
            scene.redis.start_again();
        };
        // The task ends when Redis is back, so that Celery can store its result.
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
        let me = LeaseHolder::of_this_process(&RunId::random(), lock.map(str::to_owned));
        let terms = LeaseTerms {
            duration: SHORT_LEASE_TIMEOUT,
            outage: OutagePolicy::StopWork,
        };
        LeaseStore::new(scene.context.celery.clone(), "orch", me, terms)
    };
    let chord = || dispatched("shop", json!({"chunks": 4, "seconds": 40}));
    let (stranger, owner) = run(async {
        // A run that ends without giving its lease back.
        tokio::select! {
            report = run_now(&scene, chord(), short(Some("boot:1:1"))) => panic!("ended too early: {report:#?}"),
            () = async {
                let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
                scene.until("the chord", started).await;
                until_active(&scene, 1).await;
            } => {}
        }
        let stranger = run_now(&scene, waits(0), short(Some("boot:1:2"))).await;
        // The owner of the dead run's lock need not wait.
        let owner = run_now(&scene, waits(0), short(Some("boot:1:1"))).await;
        (stranger, owner)
    });
    assert!(stranger.held_by.is_some(), "{stranger:#?}");
    assert_eq!(owner.status, SiteStatus::Complete, "{owner:#?}");
    // Four chunks of 40 s would have blocked the one slot.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(is_abandoned(&scene), "{:#?}", scene.events());

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
