//! `[services.<name>]`: any command, kept running or run once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::environment::merge;
use crate::launcher::ProcessLauncher;
use crate::probes::probe;
use crate::probes::probe::ProbeContext;
use crate::python_output;
use crate::service_kind::{BoxedFuture, PreparedStart, ServiceKind, ServiceStart, not_ready};
use crate::states::ServiceRole;
use orch_base::files::log_bound::LogBound;
use orch_base::files::log_stream;
use orch_base::text::duration_text::shown;
use orch_config::{CommandConfig, CommandKind, LivenessConfig};
use orch_guard::{SpawnOrder, StopPlan};
use orch_journal::ServiceName;
use orch_journal::failure::{BUFFERED_OUTPUT_HINT, ServiceFailure};

/// One configured command.
pub struct CommandService {
    config: CommandConfig,
    order: SpawnOrder,
    probe_context: ProbeContext,
}

impl CommandService {
    /// Creates the service. `base` contains the variables of `env_file` and caller, `must` the address of Redis.
    pub fn new(
        config: &CommandConfig,
        base: &[(String, String)],
        must: &[(String, Option<String>)],
        log: PathBuf,
        rank: u32,
        launcher: ProcessLauncher,
    ) -> Self {
        let order = SpawnOrder {
            service: config.name.as_str().to_owned(),
            argv: argv(config),
            environment: merge(base, &config.env, must),
            directory: config.directory.clone(),
            log,
            stop: StopPlan::new(rank, [(config.stop_signal, config.grace)]),
        };
        Self {
            config: config.clone(),
            probe_context: ProbeContext::new(launcher, &order),
            order,
        }
    }
}

/// Returns the program and the arguments; a program with a slash is relative to the service's directory.
fn argv(config: &CommandConfig) -> Vec<String> {
    let mut argv = config.command.clone();
    if let Some(program) = argv.first_mut()
        && program.contains('/')
        && !program.starts_with('/')
    {
        *program = config.directory.join(&*program).to_string_lossy().into_owned();
    }
    argv
}

impl ServiceKind for CommandService {
    fn name(&self) -> &ServiceName {
        &self.config.name
    }

    fn role(&self) -> ServiceRole {
        match &self.config.kind {
            CommandKind::Daemon {
                restart,
                liveness,
                readiness,
                ..
            } => ServiceRole::Daemon {
                restart: *restart,
                liveness_failures: liveness.as_ref().map_or(u32::MAX, |(_, config)| config.failures),
                ready_at_spawn: readiness.is_none(),
            },
            CommandKind::Oneshot { .. } => ServiceRole::Oneshot,
        }
    }

    fn log(&self) -> &Path {
        &self.order.log
    }

    fn log_bound(&self) -> LogBound {
        self.config.log
    }

    fn probe_log(&self) -> Option<&Path> {
        let CommandKind::Daemon {
            readiness, liveness, ..
        } = &self.config.kind
        else {
            return None;
        };
        let mut probes = readiness.iter().chain(liveness.iter().map(|(probe, _)| probe));
        let runs_commands = probes.any(|probe| matches!(probe, orch_config::Probe::Exec { .. }));
        runs_commands.then_some(self.probe_context.probe_log.as_path())
    }

    fn start_timeout(&self) -> Duration {
        match &self.config.kind {
            CommandKind::Daemon { start_timeout, .. } => *start_timeout,
            CommandKind::Oneshot { timeout } => *timeout,
        }
    }

    fn liveness(&self) -> Option<LivenessConfig> {
        match &self.config.kind {
            CommandKind::Daemon { liveness, .. } => liveness.as_ref().map(|(_, config)| *config),
            CommandKind::Oneshot { .. } => None,
        }
    }

    fn prepare(self: Arc<Self>) -> BoxedFuture<Result<PreparedStart, ServiceFailure>> {
        Box::pin(async move {
            if let CommandKind::Daemon {
                readiness, liveness, ..
            } = &self.config.kind
            {
                let liveness = liveness.as_ref().map(|(probe, _)| probe);
                let probes = readiness.iter().chain(liveness);
                probes.for_each(|probe| self.probe_context.earlier_listeners.note(probe));
            }
            Ok(PreparedStart::Spawn(Box::new(self.order.clone())))
        })
    }

    fn buffers_output(&self) -> bool {
        let order = &self.order;
        python_output::starts_buffered(&order.argv, &order.environment, &order.directory)
    }

    fn ready(self: Arc<Self>, start: ServiceStart) -> BoxedFuture<Result<String, ServiceFailure>> {
        Box::pin(async move {
            match &self.config.kind {
                CommandKind::Daemon { readiness: None, .. } => Ok("running".to_owned()),
                CommandKind::Daemon {
                    readiness: Some(probe),
                    start_timeout,
                    ..
                } => {
                    probe::until_passed(probe, &self.probe_context, start.log_offset, start.deadline)
                        .await
                        .map_err(|error| {
                            let hint = match self.probe_context.earlier_listeners.check(probe) {
                                Ok(()) if is_silent(&self.order.log, &start) => BUFFERED_OUTPUT_HINT,
                                Ok(()) => "`start_timeout` sets how long it may take",
                                Err(_held) => {
                                    "end the process that listens there, or give the service another port; an `exec` probe \
                                     may ask through the server of another service"
                                }
                            };
                            let what = format!("`{}`", self.config.name);
                            not_ready(&what, *start_timeout, error, &self.order.log).hint(hint)
                        })?;
                    Ok(format!("{} passed", kind_of(probe)))
                }
                CommandKind::Oneshot { timeout } => {
                    tokio::time::sleep_until(start.deadline.into()).await;
                    let what = format!("`{}` has not ended after {}", self.config.name, shown(*timeout));
                    Err(ServiceFailure::infrastructure(what)
                        .with_log(&self.order.log)
                        .hint("a oneshot must end by itself; `timeout` sets how long it may take"))
                }
            }
        })
    }

    fn alive(self: Arc<Self>) -> BoxedFuture<Result<(), String>> {
        Box::pin(async move {
            match &self.config.kind {
                CommandKind::Daemon {
                    liveness: Some((probe, config)),
                    ..
                } => match probe::once(probe, &self.probe_context, 0, config.timeout).await {
                    // The part of the log that may have had the text is removed.
                    Err(_) if is_log_probe(probe) && !log_stream::has(&self.order.log, 0) => Ok(()),
                    result => result,
                },
                CommandKind::Daemon { liveness: None, .. } | CommandKind::Oneshot { .. } => Ok(()),
            }
        })
    }
}

/// Returns true if the log is empty because Python buffers the output.
fn is_silent(log: &Path, start: &ServiceStart) -> bool {
    log_stream::length(log) <= start.log_offset && start.pid.is_some_and(python_output::runs_buffered)
}

fn is_log_probe(probe: &orch_config::Probe) -> bool {
    matches!(probe, orch_config::Probe::Log { .. })
}

fn kind_of(probe: &orch_config::Probe) -> &'static str {
    use orch_config::Probe;
    match probe {
        Probe::Tcp { .. } => "tcp probe",
        Probe::Http { .. } => "http probe",
        Probe::Log { .. } => "log probe",
        Probe::File { .. } => "file probe",
        Probe::Exec { .. } => "exec probe",
    }
}
