//! `orch start`: starts a service of the active run that is down, or begins a site that waits.

use clap::Args;

use super::CommandError;
use super::service_request::{RequestArgs, ServiceAction, request};
use super::site_request::begin_site;
use orch_journal::{RequestVerb, SiteName};

/// Starts a service of the active run that is down, or begins a waiting site before all others (`orch start site SITE`)
#[derive(Args, Debug)]
#[command(
    override_usage = "orch start [OPTIONS] <NAME>\n       orch start [OPTIONS] site <SITE>",
    after_help = "A service starts that a request has stopped, that has failed, or that waits for its next restart. A site \
begins when a slot and its resources are free, also while the run is paused; sites that it runs after must have ended. Exit \
codes: 0 the service is ready or has completed, or the site has begun or is next; 1 nothing was done (no run is active, it runs \
already, or the run refuses); 2 the run has no such service or site; 3 the service failed, or the run does not answer."
)]
pub struct StartArgs {
    /// Name of the service; or the word `site` and the name of the site
    #[arg(value_name = "NAME", required = true, num_args = 1..=2)]
    target: Vec<String>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &StartArgs) -> anyhow::Result<u8> {
    match args.target.as_slice() {
        [service] => request(&args.request, ServiceAction::Start, service),
        [word, site] if word == "site" => {
            let site = SiteName::from(site.as_str());
            begin_site(&args.request, RequestVerb::StartSite { site: site.clone() }, &site)
        }
        words => {
            let words = words.join(" ");
            Err(CommandError::usage(format!(
                "`orch start {words}` names two things to start\n  hint:  `orch start NAME` starts a service, `orch start site \
                 SITE` begins a site"
            )))
        }
    }
}
