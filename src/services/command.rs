//! `[services.<name>]`: any command, kept running or run once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::earlier_listener::EarlierListeners;
use super::entry::log_length;
use super::environment::merge;
use super::failure::Failure;
use super::launcher::Launcher;
use super::life::Role;
use super::probe::{self, ProbeContext};
use super::program::{Boxed, Prepared, Program, Start};
use super::python_output;
use crate::config::{CommandConfig, CommandKind, LivenessConfig};
use crate::duration_text::shown;
use crate::guard::{SpawnOrder, StopPlan, StopStep};
use crate::run::ServiceName;

/// One configured command.
pub struct Command {
    config: CommandConfig,
    order: SpawnOrder,
    probe_context: ProbeContext,
}

impl Command {
    /// `base` are the variables of `env_file` and caller, `must` those that tell where Redis is.
    pub fn new(
        config: &CommandConfig,
        base: &[(String, String)],
        must: &[(String, Option<String>)],
        log: PathBuf,
        rank: u32,
        launcher: Launcher,
    ) -> Self {
        let environment = merge(base, &config.env, must);
        let probe_context = ProbeContext {
            launcher,
            service: config.name.as_str().to_owned(),
            directory: config.directory.clone(),
            environment: environment.clone(),
            log: log.clone(),
            earlier: EarlierListeners::default(),
            probe_log: log.with_extension("probe.log"),
        };
        let order = SpawnOrder {
            service: config.name.as_str().to_owned(),
            argv: argv(config),
            environment,
            directory: config.directory.clone(),
            log,
            stop: StopPlan {
                rank,
                steps: vec![StopStep {
                    signal: config.stop_signal,
                    grace: config.grace,
                }],
            },
        };
        Self {
            config: config.clone(),
            order,
            probe_context,
        }
    }
}

/// A program with a slash is relative to the service's directory, like in a shell that stands there.
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

impl Program for Command {
    fn name(&self) -> &ServiceName {
        &self.config.name
    }

    fn role(&self) -> Role {
        match &self.config.kind {
            CommandKind::Daemon {
                restart,
                liveness,
                readiness,
                ..
            } => Role::Daemon {
                restart: *restart,
                liveness_failures: liveness.as_ref().map_or(u32::MAX, |(_, config)| config.failures),
                ready_at_spawn: readiness.is_none(),
            },
            CommandKind::Oneshot { .. } => Role::Oneshot,
        }
    }

    fn log(&self) -> &Path {
        &self.order.log
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

    fn prepare(self: Arc<Self>) -> Boxed<Result<Prepared, Failure>> {
        Box::pin(async move {
            if let CommandKind::Daemon {
                readiness, liveness, ..
            } = &self.config.kind
            {
                let liveness = liveness.as_ref().map(|(probe, _)| probe);
                let probes = readiness.iter().chain(liveness);
                probes.for_each(|probe| self.probe_context.earlier.note(probe));
            }
            Ok(Prepared::Spawn(Box::new(self.order.clone())))
        })
    }

    fn explain_silence(&self) -> Option<&'static str> {
        let order = &self.order;
        python_output::starts_buffered(&order.argv, &order.environment, &order.directory).then_some(python_output::CURE)
    }

    fn ready(self: Arc<Self>, start: Start) -> Boxed<Result<String, Failure>> {
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
                            let what = format!("`{}` is not ready after {}", self.config.name, shown(*start_timeout));
                            let hint = match self.probe_context.earlier.check(probe) {
                                Ok(()) if is_silent(&self.order.log, &start) => python_output::CURE,
                                Ok(()) => "`start_timeout` sets how long it may take",
                                Err(_held) => {
                                    "end what listens there, or give the service another port; an `exec` probe may ask \
                                     through another's server"
                                }
                            };
                            Failure::infrastructure(what)
                                .because(error)
                                .with_log(&self.order.log)
                                .hint(hint)
                        })?;
                    Ok(format!("{} passed", kind_of(probe)))
                }
                CommandKind::Oneshot { timeout } => {
                    tokio::time::sleep_until(start.deadline.into()).await;
                    let what = format!("`{}` has not ended after {}", self.config.name, shown(*timeout));
                    Err(Failure::infrastructure(what)
                        .with_log(&self.order.log)
                        .hint("a oneshot must end by itself; `timeout` sets how long it may take"))
                }
            }
        })
    }

    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>> {
        Box::pin(async move {
            match &self.config.kind {
                CommandKind::Daemon {
                    liveness: Some((probe, config)),
                    ..
                } => probe::once(probe, &self.probe_context, 0, config.timeout).await,
                CommandKind::Daemon { liveness: None, .. } | CommandKind::Oneshot { .. } => Ok(()),
            }
        })
    }
}

/// Decides whether the log has stayed empty for want of Python's output.
fn is_silent(log: &Path, start: &Start) -> bool {
    log_length(log) <= start.log_offset && start.pid.is_some_and(python_output::runs_buffered)
}

fn kind_of(probe: &crate::config::Probe) -> &'static str {
    use crate::config::Probe;
    match probe {
        Probe::Tcp { .. } => "tcp probe",
        Probe::Http { .. } => "http probe",
        Probe::Log { .. } => "log probe",
        Probe::File { .. } => "file probe",
        Probe::Exec { .. } => "exec probe",
    }
}
