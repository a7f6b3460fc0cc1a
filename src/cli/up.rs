//! `orch up`: the services without a run, kept up until Ctrl+C or SIGTERM.

use std::time::Duration;

use clap::Args;

use super::session::Session;
use super::{ConfigArgs, ViewArgs, logging};
use crate::run::Command;

/// Brings the services up and keeps them so, until Ctrl+C or SIGTERM
#[derive(Args, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    view: ViewArgs,
}

/// Runs the subcommand; the exit code.
pub fn main(args: &UpArgs) -> anyhow::Result<u8> {
    logging::start(args.view.verbose);
    let config = args.config.load(&[])?;
    Session {
        command: Command::Up,
        sites: Vec::new(),
        resume: None,
        wait: Duration::ZERO,
        force: false,
        view: &args.view,
    }
    .run(config)
}
