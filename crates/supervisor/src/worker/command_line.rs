//! The start of a worker: node name and command line.

use std::path::Path;

use crate::redis::connection::RedisConnection;
use orch_celery::NodeName;
use orch_config::{BeatMode, CeleryConfig};

/// Options for `[celery] acks_late`. Without the second one a task in a killed pool process would be acknowledged as
/// failed.
const LATE_ACKNOWLEDGEMENT: [&str; 2] = ["task.acks_late=1", "task.reject_on_worker_lost=1"];

/// Returns `<instance>@<host name>`, written out so that the name does not depend on Celery's expansion of `%h`.
pub fn node_name(instance: &str) -> NodeName {
    let host = nix::unistd::gethostname().unwrap_or_else(|_| "localhost".into());
    NodeName::new(format!("{instance}@{}", host.to_string_lossy()))
}

/// Returns the settings that follow `--` on the worker's command line.
pub fn settings(config: &CeleryConfig, connection: &RedisConnection) -> Vec<String> {
    let mut settings = connection.celery_settings().to_vec();
    if config.acks_late {
        settings.extend(LATE_ACKNOWLEDGEMENT.map(str::to_owned));
    }
    // The last setting of a name applies, so explicit settings win.
    settings.extend(config.settings.iter().map(|(name, value)| format!("{name}={value}")));
    settings
}

/// Builds the command line of the worker: without gossip, with events, with the settings of `[celery]`.
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
    // The worker does not need other workers, and the wait of mingle costs a second at every start.
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
