//! The supervision of services: Redis, Celery workers, beat, any command; with their states, health, restart policy and
//! order.
//!
//! This crate is policy only: `orch_guard` starts and ends processes, `orch_celery` talks to Redis and workers.

#![forbid(unsafe_code)]

mod after_end;
mod bounded_log;
mod command;
mod earlier_listener;
pub mod environment;
pub mod import_path;
mod inbox;
mod launcher;
mod log_keeper;
mod memory_limit;
mod name_watch;
mod on_demand;
mod port_guard;
mod probes;
mod process_name;
mod python_output;
pub mod redis;
mod restart_policy;
mod service;
mod service_kind;
mod service_requests;
mod service_table;
mod service_tasks;
pub mod shared;
mod shared_service;
mod start_order;
mod state_machine;
mod states;
mod supervised;
mod supervisor;
mod supervisor_requests;
mod task_watch;
pub mod worker;

pub use crate::command::CommandService;
pub use crate::environment::{base_environment, merge as merge_environment, prefer_programs_of};
pub use crate::redis::connection::{RedisConnection, client as celery_client};
pub use crate::worker::app_settings::{
    AppSettings, AppSource, SentinelSettings, SettingsQuery, SettingsResult, ask_app,
};
pub use crate::worker::beat::BeatService;
pub use crate::worker::service::{CeleryWorker, CeleryWorkerSetup, WorkerScope};

pub use crate::import_path::extend as extend_import_path;
pub use crate::inbox::{GuardInbox, ServiceRequests, SupervisorInbox};
pub use crate::launcher::{ProcessLauncher, exit_status};
pub use crate::log_keeper::LogKeeper;
pub use crate::shared_service::SharedService;
pub use crate::states::{AfterStop, ServiceAction, ServiceInput, ServiceRole, ServiceState};

pub use crate::on_demand::{OnDemand, ServiceRequest};
pub use crate::port_guard::PortAlarm;
pub use crate::process_name::ProcessName;
pub use crate::redis::decision::{RedisDecision, decide as decide_redis};
pub use crate::redis::refusal_watch::RefusalWatch;
pub use crate::redis::sentinel_master::with_master as urls_with_master;
pub use crate::redis::service::RedisService;
pub use crate::service::Service;
pub use crate::service_kind::{BoxedFuture, PreparedStart, ServiceKind, ServiceStart};
pub use crate::service_requests::ServiceVerb;
pub use crate::start_order::{StartOrder, stop_ranks};
pub use crate::supervisor::{GivenUp, Supervisor, UsableServices};
pub use crate::worker::command_line::settings as worker_settings;
pub use crate::worker::site_worker::{
    is_service as is_site_service, node_begin as site_node_begin, service_name as site_service_name,
    settings as site_worker_settings,
};
pub use crate::worker::wake_for_stop::StopPing;
