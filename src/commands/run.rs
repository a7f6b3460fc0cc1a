//! `orch run`: starts the services, runs the sites, and stops the services.

use std::time::Duration;

use clap::Args;

use super::session::RunSession;
use super::{ConfigArgs, SitesArgs, ViewArgs, duration, logging};
use crate::orchestrator::instance::resume::ResumeTarget;
use orch_journal::RunCommand;

/// Starts Redis and Celery, refreshes the proxies, runs the sites, and stops all services
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub sites: SitesArgs,
    /// Continue a run that ended early: the last one, or the one with this id. Keeps complete sites, follows the jobs
    /// that are still in Redis, and dispatches the remaining sites
    #[arg(long, value_name = "RUN ID", num_args = 0..=1, conflicts_with = "sites")]
    pub resume: Option<Option<String>>,
    /// Continue with fewer usable proxies than `min_usable`
    #[arg(long)]
    pub allow_few_proxies: bool,
    /// Time limit of the pool refresh (new proxies), such as `10m`
    #[arg(long, value_name = "DURATION")]
    pub proxy_timeout: Option<String>,
    /// Time to wait for the end of a run that holds this instance or these sites
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// Also run sites that would be skipped because they failed in the last runs (`skip_after_failures`)
    #[arg(long)]
    pub force: bool,
    /// Exit with code 1 also if a site is degraded but has results (`min_results`); a site without results always
    /// causes exit code 1
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub view: ViewArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &RunArgs) -> anyhow::Result<u8> {
    logging::start(args.view.verbose);
    let mut further = Vec::new();
    if args.allow_few_proxies {
        further.push("proxies.allow_few=true".to_owned());
    }
    if args.strict {
        further.push("orch.strict=true".to_owned());
    }
    if let Some(timeout) = &args.proxy_timeout {
        further.push(format!("proxies.timeout={timeout}"));
    }
    let config = args.config.load(&further)?;
    let selected = args.sites.select(&config)?;
    let sites = selected.into_iter().map(|site| site.name.clone()).collect();
    RunSession {
        command: RunCommand::Run,
        ends_when_ready: false,
        sites,
        resume: args.resume.as_ref().map(|run_id| match run_id {
            Some(run_id) => ResumeTarget::Run(run_id.clone()),
            None => ResumeTarget::Latest,
        }),
        wait: args.wait,
        force: args.force,
        view: &args.view,
    }
    .run(config)
}
