//! How a worker is started: its node name and its command line.

use std::path::Path;

use super::connection::RedisConnection;
use crate::celery::NodeName;
use crate::config::{BeatMode, CeleryConfig};

/// `[celery] acks_late` as the worker's command line says it. Without the second a task whose pool process was killed
/// would be acknowledged as failed.
const LATE_ACKNOWLEDGEMENT: [&str; 2] = ["task.acks_late=1", "task.reject_on_worker_lost=1"];

/// `<instance>@<host name>`, written out so that it does not depend on how Celery expands `%h`.
pub fn node_name(instance: &str) -> NodeName {
    let host = nix::unistd::gethostname().unwrap_or_else(|_| "localhost".into());
    NodeName::new(format!("{instance}@{}", host.to_string_lossy()))
}

/// Returns the settings that stand behind `--` of the worker's command line.
pub fn settings(config: &CeleryConfig, connection: &RedisConnection) -> Vec<String> {
    let mut settings = connection.celery_settings().to_vec();
    if config.acks_late {
        settings.extend(LATE_ACKNOWLEDGEMENT.map(str::to_owned));
    }
    // The last one of a name holds: what is written out is stronger.
    settings.extend(config.settings.iter().map(|(name, value)| format!("{name}={value}")));
    settings
}

/// The command line of the worker: alone, with events, with the settings of `[celery]`.
pub fn worker_argv(
    config: &CeleryConfig,
    connection: &RedisConnection,
    program: &Path,
    node: &NodeName,
) -> Vec<String> {
    let mut argv = vec![
        program.to_string_lossy().into_owned(),
        "-A".into(),
        config.app.clone(),
        "worker".into(),
    ];
    let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    option("-n", node.to_string());
    option("-Q", config.queues.join(","));
    option("-c", config.concurrency.to_string());
    option("-P", config.pool.clone());
    option("-l", config.log_level.clone());
    argv.push("-E".into());
    // Alone, it has nobody to mingle with: that wait is a second of every start.
    argv.extend(["--without-mingle".into(), "--without-gossip".into()]);
    if config.beat == BeatMode::Embedded {
        argv.extend([
            "-B".into(),
            "-s".into(),
            config.beat_schedule.to_string_lossy().into_owned(),
        ]);
    }
    argv.extend(config.extra_args.iter().cloned());
    let settings = settings(config, connection);
    if !settings.is_empty() {
        argv.push("--".into());
        argv.extend(settings);
    }
    argv
}
