//! `[redis]`: broker and result backend.

use std::time::Duration;

use crate::celery::{Password, SentinelOptions};
use crate::config::item::Item;
use crate::config::model::{RedisConfig, RedisMode};
use crate::config::programs::Surroundings;
use crate::config::section::Section;
use crate::config::{RedisUrls, Secret, problem::Problem, size};
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

/// What a URL says, and so no other key may.
const IN_URL: [&str; 6] = ["host", "port", "username", "password", "broker_db", "result_db"];

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
        urls: urls(&section, mode),
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

/// Reads the address of an external Redis as Celery writes it.
fn urls(section: &Section<'_>, mode: RedisMode) -> Option<RedisUrls> {
    let text = |key: &'static str| section.read(key, Item::line);
    let (url, result_url) = (text("url"), text("result_url"));
    for url in [&url, &result_url].into_iter().flatten() {
        redaction::hide_url(url);
    }
    let sentinel = SentinelOptions {
        master_name: text("master_name"),
        username: text("sentinel_username"),
        password: text("sentinel_password").map(|text| {
            redaction::hide(&text);
            Password::new(text)
        }),
    };
    let beside = [
        ("result_url", result_url.is_some()),
        ("master_name", sentinel.master_name.is_some()),
        ("sentinel_username", sentinel.username.is_some()),
        ("sentinel_password", sentinel.password.is_some()),
    ];
    let Some(url) = url else {
        // One that cannot be read is reported already.
        let is_written = section.item("url").is_some();
        for (key, _) in beside.into_iter().filter(|(_, is_there)| *is_there && !is_written) {
            let title = format!("`redis.{key}` has no meaning without `redis.url`");
            let problem = Problem::new(title).at_if(section.place(key), "there is no `url` beside it");
            section
                .reading
                .report(problem.help("write the broker's address as `url`"));
        }
        return None;
    };
    if mode != RedisMode::External {
        let problem = Problem::new("`redis.url` needs `redis.mode = \"external\"`")
            .at_if(section.place("url"), "the address of a Redis that orch does not start")
            .related_if(section.place("mode"), "this may start one");
        let help = "write `mode = \"external\"`, or `host` and `port` in place of `url`";
        section.reading.report(problem.help(help));
    }
    for key in IN_URL.into_iter().filter(|key| section.item(key).is_some()) {
        let problem = Problem::new(format!("`redis.url` and `redis.{key}` both say where Redis is"))
            .at_if(section.place(key), "the URL says this")
            .related_if(section.place("url"), "the URL");
        section.reading.report(problem.help(match key {
            "result_db" => "remove `result_db`; the address of the results is `result_url`".to_owned(),
            "password" => {
                "remove `password`; a URL with a password is better in the environment: ORCH_REDIS__URL".to_owned()
            }
            key => format!("remove `{key}`, or `url`"),
        }));
    }
    match RedisUrls::read(&url, result_url.as_deref(), sentinel) {
        Ok(urls) => {
            let of_sentinel = beside.into_iter().skip(1).filter(|(_, is_there)| *is_there);
            for (key, _) in of_sentinel.filter(|_| !urls.has_sentinels()) {
                let title = format!("`redis.{key}` is for the address of Sentinels, `sentinel://`");
                let problem = Problem::new(title).at_if(section.place(key), "`url` names none");
                section.reading.report(problem.help(format!("remove `{key}`")));
            }
            Some(urls)
        }
        Err((of_results, reason)) => {
            let key = if of_results { "result_url" } else { "url" };
            let problem = Problem::new(format!("`redis.{key}` cannot be used")).at_if(section.place(key), reason);
            let needs_other = url.contains(';') && result_url.is_none() && !of_results;
            section.reading.report(match needs_other {
                true => problem.help("the address of the results is `result_url`, else that of the broker"),
                false => problem,
            });
            None
        }
    }
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
