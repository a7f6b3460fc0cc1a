//! `orch run`: from nothing to a finished scrape and back to nothing.

use std::time::Duration;

use clap::Args;

use super::session::Session;
use super::{ConfigArgs, SitesArgs, ViewArgs, duration, logging};
use crate::orchestrator::ResumeTarget;
use crate::run::Command;

/// Brings up Redis and Celery, makes sure of proxies, runs the sites, and ends all of it
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub sites: SitesArgs,
    /// Continue a run that ended early: the last one, or the one of this id. Complete sites are kept, jobs that still
    /// live in Redis are followed further, the rest is dispatched
    #[arg(long, value_name = "RUN ID", num_args = 0..=1, conflicts_with = "sites")]
    pub resume: Option<Option<String>>,
    /// Go on with fewer usable proxies than `min_usable`
    #[arg(long)]
    pub allow_few_proxies: bool,
    /// Upper bound of the proxy refresh, such as `10m`
    #[arg(long, value_name = "DURATION")]
    pub proxy_timeout: Option<String>,
    /// Wait this long for another run of the instance, or for those that are at its sites, to end
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// Also try sites that are skipped since they failed in the last runs (`skip_after_failures`)
    #[arg(long)]
    pub force: bool,
    /// Exit code 1 also when a site is degraded and has results (`min_results`); without any it is 1 in any case
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub view: ViewArgs,
}

/// Runs the subcommand; the exit code.
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
    Session {
        command: Command::Run,
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
