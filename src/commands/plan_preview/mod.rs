//! A preview of a run: when each site begins, after which other sites, and which chain of sites decides the length.
//!
//! The preview executes the schedule of `orch run` in virtual time; each site takes as long as in the last runs. The
//! expected times come from [`History`], the subcommand is in [`plan`](super::plan).

mod dot;
mod json;
mod tree;

use std::collections::BTreeSet;
use std::time::Duration;

use orch_config::{Config, SiteConfig};
use orch_journal::History;
use orch_scrape::schedule::{AgendaError, SiteEnd, SiteId, as_expected};
use orch_scrape::sites::{BreakerState, RunPlan};

/// Expected course of a run of the selected sites.
#[derive(Debug)]
pub struct PlanPreview<'c> {
    config: &'c Config,
    work: RunPlan,
    /// Expected begin and end of each site, indexed by site id.
    spans: Vec<(Duration, Duration)>,
    /// Expected end of each site, indexed by site id.
    ends: Vec<Option<(SiteEnd, Duration)>>,
    critical_path: Vec<SiteId>,
    critical: BTreeSet<SiteId>,
    length: Duration,
}

impl<'c> PlanPreview<'c> {
    /// Computes the preview of a run of these sites that would follow the runs of the history.
    ///
    /// # Errors
    /// The errors of [`RunPlan::new`].
    pub fn new(config: &'c Config, sites: &[&SiteConfig], history: &History) -> Result<Self, AgendaError> {
        let sites = sites.iter().map(|site| (*site).clone()).collect();
        let expected = history.expected();
        let work = RunPlan::new(sites, config.orch.max_parallel_sites, &config.resources, &expected)?;
        let work = work.with_history(history, |_| false);
        let trace = as_expected(work.agenda().clone());
        // Each site has at most one turn.
        let mut spans = vec![(Duration::ZERO, Duration::ZERO); work.sites().len()];
        for turn in &trace.turns {
            spans[turn.site.place()] = (turn.begin, turn.end);
        }
        let critical_path = work.agenda().critical_path();
        Ok(Self {
            config,
            spans,
            critical: critical_path.iter().copied().collect(),
            critical_path,
            length: trace.makespan,
            ends: trace.ends,
            work,
        })
    }

    fn site(&self, site: SiteId) -> &SiteConfig {
        &self.work.sites()[site.place()]
    }

    fn name(&self, site: SiteId) -> &str {
        self.site(site).name.as_str()
    }

    /// Returns the reason why the site is skipped; `None` if at least one attempt is made.
    fn skip_reason(&self, site: SiteId) -> Option<String> {
        if let BreakerState::Open(skip) = &self.work.standings()[site.place()].breaker {
            return Some(skip.why.clone());
        }
        match self.ends[site.place()] {
            Some((SiteEnd::Skipped(cause), _)) => Some(format!("{} is skipped", self.name(cause.site()))),
            _ => None,
        }
    }

    fn critical_length(&self) -> Duration {
        let expected = self
            .critical_path
            .iter()
            .map(|site| self.work.agenda().entry(*site).expected);
        expected.sum()
    }

    /// Returns all sites in the order of their expected begin; sites with the same begin keep the configured order.
    fn in_order(&self) -> Vec<SiteId> {
        let mut order: Vec<SiteId> = self.work.agenda().sites().collect();
        order.sort_by_key(|site| (self.spans[site.place()].0, *site));
        order
    }
}
