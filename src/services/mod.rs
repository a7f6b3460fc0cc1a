//! What is kept running and how: Redis, the Celery worker, beat, any command; states, health, restart policy, order.
//!
//! Policy only: the guard does the spawning and the ending, `celery` the talking.

mod app_settings;
mod attention;
mod beat;
mod broker_outage;
mod celery;
mod command;
mod connection;
mod consumption;
mod earlier_listener;
mod entry;
mod environment;
mod failure;
mod http_probe;
mod import_path;
mod inbox;
mod joined;
mod late_acknowledgement;
mod launcher;
mod life;
mod listener;
mod log_tail;
mod mistyped_keys;
mod name_watch;
mod on_demand;
mod order;
mod port_guard;
mod probe;
mod program;
mod python_output;
mod redis;
mod redis_data;
mod redis_decision;
mod redis_probe;
mod refusal;
mod refusal_watch;
mod restart;
mod reused_worker;
mod sentinel_master;
mod silent_worker;
mod site_worker;
mod state;
mod supervisor;
mod task_watch;
mod tree_memory;
mod unknown_tasks;
mod worker_command;
mod worker_log;
mod worker_nudge;

pub use app_settings::{AppSettings, AppSource, Learner, Learnt, SentinelSettings, ask_app};
pub use beat::Beat;
pub use celery::{Celery, CelerySetup, Duty};
pub use command::Command;
pub use connection::{RedisConnection, client as celery_client};
pub use environment::{base_environment, merge as merge_environment, prefer_programs_of};
pub use failure::{Failure, FailureKind};
pub use import_path::extend as extend_import_path;
pub use inbox::{GuardInbox, Inbox};
pub use joined::Joined;
pub use launcher::{Launcher, exit_status};
pub use life::{Action, Input, Role, ServiceState, Then};
pub use log_tail::last_lines;
pub use on_demand::{Needed, OnDemand};
pub use order::{StartOrder, stop_ranks};
pub use port_guard::PortAlarm;
pub use program::{Boxed, Prepared, Program, Start};
pub use redis::Redis;
pub use redis_decision::{Decision, decide as decide_redis};
pub use refusal_watch::RefusalWatch;
pub use sentinel_master::with_master as urls_with_master;
pub use site_worker::{
    is_service as is_site_service, node_begin as site_node_begin, service_name as site_service_name,
    settings as site_worker_settings,
};
pub use state::Service;
pub use supervisor::{GivenUp, Supervisor, Usable};
pub use worker_command::settings as worker_settings;
pub use worker_nudge::WorkerNudge;
