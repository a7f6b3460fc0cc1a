//! Stand-alone `celery beat`: ready when it runs and has written its schedule, or says that it starts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::connection::RedisConnection;
use super::earlier_listener::EarlierListeners;
use super::environment::merge;
use super::failure::Failure;
use super::import_path;
use super::launcher::Launcher;
use super::life::Role;
use super::probe::{self, ProbeContext};
use super::program::{Boxed, Prepared, Program, Start};
use crate::config::{CeleryConfig, LivenessConfig, Probe};
use crate::duration_text::shown;
use crate::guard::{SpawnOrder, StopPlan, StopStep};
use crate::run::ServiceName;

/// Beat needs no longer than a Python process takes to end.
const GRACE: Duration = Duration::from_secs(3);
/// A scheduler of another kind (one that keeps its schedule in a database) writes no file, and a high log level hides
/// its words: one that has run this long has read its app and its schedule.
const SETTLED: Duration = Duration::from_secs(5);
/// From one look at log and schedule to the next. Both change without an event for us: the schedule has as many files
/// as the platform's dbm likes, some of them written through a memory map, which inotify does not see.
const PAUSE: Duration = Duration::from_millis(50);
/// What beat says at level INFO once it has its schedule.
const SAID: &str = "beat: Starting...";

/// Beat as a service of its own.
pub struct Beat {
    name: ServiceName,
    config: CeleryConfig,
    order: SpawnOrder,
    context: ProbeContext,
    /// The schedule's files as they were before the start.
    before: Mutex<Stamps>,
}

/// Name, size and time of change of each file of a schedule.
type Stamps = BTreeSet<(PathBuf, u64, SystemTime)>;

/// The files of a schedule: its path, or its path with a suffix that the platform's dbm adds.
fn stamps(schedule: &Path) -> Stamps {
    let (Some(directory), Some(name)) = (schedule.parent(), schedule.file_name()) else {
        return Stamps::new();
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let own = entries.filter(|entry| {
        let (found, name) = (entry.file_name(), name.as_encoded_bytes());
        let rest = found.as_encoded_bytes().strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
    });
    own.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some((entry.path(), metadata.len(), metadata.modified().ok()?))
    })
    .collect()
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
        if !connection.celery_settings().is_empty() {
            argv.push("--".into());
            argv.extend(connection.celery_settings().iter().cloned());
        }
        let context = ProbeContext {
            launcher,
            service: "beat".to_owned(),
            directory: config.directory.clone(),
            environment: environment.clone(),
            log: log.clone(),
            earlier: EarlierListeners::default(),
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
            before: Mutex::default(),
        }
    }

    /// What shows that it has its schedule.
    async fn evidence(&self, start: Start) -> Option<String> {
        let schedule = self.config.beat_schedule.display();
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if stamps(&self.config.beat_schedule) != before {
            return Some(format!("schedule {schedule}"));
        }
        let said = Probe::Log {
            contains: SAID.to_owned(),
        };
        if probe::once(&said, &self.context, start.log_offset, PAUSE).await.is_ok() {
            return Some("it says that it starts".to_owned());
        }
        (start.spawned.elapsed() >= SETTLED.min(self.config.start_timeout)).then(|| {
            format!(
                "running for {}; it has written no schedule to {schedule}",
                shown(SETTLED)
            )
        })
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
            ready_at_spawn: false,
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
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.config.beat_schedule);
            let mut order = self.order.clone();
            // The worker says where that cannot be done.
            import_path::extend(&mut order.environment, &self.config.directory);
            Ok(Prepared::Spawn(Box::new(order)))
        })
    }

    fn ready(self: Arc<Self>, start: Start) -> Boxed<Result<String, Failure>> {
        Box::pin(async move {
            // Its early end is the supervisor's to see.
            loop {
                if let Some(evidence) = self.evidence(start).await {
                    return Ok(evidence);
                }
                tokio::time::sleep(PAUSE).await;
            }
        })
    }

    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>> {
        Box::pin(async move { Ok(()) })
    }
}
