//! The registry keys that orch writes, next to the keys of an app.

use orch::config::MinResults;
use orch::journal::{EventKind, SiteStatus};
use serde_json::json;

use crate::scene::{Scene, dispatched, run, run_all, site};

fn job_id(scene: &Scene, name: &str) -> String {
    let job = |event: EventKind| match event {
        EventKind::SiteJobStarted { site, job_id, .. } if site.as_str() == name => Some(job_id.to_string()),
        _ => None,
    };
    scene.events().into_iter().find_map(job).expect("the job was started")
}

#[test]
fn the_registry_tells_every_job_and_leaves_the_apps_keys_alone() {
    let scene = Scene::new();
    let mut shared = dispatched(
        "shared.bg",
        json!({"job_id": "{job_id}", "prefix": "scrape_shared.bg:"}),
    );
    shared.keys = "scrape_{site}:{job_id}:".to_owned();
    let sites = vec![
        dispatched("own", json!({"seconds": 1.5, "chunks": 2})),
        shared,
        dispatched("broken", json!({"fail": true})),
        site("whole", "jobs.whole", json!({})),
    ];
    let reports = run(run_all(&scene.context, sites, 4));
    assert_eq!(reports[1].status, SiteStatus::Complete, "{reports:#?}");

    let own = format!("scrape_own:{}:", job_id(&scene, "own"));
    for (suffix, value) in [
        ("status", "COMPLETE"),
        ("total_chunks", "2"),
        ("completed_chunks", "2"),
        ("total_urls", "8"),
        ("result_count", "4"),
        ("error_count", "0"),
    ] {
        assert_eq!(scene.key(&format!("{own}{suffix}")).as_deref(), Some(value), "{suffix}");
    }
    assert!(scene.key(&format!("{own}started_at")) <= scene.key(&format!("{own}completed_at")));
    let time_to_live: i64 = redis::cmd("TTL")
        .arg(format!("{own}status"))
        .query(&mut scene.redis.connection(1))
        .expect("the server answers");
    assert!((3500..=3600).contains(&time_to_live), "{time_to_live}");
    let theirs = format!("scraping:{}:", job_id(&scene, "own"));
    assert_eq!(scene.key(&format!("{theirs}started_at")), None, "the app wrote none");

    // Values that the app has written under the same names stay, and missing ones are added.
    let shared = format!("scrape_shared.bg:{}:", job_id(&scene, "shared.bg"));
    assert_eq!(scene.key(&format!("{shared}completed_chunks")).as_deref(), Some("3"));
    assert_eq!(scene.key(&format!("{shared}error_count")).as_deref(), Some("0"));
    assert_eq!(scene.key(&format!("{shared}total_urls")).as_deref(), Some("12"));
    assert_eq!(scene.key(&format!("{shared}status")).as_deref(), Some("COMPLETE"));

    let broken = format!("scrape_broken:{}:", job_id(&scene, "broken"));
    assert_eq!(scene.key(&format!("{broken}status")).as_deref(), Some("FAILED"));
}

#[test]
fn a_degraded_job_is_complete_with_the_reason_beside() {
    let scene = Scene::new();
    let mut few = dispatched("few", json!({}));
    few.min_results = MinResults::Count(7);
    let mut enough = dispatched("enough", json!({}));
    enough.min_results = MinResults::Count(6);
    // A failed site is not degraded.
    let mut failed = dispatched("failed", json!({"fail": true}));
    failed.min_results = MinResults::Count(1);
    let reports = run(run_all(&scene.context, vec![few, enough, failed], 4));
    let ends: Vec<SiteStatus> = reports.iter().map(|report| report.status).collect();
    assert_eq!(
        ends,
        [SiteStatus::Degraded, SiteStatus::Complete, SiteStatus::Failed],
        "{reports:#?}"
    );
    let key = |site: &str, suffix: &str| scene.key(&format!("scrape_{site}:{}:{suffix}", job_id(&scene, site)));
    let seen = ["few", "enough", "failed"].map(|site| (key(site, "status"), key(site, "degraded")));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [
            (text("COMPLETE"), text("6 results, `min_results` is 7")),
            (text("COMPLETE"), None),
            (text("FAILED"), None),
        ]
    );
    let time_to_live: i64 = redis::cmd("TTL")
        .arg(format!("scrape_few:{}:degraded", job_id(&scene, "few")))
        .query(&mut scene.redis.connection(1))
        .expect("the server answers");
    assert!((3500..=3600).contains(&time_to_live), "{time_to_live}");
}
