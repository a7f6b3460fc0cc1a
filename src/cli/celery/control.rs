//! `orch celery control`: remote control of workers, one request at a time.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::answers::{TargetArgs, report};
use super::connect::{ConnectArgs, converse};
use crate::cli::output::print;
use crate::cli::{Refusal, duration};
use crate::run::Outcome;

/// Remote control of workers: consumers, events, limits, shutdown (exit code 1: somebody refused, or nobody answered)
#[derive(Args, Debug)]
pub struct ControlArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    request: Request,
}

#[derive(Subcommand, Debug)]
enum Request {
    /// Makes workers consume a queue
    AddConsumer { queue: String },
    /// Makes workers stop consuming a queue
    CancelConsumer { queue: String },
    /// Switches task events on, for the life of the worker process
    EnableEvents,
    /// Switches task events off; a worker that was started with `-E` keeps sending them
    DisableEvents,
    /// Asks for a heartbeat event now
    Heartbeat,
    /// Limits how often a worker starts a task: `10/s`, `200/m`, `5000/h`; 0 lifts it
    RateLimit { task: String, rate: String },
    /// Limits how long a task may run from now on
    TimeLimit {
        task: String,
        /// The exception SoftTimeLimitExceeded after so long
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        soft: Option<Duration>,
        /// Killed after so long
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        hard: Option<Duration>,
    },
    /// Starts a warm shutdown: running tasks finish
    Shutdown,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &ControlArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.target.timeout);
    let (control, target, within) = (client.control(), args.target.target(), args.target.timeout);
    let failed = |error: crate::celery::Error| Refusal::because(Outcome::InfrastructureFailed, error.to_string());
    if matches!(args.request, Request::Shutdown) {
        // There is no reply to it: who is there is asked before.
        let (there, told) = converse(async {
            let there = control.ping(&target, within).await?;
            let told = control.shutdown(&target).await?;
            Ok((there, told))
        })?
        .map_err(failed)?;
        let silent = args.target.silent(&there);
        if told == 0 {
            print("nobody listens");
            return Ok(1);
        }
        return Ok(report("told to shut down", &there, &args.target, args.json).max(u8::from(!silent.is_empty())));
    }
    let (what, replies) = converse(async {
        Ok(match &args.request {
            Request::AddConsumer { queue } => (
                format!("will consume `{queue}`"),
                control.add_consumer(queue, &target, within).await?,
            ),
            Request::CancelConsumer { queue } => (
                format!("no longer consumes `{queue}`"),
                control.cancel_consumer(queue, &target, within).await?,
            ),
            Request::EnableEvents => (
                "task events are on".to_owned(),
                control.enable_events(&target, within).await?,
            ),
            Request::DisableEvents => (
                "task events are off".to_owned(),
                control.disable_events(&target, within).await?,
            ),
            Request::Heartbeat => (
                "has sent a heartbeat".to_owned(),
                control.heartbeat(&target, within).await?,
            ),
            Request::RateLimit { task, rate } => (
                format!("rate of `{task}` is {rate}"),
                control.rate_limit(task, rate, &target, within).await?,
            ),
            Request::TimeLimit { task, soft, hard } => (
                format!("time limits of `{task}` are set"),
                control.time_limit(task, *soft, *hard, &target, within).await?,
            ),
            Request::Shutdown => ("told to shut down".to_owned(), control.ping(&target, within).await?),
        })
    })?
    .map_err(failed)?;
    Ok(report(&what, &replies, &args.target, args.json))
}
