//! Stand-alone `celery beat`: ready when it runs and has written its schedule.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::connection::RedisConnection;
use super::environment::merge;
use super::failure::Failure;
use super::launcher::Launcher;
use super::probe::{self, ProbeContext};
use super::program::{Boxed, Prepared, Program, Start};
use super::state::Role;
use crate::config::{CeleryConfig, LivenessConfig, Probe};
use crate::guard::{SpawnOrder, StopPlan, StopStep};
use crate::run::ServiceName;

/// Beat needs no longer than a Python process takes to end.
const GRACE: Duration = Duration::from_secs(3);

/// Beat as a service of its own.
pub struct Beat {
    name: ServiceName,
    config: CeleryConfig,
    order: SpawnOrder,
    context: ProbeContext,
}

impl Beat {
    /// `program` is the `celery` command.
    pub fn new(
        config: &CeleryConfig,
        connection: &RedisConnection,
        program: &Path,
        log: PathBuf,
        base: &[(String, String)],
        rank: u32,
        launcher: Launcher,
    ) -> Self {
        let environment = merge(base, &config.env, &connection.environment());
        let schedule = config.beat_schedule.to_string_lossy().into_owned();
        let mut argv = vec![
            program.to_string_lossy().into_owned(),
            "-A".into(),
            config.app.clone(),
            "beat".into(),
        ];
        // Two beats would schedule everything twice; the instance lock prevents that, so there is no stale pid file.
        argv.extend([
            "-s".into(),
            schedule,
            "-l".into(),
            config.log_level.clone(),
            "--pidfile=".into(),
        ]);
        let context = ProbeContext {
            launcher,
            service: "beat".to_owned(),
            directory: config.directory.clone(),
            environment: environment.clone(),
            log: log.clone(),
            probe_log: log.with_extension("probe.log"),
        };
        let order = SpawnOrder {
            service: "beat".to_owned(),
            argv,
            environment,
            directory: config.directory.clone(),
            log,
            stop: StopPlan {
                rank,
                steps: vec![StopStep {
                    signal: nix::libc::SIGTERM,
                    grace: GRACE,
                }],
            },
        };
        Self {
            name: "beat".into(),
            config: config.clone(),
            order,
            context,
        }
    }
}

/// Makes the directory that the schedule file is to be in.
pub fn make_schedule_directory(schedule: &Path) -> Result<(), Failure> {
    let Some(directory) = schedule.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        Failure::infrastructure(format!(
            "make the directory of beat's schedule, {}",
            directory.display()
        ))
        .because(error.to_string())
    })
}

impl Program for Beat {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> Role {
        Role::Daemon {
            restart: self.config.restart,
            liveness_failures: u32::MAX,
        }
    }

    fn log(&self) -> &Path {
        &self.order.log
    }

    fn start_timeout(&self) -> Duration {
        self.config.start_timeout
    }

    fn liveness(&self) -> Option<LivenessConfig> {
        None
    }

    fn prepare(self: Arc<Self>) -> Boxed<Result<Prepared, Failure>> {
        Box::pin(async move {
            make_schedule_directory(&self.config.beat_schedule)?;
            Ok(Prepared::Spawn(Box::new(self.order.clone())))
        })
    }

    fn ready(self: Arc<Self>, start: Start) -> Boxed<Result<String, Failure>> {
        Box::pin(async move {
            // shelve chooses the file's suffix by platform, so its own word is the witness.
            let said = Probe::Log {
                contains: "beat: Starting...".to_owned(),
            };
            match probe::until_passed(&said, &self.context, start.log_offset, start.deadline).await {
                Ok(()) => Ok(format!("schedule {}", self.config.beat_schedule.display())),
                Err(error) => {
                    let what = format!("beat is not ready after {:?}", self.config.start_timeout);
                    Err(Failure::infrastructure(what).because(error).with_log(&self.order.log))
                }
            }
        })
    }

    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>> {
        Box::pin(async move { Ok(()) })
    }
}
