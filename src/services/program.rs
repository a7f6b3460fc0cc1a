//! What the supervisor must know of a kind of service: how it is found, started, and asked how it is.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use super::failure::Failure;
use super::life::Role;
use crate::config::LivenessConfig;
use crate::guard::SpawnOrder;
use crate::run::ServiceName;

/// A future that a probe task can own.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a look around before the start has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// A healthy one is there: use it, never stop it. The text says what answered.
    Reuse(String),
    /// Start it so.
    Spawn(Box<SpawnOrder>),
}

/// One start, as its readiness probe sees it.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// When waiting ends.
    pub deadline: Instant,
    /// When it was spawned.
    pub spawned: Instant,
    /// Its main process; `None` where it has ended already.
    pub pid: Option<i32>,
    /// Length of its log before it was spawned: what is before that was said by an earlier one.
    pub log_offset: u64,
}

/// A kind of service. Implementations hold what they need; the supervisor holds the state.
pub trait Program: Send + Sync {
    /// Its name, unique in the run.
    fn name(&self) -> &ServiceName;

    /// Kept running, or run once.
    fn role(&self) -> Role;

    /// Where its output goes.
    fn log(&self) -> &Path;

    /// How long it may take to become ready (a oneshot: to end).
    fn start_timeout(&self) -> std::time::Duration;

    /// How often and how it is asked whether it lives; `None`: the process is proof enough.
    fn liveness(&self) -> Option<LivenessConfig>;

    /// Whether its death may have lost tasks that it had taken.
    fn holds_tasks(&self) -> bool {
        false
    }

    /// Bytes that its processes may hold together; above that it is started anew.
    fn max_memory(&self) -> Option<u64> {
        None
    }

    /// Whether it is up only while somebody needs it: then its failure is theirs, not the run's.
    fn is_on_demand(&self) -> bool {
        false
    }

    /// Looks for a healthy one, and makes what the start needs.
    fn prepare(self: Arc<Self>) -> Boxed<Result<Prepared, Failure>>;

    /// Removes the cause of a start that has just failed, if it is known from the log from `log_offset` on, and gives what
    /// to tell the user; the program is then started again.
    fn mend_start(&self, _log_offset: u64) -> Option<String> {
        None
    }

    /// Gives the reason why a program that has died may have left nothing in its log, and what to do about it.
    fn explain_silence(&self) -> Option<&'static str> {
        None
    }

    /// Waits until others may use it, up to the start's deadline; tells what answered. A oneshot never is ready.
    fn ready(self: Arc<Self>, start: Start) -> Boxed<Result<String, Failure>>;

    /// Asks once whether it lives; the caller bounds the wait. The text says what is wrong.
    fn alive(self: Arc<Self>) -> Boxed<Result<(), String>>;
}
