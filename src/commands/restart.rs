//! `orch restart`: ends a service of the active run and starts it again.

use clap::Args;

use super::service_request::{RequestArgs, ServiceAction, request};

/// Ends a service of the active run with its stop signal and grace period, and starts it again
#[derive(Args, Debug)]
#[command(
    after_help = "All processes of the service end before the next start. Services that depend on this one keep running. A \
completed oneshot runs again. Exit codes: 0 the service is ready again or has completed; 1 nothing was done (no run is \
active, the service is starting, or the run refuses); 2 the run has no such service; 3 the service failed, or the run does \
not answer."
)]
pub struct RestartArgs {
    /// Name of the service
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &RestartArgs) -> anyhow::Result<u8> {
    request(&args.request, ServiceAction::Restart, &args.name)
}
