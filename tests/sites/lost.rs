//! Jobs that can never end are recognised in seconds, not at their deadline; an outage of Redis loses none.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use orch::celery::{ControlTarget, RunningTask, TaskId};
use orch::config::{LossAction, SiteConfig};
use orch::journal::{ChunkLoss, EventKind, SiteStatus};
use serde_json::json;

use crate::scene::{Scene, dispatched, report, run, run_all, site};
use crate::support::wait;

/// Waits until the worker executes this number of tasks in addition to the dispatch tasks. Those tasks are
/// acknowledged, and so lost with the worker.
async fn running(scene: &Scene, tasks: usize) {
    let control = scene.context.celery.control();
    let mut active = None;
    let are_running = wait::within_async(Duration::from_secs(20), async || {
        let replies = control.active(&ControlTarget::All, Duration::from_secs(5)).await;
        let active = active.insert(replies.expect("Redis answers"));
        // The worker lists a task before its acknowledgement is in Redis; a task without acknowledgement is not lost.
        let unacked = scene.context.celery.unacked_messages(1000).await;
        let unacked: HashSet<TaskId> = unacked
            .expect("Redis answers")
            .into_iter()
            .filter_map(|message| Some(message.task?.id))
            .collect();
        let dispatches = |task: &RunningTask| {
            let name = task.name.as_deref();
            name.is_some_and(|name| name.starts_with("jobs.dispatch"))
        };
        let running = active.good().flat_map(|(_, active)| active);
        let lost = running.filter(|task| !dispatches(task) && !unacked.contains(&task.id));
        (lost.count() >= tasks).then_some(())
    });
    assert!(are_running.await.is_some(), "only {active:?} run");
}

#[test]
fn what_died_with_its_worker_is_failed_within_seconds() {
    let mut scene = Scene::new();
    let context = scene.context.clone();
    let sites = vec![
        site("whole", "jobs.whole", json!({"seconds": 60})),
        dispatched("chord", json!({"chunks": 2, "seconds": 60})),
    ];
    let (reports, after) = run(async {
        let all = async { (run_all(&context, sites, 8).await, Instant::now()) };
        let kill = async {
            running(&scene, 3).await;
            scene.kill_worker();
            Instant::now()
        };
        let ((reports, ended), killed) = tokio::join!(all, kill);
        (reports, ended - killed)
    });
    assert!(after < Duration::from_secs(8), "{after:?} until the last was seen");
    for name in ["whole", "chord"] {
        let report = report(&reports, name);
        assert_eq!(report.status, SiteStatus::Failed, "{report:#?}");
        assert!(
            report
                .reason
                .as_ref()
                .is_some_and(|reason| reason.contains("its worker died")),
            "{report:#?}"
        );
    }
    let chord = report(&reports, "chord");
    let reason = chord.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("2 of its 2 chunks are lost: "), "{chord:#?}");
    assert_eq!(chord.counts.errors, Some(2), "{chord:#?}");
}

#[test]
fn a_lost_job_is_done_again_by_the_next_worker() {
    let mut scene = Scene::new();
    let context = scene.context.clone();
    let mut hangs = site("hangs", "jobs.hangs_at_first", json!({}));
    hangs.retries = 1;
    let reports = run(async {
        let kill = async {
            scene.until_key("jobs:attempts:hangs").await;
            scene.kill_worker();
            let retrying = |event: &EventKind| matches!(event, EventKind::SiteRetrying { .. });
            scene.until("the retry", retrying).await;
            scene.start_worker(2);
        };
        tokio::join!(run_all(&context, vec![hangs], 1), kill).0
    });
    assert_eq!(
        (reports[0].status, reports[0].attempts),
        (SiteStatus::Complete, 2),
        "{reports:#?}"
    );
}

#[test]
fn an_outage_of_redis_between_two_chunks_is_survived() {
    let mut scene = Scene::new();
    let context = scene.context.clone();
    let sites = vec![dispatched(
        "survivor",
        json!({"chunks": 2, "seconds": 3, "track": false}),
    )];
    let reports = run(async {
        let outage = async {
            let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
            scene.until("the chord's start", started).await;
            running(&scene, 2).await;
            scene.redis.kill();
            // Both sides have noticed the outage.
            scene.until_worker_says("Connection to broker lost").await;
            assert!(scene.context.celery.ping_redis().await.is_err());
            scene.redis.start_again();
        };
        tokio::join!(run_all(&context, sites, 1), outage).0
    });
    assert_eq!(
        reports[0].status,
        SiteStatus::Complete,
        "{reports:#?}\n{:#?}",
        scene.events()
    );
}

/// Waits until the worker has reserved this number of tasks.
async fn reserved(scene: &Scene, tasks: usize) {
    let control = scene.context.celery.control();
    let mut found = None;
    let are_reserved = wait::within_async(Duration::from_secs(20), async || {
        let replies = control.reserved(&ControlTarget::All, Duration::from_secs(5)).await;
        let found = found.insert(replies.expect("Redis answers"));
        let number = found.good().map(|(_, found)| found.len()).sum::<usize>();
        (number >= tasks).then_some(())
    });
    assert!(are_reserved.await.is_some(), "only {found:?} are reserved");
}

/// Returns the reported losses of a site's chunks, each with the decision whether it ends the attempt.
fn losses(scene: &Scene, name: &str) -> Vec<(ChunkLoss, bool)> {
    let loss = |event: EventKind| match event {
        EventKind::SiteChunksLost {
            site,
            loss,
            ends_attempt,
        } if site.as_str() == name => Some((loss, ends_attempt)),
        _ => None,
    };
    scene.events().into_iter().filter_map(loss).collect()
}

/// Restores unacknowledged messages every 200 ms, as a run does after a restart of its worker or of Redis. The interval
/// is the load of a run, which restores for as long as it lasts; this function waits for nothing.
async fn restore_again_and_again(scene: &Scene) -> Infallible {
    let mut interval = tokio::time::interval(Duration::from_millis(200));
    loop {
        interval.tick().await;
        let restored = scene
            .context
            .celery
            .restore_unacked(&scene.context.stale_executions.all())
            .await;
        restored.expect("Redis answers");
    }
}

#[test]
fn chunks_whose_results_are_lost_in_an_outage_are_known_to_be_lost() {
    let mut scene = Scene::without_worker();
    scene.start_worker(2);
    let context = scene.context.clone();
    let mut outage_site = dispatched("outage", json!({"chunks": 24, "seconds": 0.4, "track": false}));
    outage_site.retries = 1;
    let reports = run(async {
        let outage = async {
            let started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
            scene.until("the chord's start", started).await;
            reserved(&scene, 4).await;
            scene.redis.kill();
            // A chunk has ended while no Redis could store its result.
            scene.until_worker_says("Exception raised outside body").await;
            scene.redis.start_again();
            restore_again_and_again(&scene).await
        };
        tokio::select! {
            reports = run_all(&context, vec![outage_site], 1) => reports,
            never = outage => match never {},
        }
    });
    // Celery 5.4 loses results written during an outage; the second attempt is complete.
    assert_eq!(
        reports[0].status,
        SiteStatus::Complete,
        "{reports:#?}\n{:#?}",
        losses(&scene, "outage")
    );
    assert_eq!(reports[0].attempts, 2, "{reports:#?}\n{:#?}", losses(&scene, "outage"));
}

/// Runs a site of 24 chunks whose first worker dies with two of them. Returns the reason for the second attempt, and
/// the number of chunks that had ended when it began.
fn with_two_chunks_lost(on_lost: LossAction) -> (Scene, String, u64) {
    let mut scene = Scene::without_worker();
    scene.start_worker(2);
    let context = scene.context.clone();
    let site = SiteConfig {
        retries: 1,
        on_lost,
        ..dispatched("loses", json!({"chunks": 24, "seconds": 0.5, "track": false}))
    };
    let is_retry = |event: &EventKind| matches!(event, EventKind::SiteRetrying { .. });
    let (reports, done) = run(async {
        let loss = async {
            let is_started = |event: &EventKind| matches!(event, EventKind::SiteJobStarted { .. });
            scene.until("the chord's start", is_started).await;
            running(&scene, 2).await;
            scene.kill_worker();
            scene.start_worker(2);
            tokio::select! {
                never = restore_again_and_again(&scene) => match never {},
                () = scene.until("the second attempt", is_retry) => {}
            }
            scene.key("jobs:chunks").and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        tokio::join!(run_all(&context, vec![site], 1), loss)
    });
    let report = &reports[0];
    let events = scene.events();
    assert_eq!(
        (report.status, report.attempts),
        (SiteStatus::Complete, 2),
        "{report:#?}\n{events:#?}"
    );
    let reason = events.into_iter().find_map(|event| match event {
        EventKind::SiteRetrying { reason, .. } => Some(reason),
        _ => None,
    });
    (scene, reason.expect("it was tried again"), done)
}

#[test]
fn a_lost_chunk_ends_the_attempt_while_others_run() {
    let (scene, reason, done) = with_two_chunks_lost(LossAction::Retry);
    // One of the two may have ended when its worker was killed.
    assert!(
        ["1 of its 24 chunks is", "2 of its 24 chunks are"]
            .iter()
            .any(|begin| reason.starts_with(&format!("{begin} lost, so its callback cannot run: "))),
        "{reason}"
    );
    assert!(done < 22, "all {done} other chunks were done for nothing");
    let losses = losses(&scene, "loses");
    let ends = |(loss, ends_attempt): &(ChunkLoss, bool)| loss.reason == reason && *ends_attempt;
    assert!(losses.iter().any(ends), "{losses:#?}");
}

#[test]
fn the_other_chunks_of_a_site_may_finish_after_a_loss() {
    let (scene, reason, done) = with_two_chunks_lost(LossAction::Finish);
    let lost = 24 - done;
    assert!(
        lost > 0 && reason.starts_with(&format!("the chord can never finish, {lost} of its 24 chunks ")),
        "{reason}, and {done} were done"
    );
    let losses = losses(&scene, "loses");
    let is_reported = |(loss, ends_attempt): &(ChunkLoss, bool)| {
        (loss.lost, loss.total_chunks, loss.tasks.len() as u64) == (lost, 24, lost)
            && loss.reason.starts_with(&format!("{lost} of its 24 chunks "))
            && loss.reason.contains(" lost, so its callback cannot run: ")
            && !ends_attempt
    };
    assert!(losses.iter().any(is_reported), "{losses:#?}");
}

#[test]
fn a_chunk_that_fails_ends_the_attempt_while_others_run() {
    let scene = Scene::new();
    let mut fails = site(
        "fails",
        "jobs.one_chunk_fails_at_first",
        json!({"chunks": 16, "seconds": 0.7}),
    );
    fails.retries = 1;
    let is_retry = |event: &EventKind| matches!(event, EventKind::SiteRetrying { .. });
    let (reports, done) = run(async {
        let second = async {
            scene.until("the second attempt", is_retry).await;
            let done = scene.key("jobs:chunks").and_then(|text| text.parse().ok());
            done.unwrap_or(0)
        };
        tokio::join!(run_all(&scene.context, vec![fails], 1), second)
    });
    let report = &reports[0];
    assert_eq!(
        (report.status, report.attempts),
        (SiteStatus::Complete, 2),
        "{report:#?}"
    );
    assert!(done < 15, "all {done} other chunks were done for nothing");
    let reason = scene.events().into_iter().find_map(|event| match event {
        EventKind::SiteRetrying { reason, .. } => Some(reason),
        _ => None,
    });
    let reason = reason.expect("it was tried again");
    assert!(
        reason.starts_with("1 of its 16 chunks failed, so its callback cannot run; the first failure: task ")
            && reason.ends_with("ValueError('chunk 0 is broken')"),
        "{reason}"
    );
}
