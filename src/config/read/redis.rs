//! `[redis]`: broker and result backend.

use std::time::Duration;

use crate::config::item::Item;
use crate::config::model::{RedisConfig, RedisMode};
use crate::config::programs::Surroundings;
use crate::config::section::Section;
use crate::config::{Secret, size};
use crate::redaction;
use crate::run::ServiceName;

use super::policy;

/// Lines of the generated configuration on which the lifecycle depends.
const OURS: [&str; 12] = [
    "bind",
    "port",
    "unixsocket",
    "requirepass",
    "user",
    "aclfile",
    "dir",
    "daemonize",
    "supervised",
    "pidfile",
    "logfile",
    "set-proc-title",
];

/// Lines that hold a size in bytes.
const SIZES: [&str; 3] = ["maxmemory", "auto-aof-rewrite-min-size", "proto-max-bulk-len"];

pub(in crate::config) fn redis(root: &Section<'_>, surroundings: &Surroundings<'_>) -> RedisConfig {
    let section = root.section("redis");
    let modes = [
        ("auto", RedisMode::Auto),
        ("own", RedisMode::Own),
        ("external", RedisMode::External),
        ("off", RedisMode::Off),
    ];
    let mode = section.or("mode", RedisMode::Auto, |item| item.choice(&modes));
    let may_start = matches!(mode, RedisMode::Auto | RedisMode::Own);
    // An external one is somewhere: a port to choose makes no sense there.
    let lowest_port = if mode == RedisMode::External { 1 } else { 0 };
    // Redis has 16 databases unless it is configured otherwise, and one that orch starts is not.
    let last_database = if mode == RedisMode::Own { 15 } else { 65_535 };
    let database = |item: &Item<'_>| item.integer(0..=last_database);
    let name = ServiceName::from("redis");
    let surroundings = surroundings.clone().of(&name);
    let mut settings = policy::settings(&section);
    check_settings(&section, &mut settings);
    let config = RedisConfig {
        mode,
        host: section.or("host", "127.0.0.1".to_owned(), Item::line),
        port: section.or("port", 6379, |item| item.port(lowest_port)),
        username: section.read("username", Item::line),
        password: section.read("password", |item| item.line().map(known_secret)),
        broker_db: section.or("broker_db", 0, database),
        result_db: section.or("result_db", 1, database),
        auth: section.or("auth", true, Item::boolean),
        program: section.read("program", |item| surroundings.configured_program(item, may_start)),
        settings,
        after: policy::after(&section, &name),
        start_timeout: section.or("start_timeout", Duration::from_secs(10), Item::positive_duration),
        grace: section.or("grace", Duration::from_secs(2), Item::duration),
        liveness: policy::liveness(&section),
        restart: policy::restart(&section),
    };
    section.finish();
    config
}

/// Refuses what orch must set itself, and turns sizes into the bytes that Redis reads.
fn check_settings(section: &Section<'_>, settings: &mut std::collections::BTreeMap<String, String>) {
    let Some(item) = section.item("settings") else { return };
    let crate::config::tree::Value::Table(table) = &item.node.value else {
        return; // Reported when the settings were read.
    };
    for (key, node) in &table.entries {
        let name = key.name.to_lowercase();
        if OURS.contains(&name.as_str()) {
            let title = format!("`redis.settings.{name}` is set by orch");
            let mut problem = crate::config::problem::Problem::new(title).at(key.span, "cannot be changed here");
            problem = match name.as_str() {
                "port" => problem.help("use `[redis] port`"),
                "bind" => problem.help("use `[redis] host`"),
                "requirepass" => {
                    problem.help("an owned Redis has a random password; `[redis] auth = false` switches it off")
                }
                "dir" => problem.help("its data is in `[orch] state_dir`"),
                _ => problem,
            };
            section.reading.report(problem);
        }
        let Some(text) = settings.get_mut(&key.name).filter(|_| SIZES.contains(&name.as_str())) else {
            continue;
        };
        match size::parse_size(text) {
            Ok(bytes) => *text = bytes.to_string(),
            Err(error) => {
                let title = format!("`redis.settings.{name}` is not a size");
                let problem = crate::config::problem::Problem::new(title).at(node.span, error.to_string());
                section.reading.report(problem);
            }
        }
    }
}

/// A password of the configuration: told nowhere from now on, also where an app tells it.
fn known_secret(text: String) -> Secret {
    redaction::hide(&text);
    Secret::new(text)
}
