//! Stand-alone `celery beat`: ready when beat runs and has written the schedule, or has logged the start.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::environment::merge;
use crate::import_path;
use crate::launcher::ProcessLauncher;
use crate::probes::probe;
use crate::probes::probe::ProbeContext;
use crate::redis::connection::RedisConnection;
use crate::service_kind::{BoxedFuture, PreparedStart, ServiceKind, ServiceStart};
use crate::states::ServiceRole;
use orch_base::files::log_bound::LogBound;
use orch_base::text::duration_text::shown;
use orch_config::{CeleryConfig, LivenessConfig, Probe};
use orch_guard::{SpawnOrder, StopPlan};
use orch_journal::ServiceName;
use orch_journal::failure::ServiceFailure;

/// Grace period of beat, which ends as fast as any Python process.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Time after which a running beat counts as ready. A scheduler of another kind (with the schedule in a database)
/// writes no file, and a high log level hides the message; after this time beat has read app and schedule.
const SETTLED_DELAY: Duration = Duration::from_secs(5);
/// Interval between two looks at log and schedule. Neither change causes an event for orch: the platform's dbm decides
/// the number of the schedule's files, and writes some of them through a memory map, which inotify does not report.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Message of beat at level INFO once the schedule is there.
const START_MESSAGE: &str = "beat: Starting...";

/// Beat as a separate service.
pub struct BeatService {
    name: ServiceName,
    config: CeleryConfig,
    order: SpawnOrder,
    context: ProbeContext,
    /// The schedule's files before the start.
    before: Mutex<ScheduleFiles>,
}

/// Path, size and modification time of each file of a schedule.
type ScheduleFiles = BTreeSet<(PathBuf, u64, SystemTime)>;

/// Lists the files of a schedule: the path itself, or the path with a suffix that the platform's dbm adds.
fn stamps(schedule: &Path) -> ScheduleFiles {
    let (Some(directory), Some(name)) = (schedule.parent(), schedule.file_name()) else {
        return ScheduleFiles::new();
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

impl BeatService {
    /// Builds the service; `program` is the `celery` command.
    pub fn new(
        config: &CeleryConfig,
        connection: &RedisConnection,
        program: &Path,
        log: PathBuf,
        base: &[(String, String)],
        rank: u32,
        launcher: ProcessLauncher,
    ) -> Self {
        let environment = merge(base, &config.env, &connection.environment());
        let schedule = config.beat_schedule.to_string_lossy().into_owned();
        let mut argv = vec![
            program.to_string_lossy().into_owned(),
            "-A".into(),
            config.app.clone(),
            "beat".into(),
        ];
        // Two beats would schedule every task twice. The instance lock prevents that, so no pid file is needed, which
        // could be stale.
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
        let order = SpawnOrder {
            service: "beat".to_owned(),
            argv,
            environment,
            directory: config.directory.clone(),
            log,
            stop: StopPlan::new(rank, [(nix::libc::SIGTERM, STOP_GRACE)]),
        };
        Self {
            name: "beat".into(),
            config: config.clone(),
            context: ProbeContext::new(launcher, &order),
            order,
            before: Mutex::default(),
        }
    }

    /// Returns the evidence that beat has the schedule.
    async fn evidence(&self, start: ServiceStart) -> Option<String> {
        let schedule = self.config.beat_schedule.display();
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if stamps(&self.config.beat_schedule) != before {
            return Some(format!("schedule {schedule}"));
        }
        let start_message = Probe::Log {
            contains: START_MESSAGE.to_owned(),
        };
        if probe::once(&start_message, &self.context, start.log_offset, POLL_INTERVAL)
            .await
            .is_ok()
        {
            return Some("it logged its start".to_owned());
        }
        (start.spawned.elapsed() >= SETTLED_DELAY.min(self.config.start_timeout))
            .then(|| format!("running for {} without a schedule in {schedule}", shown(SETTLED_DELAY)))
    }
}

/// Creates the directory of the schedule file.
pub fn create_schedule_directory(schedule: &Path) -> Result<(), ServiceFailure> {
    let Some(directory) = schedule.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        ServiceFailure::infrastructure(format!(
            "could not create the directory of beat's schedule, {}",
            directory.display()
        ))
        .with_cause(error.to_string())
    })
}

impl ServiceKind for BeatService {
    fn name(&self) -> &ServiceName {
        &self.name
    }

    fn role(&self) -> ServiceRole {
        ServiceRole::probed_daemon(self.config.restart, u32::MAX)
    }

    fn log(&self) -> &Path {
        &self.order.log
    }

    fn log_bound(&self) -> LogBound {
        self.config.log
    }

    fn start_timeout(&self) -> Duration {
        self.config.start_timeout
    }

    fn liveness(&self) -> Option<LivenessConfig> {
        None
    }

    fn prepare(self: Arc<Self>) -> BoxedFuture<Result<PreparedStart, ServiceFailure>> {
        Box::pin(async move {
            create_schedule_directory(&self.config.beat_schedule)?;
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) = stamps(&self.config.beat_schedule);
            let mut order = self.order.clone();
            // The worker reports if that is not possible.
            import_path::extend(&mut order.environment, &self.config.directory);
            Ok(PreparedStart::Spawn(Box::new(order)))
        })
    }

    fn ready(self: Arc<Self>, start: ServiceStart) -> BoxedFuture<Result<String, ServiceFailure>> {
        Box::pin(async move {
            // The supervisor notices an early end of beat.
            loop {
                if let Some(evidence) = self.evidence(start).await {
                    return Ok(evidence);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
    }

    fn alive(self: Arc<Self>) -> BoxedFuture<Result<(), String>> {
        Box::pin(async move { Ok(()) })
    }
}
