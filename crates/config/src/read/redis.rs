//! `[redis]`: broker and result backend.

use std::time::Duration;

use super::item::ConfigItem;
use super::section::Section;
use crate::check::programs::ServiceEnvironment;
use crate::model::{RedisConfig, RedisMode};
use crate::redis_urls::RedisUrls;
use crate::syntax::problem::Problem;
use orch_base::files::log_bound::LogBound;
use orch_base::names::ServiceName;
use orch_base::text::redaction;
use orch_base::text::secret::Secret;
use orch_base::text::size_text;
use orch_celery::{RedisPassword, SentinelOptions};

use super::policy;

/// Lines of the generated configuration on which the lifecycle depends.
const RESERVED: [&str; 12] = [
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

/// Keys whose values a URL already contains.
const IN_URL: [&str; 6] = ["host", "port", "username", "password", "broker_db", "result_db"];

/// Lines with a size in bytes.
const SIZES: [&str; 3] = ["maxmemory", "auto-aof-rewrite-min-size", "proto-max-bulk-len"];

pub(crate) fn redis(root: &Section<'_>, log: LogBound, surroundings: &ServiceEnvironment<'_>) -> RedisConfig {
    let section = root.section("redis");
    let modes = [
        ("auto", RedisMode::Auto),
        ("own", RedisMode::Own),
        ("external", RedisMode::External),
        ("off", RedisMode::Off),
    ];
    let mode = section.read_or("mode", RedisMode::Auto, |item| item.choice(&modes));
    let may_start = matches!(mode, RedisMode::Auto | RedisMode::Own);
    // An external Redis exists already, so orch cannot choose the port.
    let lowest_port = if mode == RedisMode::External { 1 } else { 0 };
    // Redis has 16 databases unless configured otherwise, and orch does not configure more.
    let last_database = if mode == RedisMode::Own { 15 } else { 65_535 };
    let database = |item: &ConfigItem<'_>| item.integer(0..=last_database);
    let name = ServiceName::from("redis");
    let surroundings = surroundings.clone().of(&name);
    let mut settings = policy::settings(&section);
    check_settings(&section, &mut settings);
    let config = RedisConfig {
        mode,
        urls: urls(&section, mode),
        host: section.read_or("host", "127.0.0.1".to_owned(), ConfigItem::line),
        port: section.read_or("port", 6379, |item| item.port(lowest_port)),
        username: section.read("username", ConfigItem::line),
        password: section.read("password", |item| item.line().map(known_secret)),
        broker_db: section.read_or("broker_db", 0, database),
        result_db: section.read_or("result_db", 1, database),
        auth: section.read_or("auth", true, ConfigItem::boolean),
        program: section.read("program", |item| surroundings.configured_program(item, may_start)),
        settings,
        after: policy::after(&section, &name),
        start_timeout: section.read_or("start_timeout", Duration::from_secs(10), ConfigItem::positive_duration),
        grace: section.read_or("grace", Duration::from_secs(2), ConfigItem::duration),
        log: policy::log(&section, log),
        liveness: policy::liveness(&section),
        restart: policy::restart(&section),
    };
    section.finish();
    config
}

/// Reads the address of an external Redis in Celery's form.
fn urls(section: &Section<'_>, mode: RedisMode) -> Option<RedisUrls> {
    let text = |key: &'static str| section.read(key, ConfigItem::line);
    let (url, result_url) = (text("url"), text("result_url"));
    for url in [&url, &result_url].into_iter().flatten() {
        redaction::register_url_passwords(url);
    }
    let sentinel = SentinelOptions {
        master_name: text("master_name"),
        username: text("sentinel_username"),
        password: text("sentinel_password").map(|text| {
            redaction::register_secret(&text);
            RedisPassword::new(text)
        }),
    };
    let companions = [
        ("result_url", result_url.is_some()),
        ("master_name", sentinel.master_name.is_some()),
        ("sentinel_username", sentinel.username.is_some()),
        ("sentinel_password", sentinel.password.is_some()),
    ];
    let Some(url) = url else {
        // A `url` that cannot be read is reported already.
        let is_written = section.item("url").is_some();
        for (key, _) in companions.into_iter().filter(|(_, is_set)| *is_set && !is_written) {
            let title = format!("`redis.{key}` has no effect without `redis.url`");
            let problem = Problem::new(title).at_if(section.place(key), "`url` is missing");
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
        let problem = Problem::new(format!("`redis.url` and `redis.{key}` both set the address of Redis"))
            .at_if(section.place(key), "the URL contains this")
            .related_if(section.place("url"), "the URL");
        section.reading.report(problem.help(match key {
            "result_db" => "remove `result_db`; set the address of the result backend with `result_url`".to_owned(),
            "password" => {
                "remove `password`; a URL with a password is better in the environment: ORCH_REDIS__URL".to_owned()
            }
            key => format!("remove `{key}`, or `url`"),
        }));
    }
    match RedisUrls::read(&url, result_url.as_deref(), sentinel) {
        Ok(urls) => {
            let of_sentinel = companions.into_iter().skip(1).filter(|(_, is_set)| *is_set);
            for (key, _) in of_sentinel.filter(|_| !urls.has_sentinels()) {
                let title = format!("`redis.{key}` is only for addresses of Sentinels, `sentinel://`");
                let problem = Problem::new(title).at_if(section.place(key), "`url` is not such an address");
                section.reading.report(problem.help(format!("remove `{key}`")));
            }
            Some(urls)
        }
        Err((of_results, reason)) => {
            let key = if of_results { "result_url" } else { "url" };
            let problem = Problem::new(format!("`redis.{key}` cannot be used")).at_if(section.place(key), reason);
            let needs_other = url.contains(';') && result_url.is_none() && !of_results;
            section.reading.report(match needs_other {
                true => {
                    problem.help("the address of the result backend is `result_url`, or else the address of the broker")
                }
                false => problem,
            });
            None
        }
    }
}

/// Refuses the settings that orch must set itself, and converts sizes to the bytes that Redis reads.
fn check_settings(section: &Section<'_>, settings: &mut std::collections::BTreeMap<String, String>) {
    let Some(item) = section.item("settings") else { return };
    let crate::syntax::tree::SyntaxValue::Table(table) = &item.node.value else {
        return; // Reported when the settings were read.
    };
    for (key, node) in &table.entries {
        let name = key.name.to_lowercase();
        if RESERVED.contains(&name.as_str()) {
            let title = format!("`redis.settings.{name}` is set by orch");
            let mut problem = crate::syntax::problem::Problem::new(title).at(key.span, "cannot be changed here");
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
        match size_text::parse_size(text) {
            Ok(bytes) => *text = bytes.to_string(),
            Err(error) => {
                let title = format!("`redis.settings.{name}` is not a size");
                let problem = crate::syntax::problem::Problem::new(title).at(node.span, error.to_string());
                section.reading.report(problem);
            }
        }
    }
}

/// Registers a password of the configuration for redaction, because an app may print the password.
fn known_secret(text: String) -> Secret {
    redaction::register_secret(&text);
    Secret::new(text)
}
