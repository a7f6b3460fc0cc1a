//! `orch celery revoke`: keep tasks from being run, or end them.

use clap::Args;

use super::answers::{TargetArgs, report};
use super::connect::{ConnectArgs, converse};
use crate::celery::{Signal, TaskId};
use crate::cli::Refusal;
use crate::run::Outcome;

/// Marks tasks as revoked in the workers: they will not be started; with --terminate a running one is ended
#[derive(Args, Debug)]
#[command(
    after_help = "Workers keep revocations in memory: they are forgotten when the last worker ends. \
Exit code 1: a worker refused (a threads pool cannot terminate), or nobody answered."
)]
pub struct RevokeArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// The tasks
    #[arg(required = true, value_name = "ID")]
    id: Vec<String>,
    /// End the pool process that runs it
    #[arg(long)]
    terminate: bool,
    /// What that process is sent
    #[arg(long, value_enum, default_value_t, requires = "terminate")]
    signal: SignalName,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum SignalName {
    #[default]
    Term,
    Int,
    Quit,
    Kill,
    Usr1,
}

impl From<SignalName> for Signal {
    fn from(name: SignalName) -> Self {
        match name {
            SignalName::Term => Self::Term,
            SignalName::Int => Self::Int,
            SignalName::Quit => Self::Quit,
            SignalName::Kill => Self::Kill,
            SignalName::Usr1 => Self::Usr1,
        }
    }
}

/// Runs the subcommand; the exit code.
pub fn main(args: &RevokeArgs) -> anyhow::Result<u8> {
    let client = args.connect.client()?.with_deadline(args.target.timeout);
    let ids: Vec<TaskId> = args.id.iter().map(TaskId::new).collect();
    let terminate = args.terminate.then_some(args.signal.into());
    let (target, within) = (args.target.target(), args.target.timeout);
    let control = client.control();
    let replies = converse(control.revoke(&ids, terminate, &target, within))?
        .map_err(|error| Refusal::because(Outcome::InfrastructureFailed, error.to_string()))?;
    let what = match terminate {
        Some(_) => "revoked, and ended where it runs",
        None => "revoked",
    };
    Ok(report(what, &replies, &args.target, args.json))
}
