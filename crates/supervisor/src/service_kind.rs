//! The interface between the supervisor and a kind of service: check, start, probes.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::states::ServiceRole;
use orch_base::files::log_bound::LogBound;
use orch_base::text::duration_text::shown;
use orch_config::LivenessConfig;
use orch_guard::SpawnOrder;
use orch_journal::failure::ServiceFailure;
use orch_journal::{EventKind, ServiceName};

/// A future that a probe task can own.
pub type BoxedFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The result of the check before a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreparedStart {
    /// A healthy server is already running: orch uses that server and never stops it. The text describes what answered.
    Reuse(String),
    /// Start the service with this order.
    Spawn(Box<SpawnOrder>),
}

/// One start, as seen by the readiness probe.
#[derive(Clone, Copy, Debug)]
pub struct ServiceStart {
    /// Time at which the wait for readiness ends.
    pub deadline: Instant,
    /// Time of the spawn.
    pub spawned: Instant,
    /// The main process; `None` for an ended process.
    pub pid: Option<i32>,
    /// Position of the end of the log before the spawn: earlier text comes from an earlier process.
    pub log_offset: u64,
}

/// Returns the failure of a service that is not ready in time.
pub(crate) fn not_ready(what: &str, after: Duration, cause: String, log: &Path) -> ServiceFailure {
    ServiceFailure::infrastructure(format!("{what} is not ready after {}", shown(after)))
        .with_cause(cause)
        .with_log(log)
}

/// A kind of service. An implementation holds the data of the kind; the supervisor holds the state.
pub trait ServiceKind: Send + Sync {
    /// Returns the name, which is unique in the run.
    fn name(&self) -> &ServiceName;

    /// Returns the role: kept running, or run once.
    fn role(&self) -> ServiceRole;

    /// Returns the file that the output goes to.
    fn log(&self) -> &Path;

    /// Returns the bound of each log of the service.
    fn log_bound(&self) -> LogBound {
        LogBound::default()
    }

    /// Returns the log of the commands that probe the service.
    fn probe_log(&self) -> Option<&Path> {
        None
    }

    /// Returns the longest time until the service is ready (a oneshot: until the end).
    fn start_timeout(&self) -> Duration;

    /// Returns interval and timeout of the liveness probe; `None` if the existence of the process is sufficient.
    fn liveness(&self) -> Option<LivenessConfig>;

    /// Returns true if the death of a process may lose tasks that the process had taken.
    fn holds_tasks(&self) -> bool {
        false
    }

    /// Returns the bytes that the service's processes may use together; a service above this limit is started again.
    fn max_memory(&self) -> Option<u64> {
        None
    }

    /// Returns true if the service is up only while a caller needs it: a failure then does not end the run.
    fn is_on_demand(&self) -> bool {
        false
    }

    /// Checks for a healthy server that is already running, and prepares the start.
    fn prepare(self: Arc<Self>) -> BoxedFuture<Result<PreparedStart, ServiceFailure>>;

    /// Removes the cause of a start that has just failed, if the log from `log_offset` on shows the cause. Returns the
    /// event that states the cause; the program is then started again.
    fn repair_start(&self, _log_offset: u64) -> Option<EventKind> {
        None
    }

    /// Returns true if a program that died may have left nothing in the log because of buffered output.
    fn buffers_output(&self) -> bool {
        false
    }

    /// Waits until other services may use this one, up to the start's deadline; describes what answered. A oneshot is
    /// never ready.
    fn ready(self: Arc<Self>, start: ServiceStart) -> BoxedFuture<Result<String, ServiceFailure>>;

    /// Probes once whether the service is alive; the caller bounds the wait. The text describes the problem.
    fn alive(self: Arc<Self>) -> BoxedFuture<Result<(), String>>;
}
