//! Keys of every service that is kept running: `liveness`, `restart`, `after`, `env`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::item::ConfigItem;
use super::load_context::ServiceDependency;
use super::section::Section;
use crate::model::{LivenessConfig, PartialLogBound, RestartPolicy, RestartWhen};
use orch_base::files::log_bound::LogBound;
use orch_base::files::log_pieces::MAX_PIECES;
use orch_base::names::ServiceName;

/// Reads the keys of `liveness` that do not belong to the probe; the caller finishes the section.
pub(crate) fn liveness_pace(section: &Section<'_>) -> LivenessConfig {
    LivenessConfig {
        interval: section.read_or("interval", Duration::from_secs(5), ConfigItem::positive_duration),
        timeout: section.read_or("timeout", Duration::from_secs(2), ConfigItem::positive_duration),
        failures: section.read_or("failures", 3, |item| item.integer(1..=1000)),
    }
}

/// Reads `liveness = { ... }` of a service with a built-in probe.
pub(crate) fn liveness(parent: &Section<'_>) -> LivenessConfig {
    let section = parent.section("liveness");
    let config = liveness_pace(&section);
    section.finish();
    config
}

/// Reads `restart = { ... }`.
pub(crate) fn restart(parent: &Section<'_>) -> RestartPolicy {
    let section = parent.section("restart");
    let when = [
        ("always", RestartWhen::Always),
        ("on-failure", RestartWhen::OnFailure),
        ("never", RestartWhen::Never),
    ];
    let policy = RestartPolicy {
        when: section.read_or("when", RestartWhen::Always, |item| item.choice(&when)),
        backoff: section.read_or("backoff", Duration::from_millis(250), ConfigItem::duration),
        backoff_max: section.read_or("backoff_max", Duration::from_secs(30), ConfigItem::duration),
        jitter: section.read_or("jitter", 0.2, |item| item.number(0.0..=1.0)),
        limit: section.read_or("limit", 5, |item| item.integer(0..=100_000)),
        window: section.read_or("window", Duration::from_secs(5 * 60), ConfigItem::positive_duration),
        stable: section.read_or("stable", Duration::from_secs(30), ConfigItem::duration),
    };
    if policy.backoff > policy.backoff_max {
        let place = section.place("backoff_max").or(section.place("backoff"));
        let title = format!("`{}.backoff_max` is shorter than `backoff`", section.path);
        let problem = crate::syntax::problem::Problem::new(title).at_if(place, "the upper bound of the delay");
        parent.reading.report(problem);
    }
    section.finish();
    policy
}

/// Reads `log = { max, keep }` over these defaults.
pub(crate) fn log(parent: &Section<'_>, default: LogBound) -> LogBound {
    log_keys(parent).or(default)
}

/// Reads the written keys of `log = { max, keep }`.
pub(crate) fn log_keys(parent: &Section<'_>) -> PartialLogBound {
    let section = parent.section("log");
    let keys = PartialLogBound {
        max: section.read("max", log_size),
        keep: section.read("keep", |item| item.integer(0..=i64::from(MAX_PIECES))),
    };
    section.finish();
    keys
}

/// Smallest bound of a log: below, orch would cut it all the time.
const MIN_LOG_SIZE: u64 = 1 << 20;

fn log_size(item: &ConfigItem<'_>) -> Option<u64> {
    match item.size()? {
        size @ 1..MIN_LOG_SIZE => {
            let label = format!("{size} bytes are too few: write `\"1MiB\"` or more, or `\"0\"` for no bound");
            item.refuse(format!("`{}` is too small", item.path), label)
        }
        size => Some(size),
    }
}

/// Reads `after = ["name", ...]`; the names are checked when all services are known.
pub(crate) fn after(section: &Section<'_>, service: &ServiceName) -> Vec<ServiceName> {
    let name = |item: &ConfigItem<'_>| {
        let needs = ServiceName::new(item.line()?);
        section
            .reading
            .service_dependencies
            .borrow_mut()
            .push(ServiceDependency {
                service: service.clone(),
                needs: needs.clone(),
                span: item.span(),
            });
        Some(needs)
    };
    section.read_or("after", Vec::new(), |item| item.list(name))
}

/// Reads `env = { NAME = "value" }`.
pub(crate) fn env(section: &Section<'_>) -> BTreeMap<String, String> {
    let variables = |item: &ConfigItem<'_>| {
        let mut variables = BTreeMap::new();
        for (key, value) in item.entries()? {
            if key.name.is_empty() || key.name.contains(['=', '\0']) {
                let title = format!("`{}` cannot be the name of a variable", key.name);
                let problem =
                    crate::syntax::problem::Problem::new(title).at(key.span, "empty, or contains `=` or a zero byte");
                item.reading.report(problem);
                continue;
            }
            if let Some(text) = value.scalar_text() {
                variables.insert(key.name.clone(), text);
            }
        }
        Some(variables)
    };
    section.read_or("env", BTreeMap::new(), variables)
}

/// Reads `settings = { name = value }`: lines for another program's configuration.
pub(crate) fn settings(section: &Section<'_>) -> BTreeMap<String, String> {
    let settings = |item: &ConfigItem<'_>| {
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
    section.read_or("settings", BTreeMap::new(), settings)
}
