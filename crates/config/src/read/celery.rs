//! Reads `[celery]`: the worker and beat.

use std::path::Path;
use std::time::Duration;

use super::item::ConfigItem;
use super::section::Section;
use crate::check::programs::ServiceEnvironment;
use crate::model::{BeatMode, CeleryConfig};
use crate::syntax::problem::Problem;
use orch_base::files::log_bound::LogBound;
use orch_base::names::ServiceName;

use super::policy;

/// Pools of Celery 5.2 to 5.7 (`celery worker --help`); a class path is accepted too.
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

pub(crate) fn celery(
    root: &Section<'_>,
    state_dir: &Path,
    log: LogBound,
    surroundings: &ServiceEnvironment<'_>,
) -> CeleryConfig {
    let section = root.section("celery");
    let enabled = section.read_or("enabled", section.is_written(), ConfigItem::boolean);
    let beats = [
        ("off", BeatMode::Off),
        ("embedded", BeatMode::Embedded),
        ("separate", BeatMode::Separate),
    ];
    let levels = LOG_LEVELS.map(|level| (level, level));
    let app = match enabled {
        true => section.required("app", "\"project.celery_app\"", ConfigItem::line),
        false => section.read_or("app", String::new(), ConfigItem::line),
    };
    let name = ServiceName::from("celery");
    let env = policy::env(&section);
    let surroundings = surroundings.with(&env).of(&name);
    let config = CeleryConfig {
        enabled,
        app,
        directory: section.read_or("directory", root.reading.base.clone(), |item| {
            surroundings.directory(item)
        }),
        program: section.read("program", |item| surroundings.configured_program(item, enabled)),
        queues: section.read_or("queues", vec!["celery".to_owned()], queues),
        concurrency: section.read_or("concurrency", processors(), |item| item.integer(1..=100_000)),
        max_memory: section.read("max_memory", ConfigItem::positive_size),
        pool: section.read_or("pool", "prefork".to_owned(), pool),
        log_level: section.read_or("log_level", "INFO".to_owned(), |item| {
            item.choice(&levels).map(str::to_owned)
        }),
        extra_args: section.read_or("extra_args", Vec::new(), |item| item.list(worker_argument)),
        acks_late: section.read_or("acks_late", false, ConfigItem::boolean),
        settings: policy::settings(&section),
        env,
        beat: section.read_or("beat", BeatMode::Off, |item| item.choice(&beats)),
        beat_schedule: section.read_or("beat_schedule", state_dir.join("beat/schedule"), ConfigItem::path),
        reuse: section.read_or("reuse", true, ConfigItem::boolean),
        required_tasks: section.read_or("required_tasks", Vec::new(), |item| item.list(ConfigItem::line)),
        after: policy::after(&section, &name),
        start_timeout: section.read_or("start_timeout", Duration::from_secs(30), ConfigItem::positive_duration),
        grace: section.read_or("grace", Duration::from_secs(5), ConfigItem::duration),
        quit_grace: section.read_or("quit_grace", Duration::from_secs(2), ConfigItem::duration),
        stalled_after: section.read_or("stalled_after", Duration::from_secs(10), ConfigItem::positive_duration),
        log: policy::log(&section, log),
        liveness: policy::liveness(&section),
        restart: policy::restart(&section),
    };
    section.finish();
    config
}

/// Returns the number of pool slots that Celery itself would choose.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Refuses the options that orch passes to the worker itself, because orch finds the worker and the queues by these
/// options.
fn worker_argument(item: &ConfigItem<'_>) -> Option<String> {
    let text = item.text()?;
    let has = |short: &str, long: &str| {
        let is_short = text.starts_with(short) && !text.starts_with("--");
        is_short || text == long || text.strip_prefix(long).is_some_and(|rest| rest.starts_with('='))
    };
    let problem = |action: &str, remedy: &str| item.refuse(format!("`{}` must not {action}", item.path), remedy);
    if has("-n", "--hostname") {
        return problem(
            "set the node name",
            "the node is `<[orch] instance>@<host>`: set `[orch] instance`",
        );
    }
    if has("-Q", "--queues") {
        return problem("set the queues", "set `[celery] queues`");
    }
    if has("-D", "--detach") {
        return problem(
            "detach the worker",
            "remove this option: orch itself keeps the worker in the background",
        );
    }
    Some(text)
}

fn queues(item: &ConfigItem<'_>) -> Option<Vec<String>> {
    let queues = item.list(|item| {
        let name = item.line()?;
        if name.contains(',') {
            return item.refuse(format!("`{name}` is not a queue"), "write one element for each queue");
        }
        Some(name)
    })?;
    if queues.is_empty() && item.items()?.is_empty() {
        return item.refuse("`celery.queues` must not be empty", "set at least one queue");
    }
    Some(queues)
}

fn pool(item: &ConfigItem<'_>) -> Option<String> {
    if let crate::syntax::tree::SyntaxValue::Text(text) = &item.node.value
        && text.contains([':', '.'])
    {
        return item.line();
    }
    item.choice(&POOLS.map(|pool| (pool, pool))).map(str::to_owned)
}

/// Returns the problem of a worker without a broker.
pub(crate) fn needs_redis(root: &Section<'_>) -> Problem {
    let redis = root.section("redis");
    Problem::new("Celery needs Redis, which is off")
        .at_if(redis.place("mode"), "Redis is off")
        .related_if(root.section("celery").at, "the worker's broker is Redis")
        .help("set `celery.enabled = false` too, or another `redis.mode`")
}
