//! Facts of one run: typed events, their fold into a snapshot, the journal, the outcome.

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod any_event;
#[cfg(any(test, feature = "testing"))]
mod any_fact;
#[cfg(any(test, feature = "testing"))]
mod any_failure;
#[cfg(any(test, feature = "testing"))]
mod any_notice;
#[cfg(any(test, feature = "testing"))]
mod any_values;
mod catch_up;
mod chunk_loss;
mod end_cause;
mod event;
mod event_facts;
mod event_names;
mod event_values;
mod exit_status;
mod facts;
pub mod failure;
mod feed;
mod health;
mod history;
mod ids;
mod journal_file;
mod journal_head;
mod journal_line;
mod journal_segment;
mod journal_tail;
mod left_out;
pub mod local_time;
mod memory_shortage;
mod pending_request;
mod recorder;
mod resumption;
mod resumption_fold;
mod retention;
mod run_directory;
mod run_outcome;
mod site_counts;
mod site_holder;
mod site_status;
mod state;

#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use crate::any_event::any_event;
pub use crate::catch_up::catch_up;
pub use crate::chunk_loss::ChunkLoss;
pub use crate::end_cause::EndCause;
pub use crate::event::{Event, EventKind, JOURNAL_FORMAT};
pub use crate::event_names::event_names;
pub use crate::event_values::{FollowStage, NoticeLevel, PlannedService, ProgressSource, RunCommand, StopReason};
pub use crate::exit_status::{ExitStatus, describe_exit};
pub use crate::facts::admission_change::{AdmissionChange, SiteAdmission};
pub use crate::facts::app_problem::AppProblem;
pub use crate::facts::failed_task::{FailedTask, LogExcerpt, TaskEndKind};
pub use crate::facts::guard_problem::GuardProblem;
pub use crate::facts::leftover_process::{LeftoverProcess, LeftoverProcesses};
pub use crate::facts::log_problem::{LogFailure, LogProblem};
pub use crate::facts::proxy_pool_count::ProxyPoolCount;
pub use crate::facts::proxy_refresh_job::ProxyRefreshJob;
pub use crate::facts::redis_leftovers::RedisLeftovers;
pub use crate::facts::redis_problem::RedisProblem;
pub use crate::facts::request::{RequestAnswer, RequestReceipt, RequestResult, RequestSender, RequestVerb};
pub use crate::facts::run_file::{RunFile, RunFileFailure};
pub use crate::facts::run_start::RunStart;
pub use crate::facts::site_errors::{ErrorCount, SiteErrors};
pub use crate::facts::state_directory_loss::{PathChange, StateDirectoryLoss};
pub use crate::facts::state_snapshot::StateSnapshot;
pub use crate::facts::unfinished_run::{RunInterruption, UnfinishedRun};
pub use crate::facts::unread_env_file::UnreadEnvFile;
pub use crate::facts::worker_problem::{ConsumerAbsence, LastConsumer, NodeProcess, SharedNodeName, WorkerProblem};
pub use crate::feed::{Feed, FeedUpdate};
pub use crate::health::{HealthAction, SiteHealth, SiteMetrics};
pub use crate::history::baseline::SiteBaseline;
pub use crate::history::kept_runs::KeptRun;
pub use crate::history::past_runs::{History, PastRun, past_runs};
pub use crate::history::past_site::{PastSite, is_comparable};
pub use crate::history::trend::Trend;
pub use crate::ids::{JobId, RequestId, RunId, ServiceName, SiteName};
#[cfg(any(test, feature = "testing"))]
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use crate::journal_file::each_event_of;
pub use crate::journal_file::{Journal, JournalError, each_event, each_line_of_kinds, is_being_written, read_journal};
pub use crate::journal_line::JournalLine;
pub use crate::journal_segment::earlier_segment;
pub use crate::journal_tail::JournalTail;
pub use crate::left_out::LeftOutProxies;
pub use crate::local_time::local_time;
pub use crate::memory_shortage::MemoryShortage;
pub use crate::pending_request::PendingRequest;
pub use crate::recorder::Recorder;
pub use crate::resumption::{InterruptedJob, InterruptedSite, Resumption, SiteRemainder};
pub use crate::resumption_fold::ResumptionFold;
pub use crate::retention::RunRetention;
pub use crate::run_directory::RunDirectory;
pub use crate::run_outcome::RunOutcome;
pub use crate::site_counts::SiteCounts;
pub use crate::site_holder::{HeldSites, SiteHolder};
pub use crate::site_status::SiteStatus;
pub use crate::state::error_view::ErrorView;
pub use crate::state::model::{RunHeader, RunState};
pub use crate::state::totals::RunTotals;
pub use crate::state::views::{
    LeftoversView, ProxiesView, ProxyCount, ResumedSite, ServicePhase, ServiceView, SitePhase, SiteView, StopView,
};
