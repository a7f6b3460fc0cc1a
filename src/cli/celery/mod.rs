//! `orch celery ...`: any Celery deployment, looked at natively; no configuration needed.

mod connect;
mod ping;
mod queues;
mod restore;

use clap::{Args, Subcommand};

/// Looks at any Celery deployment over Redis, without starting Python
#[derive(Args, Debug)]
pub struct CeleryArgs {
    #[command(subcommand)]
    command: CeleryCommand,
}

#[derive(Subcommand, Debug)]
enum CeleryCommand {
    Ping(ping::PingArgs),
    Queues(queues::QueuesArgs),
    Restore(restore::RestoreArgs),
}

/// Runs the subcommand; the exit code.
pub fn main(args: &CeleryArgs) -> anyhow::Result<u8> {
    match &args.command {
        CeleryCommand::Ping(args) => ping::main(args),
        CeleryCommand::Queues(args) => queues::main(args),
        CeleryCommand::Restore(args) => restore::main(args),
    }
}
