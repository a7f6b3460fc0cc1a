//! The waits of a site for other sites and for units of a resource, and its fate when those do not succeed.

use std::collections::BTreeMap;
use std::time::Duration;

use orch::config::{SiteConfig, SiteDependencies, SiteTimeout};
use orch::journal::{EventKind, SiteStatus};
use orch::scrape::sites::{KeptMonitor, OutagePolicy, RunPlan, SiteReport};
use serde_json::json;

use crate::scene::{LEASE_TIMEOUT, Scene, dispatched, leases, report, run, run_all, site};

fn after(names: &[&str]) -> SiteDependencies {
    SiteDependencies {
        after: names.iter().map(|name| (*name).into()).collect(),
        ..SiteDependencies::default()
    }
}

fn with(site: SiteConfig, dependencies: SiteDependencies) -> SiteConfig {
    SiteConfig { dependencies, ..site }
}

/// Returns the place of this event of a site in the order of all events.
fn place(events: &[EventKind], of: &str, is_it: fn(&EventKind) -> bool) -> usize {
    let about = |event: &EventKind| match event {
        EventKind::SiteQueued { site }
        | EventKind::SiteDispatched { site, .. }
        | EventKind::SiteFinished { site, .. } => site.as_str() == of,
        _ => false,
    };
    let found = events.iter().position(|event| about(event) && is_it(event));
    found.unwrap_or_else(|| panic!("no such event of {of}: {events:#?}"))
}

fn dispatch(event: &EventKind) -> bool {
    matches!(event, EventKind::SiteDispatched { .. })
}

fn queue(event: &EventKind) -> bool {
    matches!(event, EventKind::SiteQueued { .. })
}

fn end(event: &EventKind) -> bool {
    matches!(event, EventKind::SiteFinished { .. })
}

#[test]
fn a_chain_runs_in_its_order_and_what_depends_on_nothing_beside_it() {
    let scene = Scene::new();
    let sites = vec![
        with(site("last", "jobs.whole", json!({})), after(&["second"])),
        with(dispatched("second", json!({})), after(&["first"])),
        dispatched("first", json!({"seconds": 0.2})),
        site("independent", "jobs.whole", json!({"seconds": 0.1})),
    ];
    let reports = run(run_all(&scene.context, sites, 4));
    assert!(
        reports.iter().all(|report| report.status == SiteStatus::Complete),
        "{reports:#?}"
    );
    let names: Vec<_> = reports.iter().map(|report| report.site.as_str()).collect();
    assert_eq!(
        names,
        ["last", "second", "first", "independent"],
        "as the sites were given"
    );
    let events = scene.events();
    for (earlier, later) in [("first", "second"), ("second", "last")] {
        let ended = place(&events, earlier, end);
        assert!(
            ended < place(&events, later, queue) && ended < place(&events, later, dispatch),
            "{later} has not waited for {earlier}: {events:#?}"
        );
    }
    assert!(
        place(&events, "independent", dispatch) < place(&events, "first", end),
        "{events:#?}"
    );
    let waiting = events.iter().filter_map(|event| match event {
        EventKind::SiteWaiting { site, waits_for } => Some((site.as_str(), waits_for.clone())),
        _ => None,
    });
    let waiting: Vec<_> = waiting.collect();
    assert_eq!(
        waiting,
        [("last", vec!["second".into()]), ("second", vec!["first".into()])]
    );
}

#[test]
fn what_depends_on_a_failed_site_is_skipped_with_the_reason() {
    let scene = Scene::new();
    let whole = |name: &str| site(name, "jobs.whole", json!({}));
    let any = |names: &[&str]| SiteDependencies {
        after_any: names.iter().map(|name| (*name).into()).collect(),
        ..SiteDependencies::default()
    };
    let sites = vec![
        site("broken", "jobs.raises", json!({})),
        with(whole("behind"), after(&["broken", "good"])),
        with(whole("behind-that"), after(&["behind"])),
        whole("good"),
        with(whole("either"), any(&["broken", "good"])),
        with(whole("neither"), any(&["broken", "behind"])),
        with(
            whole("afterwards"),
            SiteDependencies {
                after_finished: vec!["broken".into(), "behind-that".into()],
                ..SiteDependencies::default()
            },
        ),
    ];
    let reports = run(run_all(&scene.context, sites, 4));
    let ended = |name: &str| {
        let SiteReport {
            status,
            reason,
            dependency,
            ..
        } = report(&reports, name).clone();
        (
            status,
            reason.unwrap_or_default(),
            dependency.map(|site| site.to_string()),
        )
    };
    let skipped = |reason: &str, by: &str| (SiteStatus::Skipped, reason.to_owned(), Some(by.to_owned()));
    assert_eq!(
        ended("behind"),
        skipped("it is to run after broken, which failed", "broken")
    );
    assert_eq!(
        ended("behind-that"),
        skipped("it is to run after behind, which was skipped", "behind")
    );
    let (status, reason, _) = ended("neither");
    assert_eq!(
        (status, reason.as_str()),
        (
            SiteStatus::Skipped,
            "it is to run after one of broken, behind: none succeeded"
        )
    );
    for name in ["good", "either", "afterwards"] {
        assert_eq!(report(&reports, name).status, SiteStatus::Complete, "{reports:#?}");
    }
    let events = scene.events();
    for name in [
        "broken",
        "behind",
        "behind-that",
        "good",
        "either",
        "neither",
        "afterwards",
    ] {
        let ends = events
            .iter()
            .filter(|event| matches!(event, EventKind::SiteFinished { site, .. } if site.as_str() == name));
        assert_eq!(ends.count(), 1, "{name}: {events:#?}");
    }
    let begun = events.iter().filter(|event| dispatch(event)).count();
    assert_eq!(begun, 4, "what was skipped has been dispatched: {events:#?}");
}

#[test]
fn what_is_not_part_of_the_run_is_taken_as_met() {
    let scene = Scene::new();
    let any = SiteDependencies {
        after_any: vec!["elsewhere".into(), "broken".into()],
        ..SiteDependencies::default()
    };
    let sites = vec![
        site("broken", "jobs.raises", json!({})),
        with(site("one", "jobs.whole", json!({})), after(&["elsewhere"])),
        with(site("other", "jobs.whole", json!({})), any),
    ];
    let reports = run(run_all(&scene.context, sites, 4));
    for name in ["one", "other"] {
        assert_eq!(report(&reports, name).status, SiteStatus::Complete, "{reports:#?}");
    }
}

#[test]
fn sites_that_use_the_only_unit_run_one_after_the_other() {
    let scene = Scene::new();
    let mut sites: Vec<_> = (0..3)
        .map(|number| site(&format!("s{number}"), "jobs.busy", json!({"seconds": 0.3})))
        .collect();
    for site in &mut sites {
        site.uses.insert("browsers".to_owned(), 1);
    }
    sites.push(site("free", "jobs.whole", json!({"seconds": 0.1})));
    let resources = BTreeMap::from([("browsers".to_owned(), 1)]);
    // Longer sites go first, against the order of the configuration.
    let expected = (0..3).map(|number| (format!("s{number}").as_str().into(), Duration::from_secs(1 + number)));
    let expected: BTreeMap<_, _> = expected.collect();
    let work = RunPlan::new(sites, 2, &resources, &expected).expect("there is an order");
    let leases = leases(&scene.context, LEASE_TIMEOUT, OutagePolicy::StopWork);
    let reports = run(orch::scrape::sites::run_all(
        &scene.context,
        &KeptMonitor::default(),
        work,
        leases,
        std::time::Instant::now(),
    ));
    for name in ["s0", "s1", "s2"] {
        assert_eq!(report(&reports, name).counts.results, Some(1), "{reports:#?}");
    }
    let events = scene.events();
    for (earlier, later) in [("s2", "s1"), ("s1", "s0")] {
        assert!(
            place(&events, earlier, end) < place(&events, later, dispatch),
            "{events:#?}"
        );
    }
    // This site needs no browser, and two sites may run at a time.
    assert!(
        place(&events, "free", dispatch) < place(&events, "s2", end),
        "{events:#?}"
    );
}

#[test]
fn a_site_that_pauses_before_a_retry_leaves_its_place_to_others() {
    let scene = Scene::new();
    let mut twice = site("twice", "jobs.fails_at_first", json!({"times": 1}));
    twice.retries = 1;
    twice.retry_backoff = Duration::from_secs(2);
    // The timeout does not include the wait for a turn.
    twice.timeout = SiteTimeout::Fixed(Duration::from_secs(4));
    let sites = vec![twice, site("other", "jobs.whole", json!({"seconds": 5}))];
    let reports = run(run_all(&scene.context, sites, 1));
    assert!(
        reports.iter().all(|report| report.status == SiteStatus::Complete),
        "{reports:#?}"
    );
    let events = scene.events();
    let retrying = events
        .iter()
        .position(|event| matches!(event, EventKind::SiteRetrying { .. }));
    let other = place(&events, "other", dispatch);
    assert!(
        retrying < Some(other) && place(&events, "other", end) < place(&events, "twice", end),
        "{events:#?}"
    );
    assert_eq!(report(&reports, "twice").attempts, 2);
}
