//! `[services.<name>]`: additional commands.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::commands::CommandReader;
use super::item::{ConfigItem, has_valid_name};
use super::section::Section;
use crate::check::programs::ServiceEnvironment;
use crate::model::{CommandConfig, CommandKind};
use crate::syntax::problem::Problem;
use crate::syntax::tree::{Key, SyntaxValue};
use orch_base::files::log_bound::LogBound;
use orch_base::names::ServiceName;
use orch_base::text::signal_name::{is_signal, signal_number};

use super::{policy, probe};

/// Number of services at most, which one guard on one machine can handle.
const MAX_SERVICES: usize = 1000;

/// Names of orch's own services, and `orch`, the name of orch's log next to the logs of services.
const RESERVED: [&str; 5] = ["redis", "celery", "beat", "guard", "orch"];

/// Keys that only one of the two kinds has.
const DAEMON_KEYS: [&str; 4] = ["readiness", "start_timeout", "liveness", "restart"];
const ONESHOT_KEYS: [&str; 1] = ["timeout"];

pub(crate) fn services(root: &Section<'_>, log: LogBound, surroundings: &ServiceEnvironment<'_>) -> Vec<CommandConfig> {
    let services = root.section("services");
    services
        .named_up_to(MAX_SERVICES, "services")
        .filter_map(|(key, item)| service(key, &item, log, surroundings))
        .collect()
}

fn service(
    key: &Key,
    item: &ConfigItem<'_>,
    log: LogBound,
    surroundings: &ServiceEnvironment<'_>,
) -> Option<CommandConfig> {
    let reading = item.reading;
    if RESERVED.contains(&key.name.as_str()) {
        let help = match key.name.as_str() {
            name @ ("redis" | "celery") => format!("it is configured in `[{name}]`"),
            "beat" => "it is configured by `[celery] beat`".to_owned(),
            _ => "choose another name".to_owned(),
        };
        let title = format!("a service cannot be named `{}`", key.name);
        reading.report(Problem::new(title).at(key.span, "reserved by orch").help(help));
    } else {
        has_valid_name(reading, "a service", key);
    }
    let Some(section) = Section::of(item, key.span) else {
        return item.wrong("a table");
    };
    let name = ServiceName::new(key.name.as_str());
    let env = policy::env(&section);
    let surroundings = surroundings.with(&env).of(&name);
    let directory = section.read_or("directory", reading.base.clone(), |item| surroundings.directory(item));
    let commands = CommandReader {
        surroundings: &surroundings,
        directory: &directory,
    };
    let oneshot = section.read_or("kind", false, |item| {
        item.choice(&[("daemon", false), ("oneshot", true)])
    });
    let command = section.required("command", "[\"program\", \"argument\"]", |item| commands.argv(item));
    let after = policy::after(&section, &name);
    let stop_signal = section.read_or("stop_signal", Signal::SIGTERM as i32, signal);
    let grace = section.read_or("grace", Duration::from_secs(3), ConfigItem::duration);
    let log = policy::log(&section, log);
    let kind = match oneshot {
        true => {
            refuse(&section, &DAEMON_KEYS, "daemon");
            CommandKind::Oneshot {
                timeout: section.read_or("timeout", Duration::from_secs(5 * 60), ConfigItem::positive_duration),
            }
        }
        false => {
            refuse(&section, &ONESHOT_KEYS, "oneshot");
            daemon(&section, &commands)
        }
    };
    section.finish();
    Some(CommandConfig {
        name,
        kind,
        command,
        directory: directory.clone(),
        env,
        after,
        stop_signal,
        grace,
        log,
    })
}

fn daemon(section: &Section<'_>, commands: &CommandReader<'_>) -> CommandKind {
    let readiness = section.section("readiness");
    let ready = readiness
        .is_written()
        .then(|| probe::probe(&readiness, commands))
        .flatten();
    readiness.finish();
    let liveness = section.section("liveness");
    let alive = liveness
        .is_written()
        .then(|| (policy::liveness_pace(&liveness), probe::probe(&liveness, commands)));
    liveness.finish();
    CommandKind::Daemon {
        readiness: ready,
        start_timeout: section.read_or("start_timeout", Duration::from_secs(30), ConfigItem::positive_duration),
        liveness: alive.and_then(|(pace, probe)| Some((probe?, pace))),
        restart: policy::restart(section),
    }
}

/// Reports keys that are valid only for the other kind.
fn refuse(section: &Section<'_>, keys: &[&'static str], kind: &str) {
    for key in keys {
        if let Some(item) = section.item(key) {
            let title = format!("`{}` is only for `kind = \"{kind}\"`", item.path);
            section.reading.report(item.problem(title, "has no effect here"));
        }
    }
}

/// Reads a signal: a name with or without `SIG`, or a number; real-time signals are `RTMIN+3` or `RTMAX-1`.
fn signal(item: &ConfigItem<'_>) -> Option<i32> {
    let examples = "such as `\"TERM\"`, `\"INT\"`, `\"QUIT\"`, `\"RTMIN+3\"`, or a number";
    if let SyntaxValue::Integer(_) = item.node.value {
        let number = item.integer(1..=64)?;
        if is_signal(number) {
            return Some(number);
        }
        let label = "the C library reserves this signal";
        return item.report(
            item.problem(format!("`{}` must be a signal", item.path), label)
                .help(examples),
        );
    }
    let name = item.line()?;
    if let Some(signal) = signal_number(&name) {
        return Some(signal);
    }
    let name = name.to_uppercase();
    let full = if name.starts_with("SIG") {
        name
    } else {
        format!("SIG{name}")
    };
    let label = match crate::syntax::problem::nearest(&full, Signal::iterator().map(Signal::as_str)) {
        Some(near) => format!("did you mean `{}`?", near.trim_start_matches("SIG")),
        None => "not a signal".to_owned(),
    };
    let problem = item.problem(format!("`{}` must be a signal", item.path), label);
    item.report(problem.help(examples))
}
