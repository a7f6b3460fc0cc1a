//! `orch up`: keeps the services running without sites, until Ctrl+C or SIGTERM.

use std::time::Duration;

use clap::Args;

use super::session::RunSession;
use super::{ConfigArgs, ViewArgs, logging};
use orch_journal::RunCommand;

/// Starts the services and keeps them running until Ctrl+C or SIGTERM
#[derive(Args, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    view: ViewArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &UpArgs) -> anyhow::Result<u8> {
    logging::start(args.view.verbose);
    let config = args.config.load(&[])?;
    RunSession {
        command: RunCommand::Up,
        ends_when_ready: false,
        sites: Vec::new(),
        resume: None,
        wait: Duration::ZERO,
        force: false,
        view: &args.view,
    }
    .run(config)
}
