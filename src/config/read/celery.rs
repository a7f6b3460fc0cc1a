//! `[celery]`: the worker and beat.

use std::path::Path;
use std::time::Duration;

use crate::config::item::Item;
use crate::config::model::{BeatMode, CeleryConfig};
use crate::config::problem::Problem;
use crate::config::programs::Surroundings;
use crate::config::section::Section;
use crate::run::ServiceName;

use super::policy;

/// Pools of Celery 5.2 to 5.7 (`celery worker --help`); a class path is taken too.
const POOLS: [&str; 7] = [
    "prefork",
    "solo",
    "threads",
    "gevent",
    "eventlet",
    "processes",
    "custom",
];
const LOG_LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"];

pub(in crate::config) fn celery(root: &Section<'_>, state_dir: &Path, surroundings: &Surroundings<'_>) -> CeleryConfig {
    let section = root.section("celery");
    let enabled = section.or("enabled", section.is_written(), Item::boolean);
    let beats = [
        ("off", BeatMode::Off),
        ("embedded", BeatMode::Embedded),
        ("separate", BeatMode::Separate),
    ];
    let levels = LOG_LEVELS.map(|level| (level, level));
    let app = match enabled {
        true => section.required("app", "\"project.celery_app\"", Item::line),
        false => section.or("app", String::new(), Item::line),
    };
    let name = ServiceName::from("celery");
    let env = policy::env(&section);
    let surroundings = surroundings.with(&env).of(&name);
    let config = CeleryConfig {
        enabled,
        app,
        directory: section.or("directory", root.reading.base.clone(), |item| {
            surroundings.directory(item)
        }),
        program: section.read("program", |item| surroundings.configured_program(item, enabled)),
        queues: section.or("queues", vec!["celery".to_owned()], queues),
        concurrency: section.or("concurrency", processors(), |item| item.integer(1..=100_000)),
        max_memory: section.read("max_memory", Item::positive_size),
        pool: section.or("pool", "prefork".to_owned(), pool),
        log_level: section.or("log_level", "INFO".to_owned(), |item| {
            item.choice(&levels).map(str::to_owned)
        }),
        extra_args: section.or("extra_args", Vec::new(), |item| item.list(worker_argument)),
        acks_late: section.or("acks_late", false, Item::boolean),
        settings: policy::settings(&section),
        env,
        beat: section.or("beat", BeatMode::Off, |item| item.choice(&beats)),
        beat_schedule: section.or("beat_schedule", state_dir.join("beat/schedule"), Item::path),
        reuse: section.or("reuse", true, Item::boolean),
        required_tasks: section.or("required_tasks", Vec::new(), |item| item.list(Item::line)),
        after: policy::after(&section, &name),
        start_timeout: section.or("start_timeout", Duration::from_secs(30), Item::positive_duration),
        grace: section.or("grace", Duration::from_secs(5), Item::duration),
        quit_grace: section.or("quit_grace", Duration::from_secs(2), Item::duration),
        stalled_after: section.or("stalled_after", Duration::from_secs(10), Item::positive_duration),
        liveness: policy::liveness(&section),
        restart: policy::restart(&section),
    };
    section.finish();
    config
}

/// Pool slots that Celery itself would choose.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Refuses the options that orch gives the worker itself, and by which it finds the worker and its queues again.
fn worker_argument(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let has = |short: &str, long: &str| {
        let is_short = text.starts_with(short) && !text.starts_with("--");
        is_short || text == long || text.strip_prefix(long).is_some_and(|rest| rest.starts_with('='))
    };
    let problem = |what: &str, cure: &str| item.report(item.problem(format!("`{}` must not {what}", item.path), cure));
    if has("-n", "--hostname") {
        return problem(
            "name the node",
            "the node is `<[orch] instance>@<host>`: set `[orch] instance`",
        );
    }
    if has("-Q", "--queues") {
        return problem("name queues", "set `[celery] queues`");
    }
    if has("-D", "--detach") {
        return problem(
            "detach the worker",
            "orch keeps the worker in the background itself: remove it",
        );
    }
    Some(text)
}

fn queues(item: &Item<'_>) -> Option<Vec<String>> {
    let queues = item.list(|item| {
        let name = item.line()?;
        if name.contains(',') {
            return item.report(item.problem(format!("`{name}` is not a queue"), "one element for each queue"));
        }
        Some(name)
    })?;
    if queues.is_empty() && item.items()?.is_empty() {
        return item.report(item.problem("`celery.queues` must not be empty", "name at least one queue"));
    }
    Some(queues)
}

fn pool(item: &Item<'_>) -> Option<String> {
    if let crate::config::tree::Value::Text(text) = &item.node.value
        && text.contains([':', '.'])
    {
        return item.line();
    }
    item.choice(&POOLS.map(|pool| (pool, pool))).map(str::to_owned)
}

/// Reports a worker without a broker.
pub(in crate::config) fn needs_redis(root: &Section<'_>) -> Problem {
    let redis = root.section("redis");
    Problem::new("Celery needs Redis, which is off")
        .at_if(redis.place("mode"), "Redis is off")
        .related_if(root.section("celery").at, "the worker's broker is Redis")
        .help("set `celery.enabled = false` too, or another `redis.mode`")
}
