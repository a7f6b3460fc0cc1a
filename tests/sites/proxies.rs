//! The proxy pool is counted, refreshed by the app's own chain, and counted again.

use std::time::{Duration, Instant};

use orch::config::ProxiesConfig;
use orch::journal::{EventKind, FollowStage, NoticeLevel, ProxyPoolCount};
use orch::scrape::proxies::{ProxyRefresh, ProxyVerdict, RefreshError};
use orch::scrape::sites::{JobContext, KeptMonitor};
use serde_json::{Value, json};

use crate::scene::{Scene, proxies, run};

fn chain(scene: &Scene, count: u64, check: Value) -> [(&'static str, Value); 2] {
    let mut arguments = json!({"file": scene.directory.path().join("live_proxies.json")});
    let entries = arguments.as_object_mut().expect("an object was written here");
    entries.extend(check.as_object().expect("an object was written in the test").clone());
    [("jobs.collect", json!({"count": count})), ("jobs.check", arguments)]
}

fn refresh(config: &ProxiesConfig, usual: Option<Duration>) -> ProxyRefresh {
    ProxyRefresh {
        suspect: None,
        config: config.clone(),
        usual,
    }
}

async fn ensure(context: &JobContext, refresh: &ProxyRefresh) -> Result<ProxyVerdict, RefreshError> {
    orch::scrape::proxies::ensure(context, &KeptMonitor::default(), refresh).await
}

async fn ensured(scene: &Scene, config: &ProxiesConfig) -> ProxyVerdict {
    ensure(&scene.context, &refresh(config, None))
        .await
        .expect("Redis takes what is published")
}

fn stages(scene: &Scene) -> Vec<FollowStage> {
    let stage = |event: EventKind| match event {
        EventKind::ProxyStageEntered { stage, .. } => Some(stage),
        _ => None,
    };
    scene.events().into_iter().filter_map(stage).collect()
}

fn counts(scene: &Scene) -> Vec<u64> {
    let usable = |event: EventKind| match event {
        EventKind::ProxiesCounted(ProxyPoolCount { usable, .. }) => Some(usable),
        _ => None,
    };
    scene.events().into_iter().filter_map(usable).collect()
}

fn failures(scene: &Scene) -> Vec<bool> {
    let will_retry = |event: EventKind| match event {
        EventKind::ProxyRefreshFailed { will_retry, .. } => Some(will_retry),
        _ => None,
    };
    scene.events().into_iter().filter_map(will_retry).collect()
}

#[test]
fn enough_proxies_need_no_worker_and_no_task() {
    run(async {
        let scene = Scene::without_worker();
        let pool = json!([
            {"host": "a", "port": 1, "anonymity": "Elite"},
            {"host": "b", "port": 2, "anonymity": "transparent"},
            {"host": "c", "port": 3},
        ]);
        std::fs::write(scene.directory.path().join("live_proxies.json"), pool.to_string())
            .expect("the pool is written");
        let verdict = ensured(&scene, &proxies(&scene, 2, &[])).await;
        assert_eq!(verdict, ProxyVerdict::Enough { usable: 2 });
        let verdict = ensured(&scene, &proxies(&scene, 3, &[])).await;
        assert!(matches!(verdict, ProxyVerdict::TooFew { usable: 2, .. }), "{verdict:?}");
    });
}

#[test]
fn a_refresh_is_followed_through_its_chord() {
    run(async {
        let scene = Scene::new();
        let config = proxies(&scene, 5, &chain(&scene, 5, json!({"seconds": 1.2})));
        let verdict = ensured(&scene, &config).await;
        assert_eq!(verdict, ProxyVerdict::Enough { usable: 5 }, "{:#?}", scene.events());
        assert_eq!(stages(&scene), [FollowStage::Chord]);
        assert_eq!(counts(&scene), [0, 5]);
        let progressed = |event: &EventKind| matches!(event, EventKind::ProxyRefreshProgressed { total: Some(5), .. });
        assert!(scene.events().iter().any(progressed), "{:#?}", scene.events());
    });
}

#[test]
fn a_refresh_that_finds_too_few_is_not_tried_again() {
    run(async {
        let scene = Scene::new();
        let mut config = proxies(&scene, 5, &chain(&scene, 3, json!({})));
        let verdict = ensured(&scene, &config).await;
        assert!(matches!(verdict, ProxyVerdict::TooFew { usable: 3, .. }), "{verdict:?}");
        config.allow_few = true;
        let verdict = ensured(&scene, &config).await;
        assert_eq!(verdict, ProxyVerdict::Enough { usable: 3 });
        let warned = |event: &EventKind| {
            event.level() == Some(NoticeLevel::Warning)
                && matches!(
                    event,
                    EventKind::ProxyShortageAccepted {
                        usable: 3,
                        min_usable: 5,
                        ..
                    }
                )
        };
        assert!(scene.events().iter().any(warned), "{:#?}", scene.events());
    });
}

#[test]
fn a_known_failure_is_tried_again_once() {
    run(async {
        let scene = Scene::new();
        let config = proxies(&scene, 5, &chain(&scene, 5, json!({"fail": true})));
        let verdict = ensured(&scene, &config).await;
        let ProxyVerdict::TooFew { usable: 0, reason, .. } = verdict else {
            panic!("{verdict:?}")
        };
        assert!(
            reason.contains("ChordError") && reason.contains("there is no such file"),
            "{reason}"
        );
        assert_eq!(failures(&scene), [true, false]);

        let config = proxies(&scene, 5, &[("jobs.collect", json!({})), ("jobs.check", json!({}))]);
        let verdict = ensured(&scene, &config).await;
        assert!(
            matches!(&verdict, ProxyVerdict::TooFew { reason, .. } if reason.contains("TypeError")),
            "{verdict:?}\n{:#?}",
            scene.events()
        );
    });
}

#[test]
fn without_a_chord_the_keys_are_followed_and_without_a_job_the_file() {
    run(async {
        let scene = Scene::new();
        let file = scene.directory.path().join("live_proxies.json");
        let config = proxies(
            &scene,
            4,
            &[("jobs.refresh_by_keys", json!({"count": 4, "file": file}))],
        );
        let verdict = ensured(&scene, &config).await;
        assert_eq!(verdict, ProxyVerdict::Enough { usable: 4 }, "{:#?}", scene.events());
        assert_eq!(stages(&scene), [FollowStage::ProgressKeys]);

        // The task returns nothing, and continues in another task.
        let config = proxies(
            &scene,
            6,
            &[("jobs.refresh_later", json!({"count": 6, "file": file, "seconds": 1.5}))],
        );
        let begun = Instant::now();
        let verdict = ensured(&scene, &config).await;
        assert_eq!(verdict, ProxyVerdict::Enough { usable: 6 }, "{:#?}", scene.events());
        assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
        assert_eq!(stages(&scene).last(), Some(&FollowStage::FileTime));

        // Nothing of the refresh is left, and the file is unchanged.
        let config = proxies(&scene, 7, &[("jobs.whole", json!({"site": "none"}))]);
        let verdict = ensured(&scene, &config).await;
        assert!(
            matches!(&verdict, ProxyVerdict::TooFew { usable: 6, reason, .. } if reason.contains("unchanged")),
            "{verdict:?}"
        );
    });
}

#[test]
fn the_timeout_bounds_all_stages() {
    run(async {
        let scene = Scene::new();
        let mut config = proxies(&scene, 5, &chain(&scene, 5, json!({"seconds": 60})));
        config.timeout = Duration::from_secs(2);
        let begun = Instant::now();
        let verdict = ensured(&scene, &config).await;
        assert!(
            matches!(&verdict, ProxyVerdict::TooFew { reason, .. } if reason.contains("out of time")),
            "{verdict:?}"
        );
        assert!((2..30).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        assert_eq!(failures(&scene), [false]);
    });
}

#[test]
fn a_refresh_lost_with_its_worker_is_started_again() {
    let mut scene = Scene::new();
    let context = scene.context.clone();
    let file = scene.directory.path().join("live_proxies.json");
    let config = proxies(
        &scene,
        3,
        &[("jobs.refresh_hangs_at_first", json!({"count": 3, "file": file}))],
    );
    let refresh = refresh(&config, None);
    let verdict = run(async {
        let kill = async {
            scene.until_key("jobs:refreshes").await;
            scene.kill_worker();
            let failed = |event: &EventKind| matches!(event, EventKind::ProxyRefreshFailed { will_retry: true, .. });
            scene.until("the failure", failed).await;
            scene.start_worker(2);
        };
        tokio::join!(ensure(&context, &refresh), kill).0
    });
    assert_eq!(
        verdict.expect("it is published"),
        ProxyVerdict::Enough { usable: 3 },
        "{:#?}",
        scene.events()
    );
}
