//! `orch celery control`: sends one control command to workers.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::connect::block_on;
use super::replies::{TargetArgs, report};
use crate::commands::duration;
use crate::commands::output::print;

/// Controls workers: consumers, events, limits, shutdown (exit code 1: a worker refused, or none replied)
#[derive(Args, Debug)]
pub struct ControlArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    request: ControlRequest,
}

#[derive(Subcommand, Debug)]
enum ControlRequest {
    /// Makes workers consume a queue
    AddConsumer {
        /// Name of the queue
        queue: String,
    },
    /// Makes workers stop consuming a queue
    CancelConsumer {
        /// Name of the queue
        queue: String,
    },
    /// Switches task events on until the worker process ends
    EnableEvents,
    /// Switches task events off; a worker that was started with `-E` still sends them
    DisableEvents,
    /// Requests a heartbeat event now
    Heartbeat,
    /// Limits how often a worker starts a task: `10/s`, `200/m`, `5000/h`; 0 removes the limit
    RateLimit {
        /// Name of the task
        task: String,
        /// Maximum number of starts per second (`/s`), minute (`/m`) or hour (`/h`)
        rate: String,
    },
    /// Limits how long a task may run; applies to tasks that start from now on
    TimeLimit {
        /// Name of the task
        task: String,
        /// Time after which SoftTimeLimitExceeded is raised in the task
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        soft: Option<Duration>,
        /// Time after which the task is killed
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        hard: Option<Duration>,
    },
    /// Starts a warm shutdown: running tasks finish
    Shutdown,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &ControlArgs) -> anyhow::Result<u8> {
    let client = args.target.client()?;
    let (control, target, within) = (client.control(), args.target.target(), args.target.timeout);
    if matches!(args.request, ControlRequest::Shutdown) {
        // Workers do not reply to a shutdown, so a ping before it finds the workers.
        let (present, receivers) = block_on(async {
            let present = control.ping(&target, within).await?;
            let receivers = control.shutdown(&target).await?;
            Ok((present, receivers))
        })?;
        let silent = args.target.silent(&present);
        if receivers == 0 {
            print("no worker listens");
            return Ok(1);
        }
        return Ok(report("shutdown requested", &present, &args.target, args.json).max(u8::from(!silent.is_empty())));
    }
    let (what, replies) = block_on(async {
        Ok(match &args.request {
            ControlRequest::AddConsumer { queue } => (
                format!("will consume `{queue}`"),
                control.add_consumer(queue, &target, within).await?,
            ),
            ControlRequest::CancelConsumer { queue } => (
                format!("no longer consumes `{queue}`"),
                control.cancel_consumer(queue, &target, within).await?,
            ),
            ControlRequest::EnableEvents => (
                "task events are on".to_owned(),
                control.enable_events(&target, within).await?,
            ),
            ControlRequest::DisableEvents => (
                "task events are off".to_owned(),
                control.disable_events(&target, within).await?,
            ),
            ControlRequest::Heartbeat => (
                "has sent a heartbeat".to_owned(),
                control.heartbeat(&target, within).await?,
            ),
            ControlRequest::RateLimit { task, rate } => (
                format!("rate of `{task}` is {rate}"),
                control.rate_limit(task, rate, &target, within).await?,
            ),
            ControlRequest::TimeLimit { task, soft, hard } => (
                format!("time limits of `{task}` are set"),
                control.time_limit(task, *soft, *hard, &target, within).await?,
            ),
            ControlRequest::Shutdown => ("shutdown requested".to_owned(), control.ping(&target, within).await?),
        })
    })?;
    Ok(report(&what, &replies, &args.target, args.json))
}
