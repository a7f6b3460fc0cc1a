//! Following of jobs: the parts that a site's job and a proxy refresh have in common, such as the dispatch result, the
//! chord and the progress keys.
//!
//! The stages are a pure state machine; the follower of a job provides the inputs from Celery and Redis. All jobs that
//! are followed at one time share a worker monitor.

mod auto_timeout;
mod cancel;
#[cfg(test)]
mod celery_model;
mod chunk_loss;
mod context;
#[cfg(test)]
mod contract_tests;
mod counts;
mod crash_loops;
mod dispatch_result;
mod driver;
mod event_end;
mod failures;
mod file_stamp;
mod follow_request;
mod header;
mod in_flight;
mod inputs;
mod inventory;
mod job_record;
#[cfg(test)]
mod machine_case;
#[cfg(test)]
mod model_canvas;
mod monitor;
mod outcome;
#[cfg(test)]
mod outcome_model;
#[cfg(test)]
mod outcome_table;
#[cfg(test)]
mod outcome_tests;
mod progress;
pub(crate) mod progress_keys;
pub(crate) mod publish;
pub mod python_literal;
mod refresh_requests;
mod remains;
mod shared_tick;
mod signals;
mod site_requests;
mod stale_executions;
mod state_machine;
#[cfg(test)]
mod state_machine_properties;
#[cfg(test)]
mod state_machine_tests;
mod state_steps;
mod stop_requests;
mod task_index;
#[cfg(test)]
mod task_index_tests;
mod timeout;
mod worker_logs;

pub use crate::jobs::auto_timeout::AutoTimeout;
pub use crate::jobs::cancel::{CancelLimits, CancelReport, cancel_jobs};
pub use crate::jobs::context::{JobContext, SettledCheck};
pub use crate::jobs::counts::merge_counts;
pub use crate::jobs::dispatch_result::{DispatchAnswer, Job, callback_counts};
pub use crate::jobs::driver::job_follower::JobFollower;
pub use crate::jobs::failures::failure_log::{FailureLog, FirstFailure};
pub use crate::jobs::failures::site_failures::SiteFailures;
pub use crate::jobs::file_stamp::FileStamp;
pub use crate::jobs::follow_request::{FollowRequest, JobEnd, JobUpdate, KeysPrefix};
pub(crate) use crate::jobs::in_flight::TakenInFlight;
pub use crate::jobs::in_flight::{InFlight, JobInFlight, SiteInFlight};
pub use crate::jobs::inputs::{JobFact, JobFailure, JobInput, TaskEnd, TaskTally};
pub use crate::jobs::monitor::kept::KeptMonitor;
pub use crate::jobs::monitor::remaining_work::RemainingWork;
pub use crate::jobs::monitor::subscription::JobSubscription;
pub use crate::jobs::monitor::worker_monitor::WorkerMonitor;
pub use crate::jobs::outcome::HeaderLoss;
pub use crate::jobs::progress_keys::{KeysStatus, ProgressKeyValues};
pub use crate::jobs::publish::publish;
pub use crate::jobs::refresh_requests::{RefreshAnswer, RefreshCause, RefreshRequests};
pub(crate) use crate::jobs::shared_tick::TICK_INTERVAL;
pub use crate::jobs::signals::{ChunkEnd, JobSignal, WorkerActivity};
pub(crate) use crate::jobs::site_requests::answer_admission;
pub use crate::jobs::site_requests::{SiteRequest, SiteRequests};
pub use crate::jobs::stale_executions::StaleExecutions;
pub use crate::jobs::state_machine::{FollowRules, JobStage, JobStateMachine};
pub use crate::jobs::stop_requests::StopRequests;
pub use crate::jobs::timeout::dynamic_timeout;
pub use crate::jobs::worker_logs::WorkerLogs;
