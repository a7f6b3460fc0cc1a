//! Checks that every name in `after` exists and that there is an order in which all services can start.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BeatMode, CommandKind, Config, RedisMode};
use crate::read::load_context::{LoadContext, ServiceDependency};
use crate::syntax::problem::{Problem, did_you_mean};
use orch_base::names::ServiceName;

/// Reports unknown names, cycles, and missing files of a service that no oneshot creates.
pub(crate) fn check(reading: &LoadContext, config: &Config) {
    let names = names(config);
    let mut needs: BTreeMap<ServiceName, Vec<ServiceDependency>> = BTreeMap::new();
    for after in reading.service_dependencies.take() {
        if names.contains(&after.needs) {
            needs.entry(after.service.clone()).or_default().push(after);
        } else {
            unknown(reading, config, &names, &after);
        }
    }
    cycles(reading, config, &needs);
    for (service, problem) in reading.unprepared.take() {
        if !prepared(config, &needs, &service) {
            reading.report(problem);
        }
    }
}

fn names(config: &Config) -> BTreeSet<ServiceName> {
    let mut names: BTreeSet<ServiceName> = config.services.iter().map(|service| service.name.clone()).collect();
    if config.redis.mode != RedisMode::Off {
        names.insert("redis".into());
    }
    if config.celery.enabled {
        names.insert("celery".into());
        if config.celery.beat == BeatMode::Separate {
            names.insert("beat".into());
        }
    }
    names
}

fn unknown(reading: &LoadContext, config: &Config, names: &BTreeSet<ServiceName>, after: &ServiceDependency) {
    let name = after.needs.as_str();
    let known = || names.iter().map(ServiceName::as_str);
    let label = match name {
        "redis" if config.redis.mode == RedisMode::Off => "Redis is off".to_owned(),
        "celery" if !config.celery.enabled => "Celery is not enabled".to_owned(),
        "beat" if config.celery.beat != BeatMode::Separate => "beat does not run as a separate service".to_owned(),
        _ => did_you_mean(name, known(), "no service has this name"),
    };
    let problem = Problem::new(format!(
        "`{}` must start after `{name}`, which does not exist",
        after.service
    ));
    let known: Vec<&str> = known().collect();
    let problem = problem.at(after.span, label).absence();
    reading.report(problem.help_names("services", &known));
}

/// Lists the services that start before `service`: those in `after`, and those that orch adds: Celery and beat
/// start after Redis.
fn before(
    config: &Config,
    needs: &BTreeMap<ServiceName, Vec<ServiceDependency>>,
    service: &ServiceName,
) -> Vec<ServiceName> {
    let written = needs
        .get(service)
        .into_iter()
        .flatten()
        .map(|after| after.needs.clone());
    let mut before: Vec<ServiceName> = written.collect();
    match service.as_str() {
        "celery" if config.redis.mode != RedisMode::Off => before.push("redis".into()),
        // Beat starts after the same services as the worker.
        "beat" => {
            before.extend(
                needs
                    .get(&"celery".into())
                    .into_iter()
                    .flatten()
                    .map(|after| after.needs.clone()),
            );
            before.push("redis".into());
        }
        _ => {}
    }
    before
}

fn cycles(reading: &LoadContext, config: &Config, needs: &BTreeMap<ServiceName, Vec<ServiceDependency>>) {
    let mut done = BTreeSet::new();
    for start in names(config) {
        let mut path = Vec::new();
        visit(reading, config, needs, start, &mut path, &mut done);
    }
}

fn visit(
    reading: &LoadContext,
    config: &Config,
    needs: &BTreeMap<ServiceName, Vec<ServiceDependency>>,
    service: ServiceName,
    path: &mut Vec<ServiceName>,
    done: &mut BTreeSet<ServiceName>,
) {
    if let Some(first) = path.iter().position(|earlier| *earlier == service) {
        report_cycle(reading, needs, &path[first..]);
        return;
    }
    if done.contains(&service) {
        return;
    }
    path.push(service.clone());
    for next in before(config, needs, &service) {
        visit(reading, config, needs, next, path, done);
    }
    path.pop();
    done.insert(service);
}

fn report_cycle(reading: &LoadContext, needs: &BTreeMap<ServiceName, Vec<ServiceDependency>>, cycle: &[ServiceName]) {
    let next = |index: usize| &cycle[(index + 1) % cycle.len()];
    let mut chain: Vec<&str> = cycle.iter().map(ServiceName::as_str).collect();
    chain.extend(cycle.first().map(ServiceName::as_str));
    let title = match cycle {
        [only] => format!("`{only}` must start after itself"),
        _ => format!("there is no possible start order: {}", chain.join(" after ")),
    };
    let mut problem = Problem::new(title);
    let mut primary = true;
    for (index, service) in cycle.iter().enumerate() {
        let written = needs
            .get(service)
            .into_iter()
            .flatten()
            .find(|after| after.needs == *next(index));
        let Some(after) = written else {
            problem = problem.help(format!("`{service}` always starts after `{}`", next(index)));
            continue;
        };
        let label = format!("`{service}` after `{}`", after.needs);
        problem = match primary {
            true => problem.at(after.span, label),
            false => problem.related(after.span, label),
        };
        primary = false;
    }
    reading.report(match cycle {
        [_] => problem,
        _ => problem.help("remove one of these"),
    });
}

/// Decides whether a oneshot runs before `service`.
fn prepared(config: &Config, needs: &BTreeMap<ServiceName, Vec<ServiceDependency>>, service: &ServiceName) -> bool {
    let oneshot = |name: &ServiceName| {
        let mut services = config.services.iter();
        services.any(|service| service.name == *name && matches!(service.kind, CommandKind::Oneshot { .. }))
    };
    let mut seen = BTreeSet::new();
    let mut open = before(config, needs, service);
    while let Some(name) = open.pop() {
        if oneshot(&name) {
            return true;
        }
        if seen.insert(name.clone()) {
            open.extend(before(config, needs, &name));
        }
    }
    false
}
