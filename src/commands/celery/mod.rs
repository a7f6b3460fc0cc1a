//! `orch celery ...`: inspects and controls any Celery deployment without Python; needs no configuration file.

mod connect;
mod consumed_queues;
mod control;
mod events;
mod inspect;
mod ping;
mod poison;
mod publish;
mod publish_lines;
mod queues;
mod replies;
mod restore;
mod result;
mod revoke;
mod scale;
mod tasks;
mod top;

use clap::{Args, Subcommand};

/// Inspects and controls any Celery deployment over Redis, without starting Python
#[derive(Args, Debug)]
pub struct CeleryArgs {
    #[command(subcommand)]
    command: CeleryCommand,
}

#[derive(Subcommand, Debug)]
enum CeleryCommand {
    Ping(ping::PingArgs),
    Inspect(inspect::InspectArgs),
    Tasks(tasks::TasksArgs),
    Queues(queues::QueuesArgs),
    Events(events::EventsArgs),
    Top(top::TopArgs),
    Publish(publish::PublishArgs),
    Result(result::ResultArgs),
    Revoke(revoke::RevokeArgs),
    Scale(scale::ScaleArgs),
    Control(control::ControlArgs),
    Restore(restore::RestoreArgs),
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &CeleryArgs) -> anyhow::Result<u8> {
    match &args.command {
        CeleryCommand::Ping(args) => ping::main(args),
        CeleryCommand::Inspect(args) => inspect::main(args),
        CeleryCommand::Tasks(args) => tasks::main(args),
        CeleryCommand::Queues(args) => queues::main(args),
        CeleryCommand::Events(args) => events::main(args),
        CeleryCommand::Top(args) => top::main(args),
        CeleryCommand::Publish(args) => publish::main(args),
        CeleryCommand::Result(args) => result::main(args),
        CeleryCommand::Revoke(args) => revoke::main(args),
        CeleryCommand::Scale(args) => scale::main(args),
        CeleryCommand::Control(args) => control::main(args),
        CeleryCommand::Restore(args) => restore::main(args),
    }
}
