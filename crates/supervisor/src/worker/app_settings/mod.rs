//! The effective transport settings of the app: orch uses them, and refuses unsupported ones by name.

mod cache;
mod interpreter;
mod sentinel;
mod settings_query;

use serde_json::Value;

pub use crate::worker::app_settings::sentinel::{OptionsForSentinels, SentinelSettings};
pub use crate::worker::app_settings::settings_query::{AppSource, SettingsQuery, SettingsResult, ask_app};

use orch_celery::TransportSettings;
use orch_journal::failure::ServiceFailure;

/// Text in a worker's answer to `conf` in place of each value with `key` in the name, such as `global_keyprefix`.
const HIDDEN: &str = "********";
/// Largest number of elements of `priority_steps` that is read; kombu polls one list for each.
const MOST_STEPS: usize = 256;

/// The effective settings of an app that orch depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSettings {
    pub transport: TransportSettings,
    /// The settings for Sentinels; a worker's answer does not contain them.
    pub sentinel: SentinelSettings,
    /// The first setting that orch cannot support.
    refused: Option<RefusedSetting>,
}

/// A setting that orch cannot work with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RefusedSetting {
    /// Name and value, such as `worker_enable_remote_control = false`.
    setting: String,
    why: &'static str,
    cure: &'static str,
}

impl AppSettings {
    /// Reads the settings from the output of the app's process or a worker's answer to `conf`. A missing setting has
    /// Celery's default.
    pub fn read(settings: &Value) -> Self {
        let mut reading = SettingsReader { refused: None };
        reading.check_serializers(settings);
        let empty = Value::Null;
        let options = settings.get("broker_transport_options").unwrap_or(&empty);
        let default = TransportSettings::default();
        let text = |value: Option<&Value>, default: String| match value {
            Some(Value::String(text)) => text.clone(),
            _ => default,
        };
        let priority_steps = reading.priority_steps(options.get("priority_steps"));
        let transport = TransportSettings {
            key_prefix: reading.option(options, "global_keyprefix", String::new()),
            backend_key_prefix: text(settings.get("backend_key_prefix"), String::new()),
            separator: reading.option(options, "sep", default.separator),
            priority_steps: priority_steps.unwrap_or(default.priority_steps),
            fanout_prefix: match options.get("fanout_prefix") {
                Some(Value::String(own)) if !own.is_empty() => own.clone(),
                Some(value) if !is_true(value) => String::new(),
                _ => default.fanout_prefix,
            },
            fanout_patterns: options.get("fanout_patterns").is_none_or(is_true),
            control_exchange: text(settings.get("control_exchange"), default.control_exchange),
            event_exchange: text(settings.get("event_exchange"), default.event_exchange),
            unacked_key: reading.option(options, "unacked_key", default.unacked_key),
            unacked_index_key: reading.option(options, "unacked_index_key", default.unacked_index_key),
        };
        if transport.separator.is_empty() {
            reading.refuse(
                "broker_transport_options: sep = \"\"".to_owned(),
                "without a separator a queue of priority 3 and a queue whose name ends in 3 are one list",
                "remove `sep` from `broker_transport_options`",
            );
        }
        Self {
            transport,
            sentinel: SentinelSettings::read(settings),
            refused: reading.refused,
        }
    }

    /// Refuses a setting that orch cannot support.
    ///
    /// # Errors
    /// orch cannot support a setting of the app; the failure names the setting and the remedy.
    pub fn check(&self, app: &str) -> Result<(), ServiceFailure> {
        match &self.refused {
            None => Ok(()),
            Some(refused) => Err(ServiceFailure::configuration(format!(
                "the app `{app}` has a setting that orch cannot work with: {}",
                refused.setting
            ))
            .with_cause(refused.why)
            .hint(refused.cure)),
        }
    }
}

/// A collector of the first refusal.
struct SettingsReader {
    refused: Option<RefusedSetting>,
}

impl SettingsReader {
    fn refuse(&mut self, setting: String, why: &'static str, cure: &'static str) {
        self.refused.get_or_insert(RefusedSetting { setting, why, cure });
    }

    fn check_serializers(&mut self, settings: &Value) {
        if settings
            .get("worker_enable_remote_control")
            .is_some_and(|value| !is_true(value))
        {
            self.refuse(
                "worker_enable_remote_control = False".to_owned(),
                "orch uses remote control to check that the worker is ready and alive, and to list its tasks",
                "remove it from the app, or overrule it for this worker: \
                 `[celery] settings = { \"worker.enable_remote_control\" = 1 }`",
            );
        }
        if let Some(accepted) = settings.get("accept_content")
            && !accepts_json(accepted)
        {
            self.refuse(
                format!("accept_content = {accepted}"),
                "orch sends tasks and control requests as JSON, which this worker discards",
                "add \"json\" to `accept_content` of the app",
            );
        }
        for (name, why, cure) in [
            (
                "task_serializer",
                "the worker writes its answers to control requests with it, and orch reads only JSON",
                "set it to \"json\" in the app, or for this worker: `[celery] settings = { \"task.serializer\" = \"json\" }`",
            ),
            (
                "event_serializer",
                "the worker writes its events with it, and orch reads only JSON",
                "set it to \"json\" in the app, or for this worker: `[celery] settings = { \"event.serializer\" = \"json\" }`",
            ),
        ] {
            if let Some(Value::String(serializer)) = settings.get(name)
                && !is_json(serializer)
            {
                self.refuse(format!("{name} = \"{serializer}\""), why, cure);
            }
        }
    }

    fn option(&mut self, options: &Value, name: &'static str, default: String) -> String {
        match options.get(name) {
            None | Some(Value::Null) => default,
            Some(Value::String(text)) if text == HIDDEN => default,
            Some(Value::String(text)) => text.clone(),
            Some(other) => {
                self.refuse(
                    format!("broker_transport_options: {name} = {other}"),
                    "orch expects a text here",
                    "write it as a text in `broker_transport_options` of the app",
                );
                default
            }
        }
    }

    fn priority_steps(&mut self, value: Option<&Value>) -> Option<Vec<u8>> {
        let value = value.filter(|value| !value.is_null())?;
        let steps: Option<Vec<u8>> = value
            .as_array()
            .filter(|steps| !steps.is_empty() && steps.len() <= MOST_STEPS)
            .and_then(|steps| {
                let step = |step: &Value| step.as_u64().and_then(|step| u8::try_from(step).ok());
                steps.iter().map(step).collect()
            });
        if steps.is_none() {
            self.refuse(
                format!("broker_transport_options: priority_steps = {value}"),
                "orch supports at least one step, each from 0 to 255",
                "write `priority_steps` as a list of such numbers, for example `list(range(10))`",
            );
        }
        steps
    }
}

/// Returns the names of transport options with values that a worker's answer hides.
fn hidden_options(settings: &Value) -> Vec<String> {
    let sections = ["broker_transport_options", "result_backend_transport_options"];
    let hidden = sections.into_iter().flat_map(|section| {
        let options = settings.get(section).and_then(Value::as_object).into_iter().flatten();
        options
            .filter(|(_, value)| value.as_str() == Some(HIDDEN))
            .map(move |(name, _)| format!("`{name}` of `{section}`"))
    });
    hidden.collect()
}

/// Returns true if Python treats the value as true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn is_json(name: &str) -> bool {
    name == "json" || name == "application/json"
}

fn accepts_json(accepted: &Value) -> bool {
    match accepted {
        // Python's `None` accepts all enabled formats; Celery splits a single text at commas.
        Value::Null => true,
        Value::String(text) => text.split(',').any(|name| is_json(name.trim())),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is_json),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_become_names() {
        let default = TransportSettings::default();
        for (settings, expected) in [
            (json!({}), default.clone()),
            (
                json!({"broker_transport_options": null, "accept_content": ["json"]}),
                default.clone(),
            ),
            (
                json!({"broker_transport_options": {"global_keyprefix": "shop-"}, "backend_key_prefix": "R_"}),
                TransportSettings {
                    key_prefix: "shop-".to_owned(),
                    backend_key_prefix: "R_".to_owned(),
                    ..default.clone()
                },
            ),
            (
                json!({"broker_transport_options": {"sep": ":", "priority_steps": [0, 5]}}),
                TransportSettings {
                    separator: ":".to_owned(),
                    priority_steps: vec![0, 5],
                    ..default.clone()
                },
            ),
            (
                json!({"broker_transport_options": {"fanout_prefix": false, "fanout_patterns": 0}}),
                TransportSettings {
                    fanout_prefix: String::new(),
                    fanout_patterns: false,
                    ..default.clone()
                },
            ),
            (
                json!({"broker_transport_options": {"fanout_prefix": true, "fanout_patterns": true}}),
                default.clone(),
            ),
            (
                json!({"broker_transport_options": {"unacked_key": "********", "global_keyprefix": "********"}}),
                default.clone(),
            ),
            (
                json!({"broker_transport_options": {"fanout_prefix": "/a.", "unacked_key": "u", "unacked_index_key": "i"},
                       "control_exchange": "c", "event_exchange": "e"}),
                TransportSettings {
                    fanout_prefix: "/a.".to_owned(),
                    unacked_key: "u".to_owned(),
                    unacked_index_key: "i".to_owned(),
                    control_exchange: "c".to_owned(),
                    event_exchange: "e".to_owned(),
                    ..default
                },
            ),
        ] {
            let read = AppSettings::read(&settings);
            assert_eq!(read.transport, expected, "{settings}");
            assert_eq!(read.check("app"), Ok(()), "{settings}");
        }
    }

    #[test]
    fn hidden_options_are_named() {
        let settings = json!({
            "broker_transport_options": {"global_keyprefix": "********", "sep": ":"},
            "result_backend_transport_options": {"global_keyprefix": "********"},
        });
        assert_eq!(
            hidden_options(&settings),
            [
                "`global_keyprefix` of `broker_transport_options`",
                "`global_keyprefix` of `result_backend_transport_options`"
            ]
        );
        assert!(hidden_options(&json!({"broker_transport_options": null})).is_empty());
    }

    #[test]
    fn unsupported_settings_are_refused_by_name() {
        for (settings, name) in [
            (
                json!({"worker_enable_remote_control": false}),
                "worker_enable_remote_control = False",
            ),
            (
                json!({"worker_enable_remote_control": 0}),
                "worker_enable_remote_control",
            ),
            (json!({"accept_content": ["pickle"]}), "accept_content = [\"pickle\"]"),
            (json!({"accept_content": []}), "accept_content"),
            (json!({"task_serializer": "pickle"}), "task_serializer = \"pickle\""),
            (json!({"event_serializer": "yaml"}), "event_serializer"),
            (json!({"broker_transport_options": {"sep": ""}}), "sep"),
            (json!({"broker_transport_options": {"sep": 3}}), "sep = 3"),
            (
                json!({"broker_transport_options": {"global_keyprefix": ["x"]}}),
                "global_keyprefix",
            ),
            (
                json!({"broker_transport_options": {"priority_steps": []}}),
                "priority_steps",
            ),
            (
                json!({"broker_transport_options": {"priority_steps": [-1]}}),
                "priority_steps = [-1]",
            ),
            (
                json!({"broker_transport_options": {"priority_steps": [0, 300]}}),
                "priority_steps",
            ),
            (
                json!({"broker_transport_options": {"priority_steps": "0123"}}),
                "priority_steps",
            ),
        ] {
            let failure = AppSettings::read(&settings)
                .check("shop")
                .expect_err("refused")
                .to_string();
            assert!(
                failure.contains(name) && failure.contains("`shop`"),
                "{settings}: {failure}"
            );
            assert!(failure.contains("hint"), "{failure}");
        }
        for accepted in [
            json!(["json"]),
            json!(["application/json", "pickle"]),
            json!("pickle,json"),
            json!(null),
        ] {
            let settings =
                json!({ "accept_content": accepted, "task_serializer": "json", "result_serializer": "pickle" });
            assert_eq!(AppSettings::read(&settings).check("shop"), Ok(()), "{settings}");
        }
    }
}
