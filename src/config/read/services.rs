//! `[services.<name>]`: any further command.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::item::{Item, bad_name};
use crate::config::model::{CommandConfig, CommandKind};
use crate::config::problem::Problem;
use crate::config::programs::Surroundings;
use crate::config::section::Section;
use crate::config::tree::{Key, Value};
use crate::run::ServiceName;
use crate::signal_name::{is_signal, signal_number};

use super::{policy, probe};

/// More than one guard looks after, on one machine.
const MOST: usize = 1000;

/// Services of orch itself, and `orch`, whose log stands beside theirs.
const RESERVED: [&str; 5] = ["redis", "celery", "beat", "guard", "orch"];

/// Keys that only one of the two kinds has.
const DAEMON_KEYS: [&str; 4] = ["readiness", "start_timeout", "liveness", "restart"];
const ONESHOT_KEYS: [&str; 1] = ["timeout"];

pub(in crate::config) fn services(root: &Section<'_>, surroundings: &Surroundings<'_>) -> Vec<CommandConfig> {
    let services = root.section("services");
    services
        .named_up_to(MOST, "services")
        .filter_map(|(key, item)| service(key, &item, surroundings))
        .collect()
}

fn service(key: &Key, item: &Item<'_>, surroundings: &Surroundings<'_>) -> Option<CommandConfig> {
    let reading = item.reading;
    if RESERVED.contains(&key.name.as_str()) {
        let help = match key.name.as_str() {
            name @ ("redis" | "celery") => format!("it is configured in `[{name}]`"),
            "beat" => "it is configured by `[celery] beat`".to_owned(),
            _ => "choose another name".to_owned(),
        };
        let title = format!("a service cannot be named `{}`", key.name);
        reading.report(Problem::new(title).at(key.span, "orch's own").help(help));
    } else if let Some(why) = bad_name(&key.name) {
        let title = format!("a service cannot be named `{}`", key.name);
        reading.report(Problem::new(title).at(key.span, why));
    }
    let Some(section) = Section::of(item, key.span) else {
        item.wrong("a table");
        return None;
    };
    let name = ServiceName::new(key.name.as_str());
    let env = policy::env(&section);
    let surroundings = surroundings.with(&env).of(&name);
    let directory = section.or("directory", reading.base.clone(), |item| surroundings.directory(item));
    let commands = Commands {
        surroundings: &surroundings,
        directory: &directory,
    };
    let oneshot = section.or("kind", false, |item| {
        item.choice(&[("daemon", false), ("oneshot", true)])
    });
    let command = section.required("command", "[\"program\", \"argument\"]", |item| commands.argv(item));
    let after = policy::after(&section, &name);
    let stop_signal = section.or("stop_signal", Signal::SIGTERM as i32, signal);
    let grace = section.or("grace", Duration::from_secs(3), Item::duration);
    let kind = match oneshot {
        true => {
            refuse(&section, &DAEMON_KEYS, "daemon");
            CommandKind::Oneshot {
                timeout: section.or("timeout", Duration::from_secs(5 * 60), Item::positive_duration),
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
    })
}

fn daemon(section: &Section<'_>, commands: &Commands<'_>) -> CommandKind {
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
        start_timeout: section.or("start_timeout", Duration::from_secs(30), Item::positive_duration),
        liveness: alive.and_then(|(pace, probe)| Some((probe?, pace))),
        restart: policy::restart(section),
    }
}

/// Reports keys that have a meaning for the other kind only.
fn refuse(section: &Section<'_>, keys: &[&'static str], kind: &str) {
    for key in keys {
        if let Some(item) = section.item(key) {
            let title = format!("`{}` is only for `kind = \"{kind}\"`", item.path);
            section.reading.report(item.problem(title, "has no meaning here"));
        }
    }
}

/// A signal's name with or without `SIG`, or its number; real-time ones are `RTMIN+3` or `RTMAX-1`.
fn signal(item: &Item<'_>) -> Option<i32> {
    let examples = "such as `\"TERM\"`, `\"INT\"`, `\"QUIT\"`, `\"RTMIN+3\"`, or a number";
    if let Value::Integer(_) = item.node.value {
        let number = item.integer(1..=64)?;
        if is_signal(number) {
            return Some(number);
        }
        let label = "the C library keeps this one for itself";
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
    let label = match crate::config::problem::nearest(&full, Signal::iterator().map(Signal::as_str)) {
        Some(near) => format!("did you mean `{}`?", near.trim_start_matches("SIG")),
        None => "not a signal".to_owned(),
    };
    let problem = item.problem(format!("`{}` must be a signal", item.path), label);
    item.report(problem.help(examples))
}

/// Where the commands of one service run.
pub(super) struct Commands<'s> {
    surroundings: &'s Surroundings<'s>,
    directory: &'s Path,
}

impl Commands<'_> {
    /// Program and arguments; the program is looked for and made absolute.
    pub fn argv(&self, item: &Item<'_>) -> Option<Vec<String>> {
        if let Value::Text(line) = &item.node.value {
            let for_shell = line.contains(['|', '>', '<', '&', ';', '$', '*', '`', '"', '\'', '\\', '~']);
            let words: Vec<&str> = match for_shell {
                true => vec!["sh", "-c", line],
                false => line.split_whitespace().collect(),
            };
            let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            let key = item.path.rsplit('.').next().unwrap_or_default();
            let problem = item.problem(format!("`{}` must be a list", item.path), "a string; no shell reads it");
            let problem = problem.help(format!("write `{key} = [{}]`", words.join(", ")));
            return item.report(problem);
        }
        let words = item.items()?;
        let Some(program) = words.first() else {
            return item.report(item.problem(format!("`{}` is empty", item.path), "no program"));
        };
        let found = self.surroundings.program(program, self.directory);
        let rest = words.iter().skip(1).map(Item::scalar_text);
        let found = found.map(|path: PathBuf| path.to_string_lossy().into_owned());
        std::iter::once(found).chain(rest).collect()
    }
}
