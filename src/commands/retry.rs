//! `orch retry site`: begins a site of the active run again that has ended.

use clap::{Args, Subcommand};

use super::service_request::RequestArgs;
use super::site_request::begin_site;
use orch_journal::{RequestVerb, SiteName};

/// Begins a site of the active run again that has ended (`orch retry site SITE`)
#[derive(Args, Debug)]
pub struct RetryArgs {
    #[command(subcommand)]
    target: RetryTarget,
}

#[derive(Subcommand, Debug)]
enum RetryTarget {
    Site(RetrySiteArgs),
}

/// Begins a site again that has ended, with all of its attempts; the last end counts
#[derive(Args, Debug)]
#[command(
    after_help = "The site goes before all others, also while the run is paused. Sites that were skipped because of its first \
end stay skipped until they are retried. Exit codes: 0 the site has begun, or is next; 1 nothing was done (no run is active, \
the site has not ended, or the run refuses); 2 the run has no such site; 3 the run ended or does not answer."
)]
struct RetrySiteArgs {
    /// Name of the site
    #[arg(value_name = "SITE")]
    name: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &RetryArgs) -> anyhow::Result<u8> {
    let RetryTarget::Site(args) = &args.target;
    let site = SiteName::from(args.name.as_str());
    begin_site(&args.request, RequestVerb::RetrySite { site: site.clone() }, &site)
}
