//! What every kept-running service has: `liveness`, `restart`, `after`, `env`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::item::Item;
use crate::config::model::{LivenessConfig, RestartPolicy, RestartWhen};
use crate::config::section::{After, Section};
use crate::run::ServiceName;

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            failures: 3,
        }
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            when: RestartWhen::Always,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            jitter: 0.2,
            limit: 5,
            window: Duration::from_secs(5 * 60),
            stable: Duration::from_secs(30),
        }
    }
}

/// The keys of `liveness` that are not the probe's; the caller finishes the section.
pub(super) fn liveness_pace(section: &Section<'_>) -> LivenessConfig {
    let default = LivenessConfig::default();
    LivenessConfig {
        interval: section.or("interval", default.interval, Item::positive_duration),
        timeout: section.or("timeout", default.timeout, Item::positive_duration),
        failures: section.or("failures", default.failures, |item| item.integer(1..=1000)),
    }
}

/// `liveness = { ... }` of a service that has a probe of its own.
pub(super) fn liveness(parent: &Section<'_>) -> LivenessConfig {
    let section = parent.section("liveness");
    let config = liveness_pace(&section);
    section.finish();
    config
}

/// `restart = { ... }`
pub(super) fn restart(parent: &Section<'_>) -> RestartPolicy {
    let section = parent.section("restart");
    let default = RestartPolicy::default();
    let when = [
        ("always", RestartWhen::Always),
        ("on-failure", RestartWhen::OnFailure),
        ("never", RestartWhen::Never),
    ];
    let policy = RestartPolicy {
        when: section.or("when", default.when, |item| item.choice(&when)),
        backoff: section.or("backoff", default.backoff, Item::duration),
        backoff_max: section.or("backoff_max", default.backoff_max, Item::duration),
        jitter: section.or("jitter", default.jitter, |item| item.number(0.0..=1.0)),
        limit: section.or("limit", default.limit, |item| item.integer(0..=100_000)),
        window: section.or("window", default.window, Item::positive_duration),
        stable: section.or("stable", default.stable, Item::duration),
    };
    if policy.backoff > policy.backoff_max {
        let place = section.place("backoff_max").or(section.place("backoff"));
        let title = format!("`{}.backoff_max` is shorter than `backoff`", section.path);
        let problem = crate::config::problem::Problem::new(title).at_if(place, "the upper bound of the delay");
        parent.reading.report(problem);
    }
    section.finish();
    policy
}

/// `after = ["name", ...]`; whether the names exist is checked when all services are known.
pub(super) fn after(section: &Section<'_>, service: &ServiceName) -> Vec<ServiceName> {
    let name = |item: &Item<'_>| {
        let needs = ServiceName::new(item.line()?);
        section.reading.after.borrow_mut().push(After {
            service: service.clone(),
            needs: needs.clone(),
            span: item.span(),
        });
        Some(needs)
    };
    section.or("after", Vec::new(), |item| item.list(name))
}

/// `env = { NAME = "value" }`
pub(super) fn env(section: &Section<'_>) -> BTreeMap<String, String> {
    let variables = |item: &Item<'_>| {
        let mut variables = BTreeMap::new();
        for (key, value) in item.entries()? {
            if key.name.is_empty() || key.name.contains(['=', '\0']) {
                let title = format!("`{}` cannot be the name of a variable", key.name);
                let problem = crate::config::problem::Problem::new(title).at(key.span, "empty, or has a `=`");
                item.reading.report(problem);
                continue;
            }
            if let Some(text) = value.scalar_text() {
                variables.insert(key.name.clone(), text);
            }
        }
        Some(variables)
    };
    section.or("env", BTreeMap::new(), variables)
}

/// `settings = { name = value }`: lines for another program's configuration.
pub(super) fn settings(section: &Section<'_>) -> BTreeMap<String, String> {
    let settings = |item: &Item<'_>| {
        let mut settings = BTreeMap::new();
        for (key, value) in item.entries()? {
            let Some(text) = value.scalar_text() else { continue };
            if text.contains(['\n', '\r']) {
                let title = format!("`{}` must be a single line", value.path);
                item.reading.report(value.problem(title, "has a line break"));
                continue;
            }
            settings.insert(key.name.clone(), text);
        }
        Some(settings)
    };
    section.or("settings", BTreeMap::new(), settings)
}
