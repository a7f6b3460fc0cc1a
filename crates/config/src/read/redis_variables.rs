//! Variables and settings that name a Redis other than that of `[redis]`. orch sets the variables itself, so such a
//! value would be overridden silently; therefore such a value is a problem.

use super::item::ConfigItem;
use super::section::Section;
use crate::model::{Config, RedisMode};
use crate::syntax::problem::Problem;
use crate::syntax::tree::SyntaxValue;

/// Variables by which services learn the address of the run's Redis, and variables that Celery would prefer.
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
/// Settings of Celery with the same meaning, in the spelling of a command line.
const SETTINGS: [&str; 4] = ["broker_url", "broker_read_url", "broker_write_url", "result_backend"];

/// Reports them in `[celery.env]`, `[celery.settings]` and the variables of services.
pub(crate) fn check_redis_variables(root: &Section<'_>, config: &Config) {
    if config.redis.mode == RedisMode::Off {
        return;
    }
    let celery = root.section("celery");
    check_variables(celery.item("env").as_ref());
    if let Some(settings) = celery.item("settings") {
        for (key, _) in entries(&settings) {
            if SETTINGS.contains(&key.name.to_lowercase().replace('.', "_").trim_start_matches('_')) {
                let title = format!(
                    "`{}.{}` names a Redis other than that of `[redis]`",
                    settings.path, key.name
                );
                let problem = Problem::new(title).at(key.span, "the worker would use a different Redis than orch");
                root.reading.report(problem.help(remedy(&key.name)));
            }
        }
    }
    for (_, service) in root.section("services").named() {
        let variables = Section::of(&service, service.span());
        check_variables(variables.and_then(|service| service.item("env")).as_ref());
    }
}

fn check_variables(variables: Option<&ConfigItem<'_>>) {
    let Some(variables) = variables else { return };
    for (key, _) in entries(variables) {
        if VARIABLES.contains(&key.name.as_str()) {
            let title = format!("`{}.{}` is set by orch", variables.path, key.name);
            let problem = Problem::new(title).at(key.span, "cannot be changed here");
            variables.reading.report(problem.help(remedy(&key.name)));
        }
    }
}

/// Returns the entries of a table; a value that is not a table was reported by the reader.
fn entries<'a>(
    item: &ConfigItem<'a>,
) -> impl Iterator<Item = (&'a crate::syntax::tree::Key, &'a crate::syntax::tree::SyntaxNode)> {
    let entries = match &item.node.value {
        SyntaxValue::Table(table) => table.entries.as_slice(),
        _ => &[],
    };
    entries.iter().map(|(key, node)| (key, node))
}

fn remedy(name: &str) -> String {
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
