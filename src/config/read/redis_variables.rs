//! Variables and settings that name a Redis beside `[redis]`: orch sets the variables itself, and what it would overrule in
//! silence is an error.

use crate::config::item::Item;
use crate::config::model::{Config, RedisMode};
use crate::config::problem::Problem;
use crate::config::section::Section;
use crate::config::tree::Value;

/// What services are told of the Redis of the run, and what Celery would read before it.
const VARIABLES: [&str; 10] = [
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "REDIS_URL",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_PASSWORD",
    "REDIS_USERNAME",
    "REDISCLI_AUTH",
];
/// Celery's settings of the same, as it reads them on a command line.
const SETTINGS: [&str; 4] = ["broker_url", "broker_read_url", "broker_write_url", "result_backend"];

/// Reports them in `[celery.env]`, `[celery.settings]` and the variables of services.
pub(in crate::config) fn check_redis_variables(root: &Section<'_>, config: &Config) {
    if config.redis.mode == RedisMode::Off {
        return;
    }
    let celery = root.section("celery");
    check_variables(celery.item("env").as_ref());
    if let Some(settings) = celery.item("settings") {
        for (key, _) in entries(&settings) {
            if SETTINGS.contains(&key.name.to_lowercase().replace('.', "_").trim_start_matches('_')) {
                let title = format!("`{}.{}` names a Redis beside `[redis]`", settings.path, key.name);
                let problem = Problem::new(title).at(key.span, "the worker would be elsewhere than orch");
                root.reading.report(problem.help(cure(&key.name)));
            }
        }
    }
    for (_, service) in root.section("services").named() {
        let variables = Section::of(&service, service.span());
        check_variables(variables.and_then(|service| service.item("env")).as_ref());
    }
}

fn check_variables(variables: Option<&Item<'_>>) {
    let Some(variables) = variables else { return };
    for (key, _) in entries(variables) {
        if VARIABLES.contains(&key.name.as_str()) {
            let title = format!("`{}.{}` is set by orch", variables.path, key.name);
            let problem = Problem::new(title).at(key.span, "cannot be changed here");
            variables.reading.report(problem.help(cure(&key.name)));
        }
    }
}

/// What is no table was reported when it was read.
fn entries<'a>(item: &Item<'a>) -> impl Iterator<Item = (&'a crate::config::tree::Key, &'a crate::config::tree::Node)> {
    let entries = match &item.node.value {
        Value::Table(table) => table.entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, node)| (key, node))
}

fn cure(name: &str) -> String {
    let name = name.to_lowercase();
    let key = match name.as_str() {
        name if name.contains("result") => "`[redis] result_url`, or `result_db`",
        name if name.contains("url") => "`[redis] url`, or `host` and `port`",
        name if name.ends_with("host") => "`[redis] host`",
        name if name.ends_with("port") => "`[redis] port`",
        name if name.ends_with("username") => "`[redis] username`",
        _ => "`[redis] password`",
    };
    format!("write it as {key}")
}
