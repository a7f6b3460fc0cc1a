//! What a run would look like, before it: which site begins when, after what, and which chain of sites decides its length.
//!
//! The run's own schedule with virtual time, every site taking as long as the last runs tell. Not here: how times are learnt
//! (`run::History`), and the command (`cli::plan`).

mod dot;
mod json;
mod tree;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{Config, SiteConfig};
use crate::run::History;
use crate::sites::schedule::{AgendaError, End, SiteId, as_expected};
use crate::sites::{Tries, Work};

/// See the module.
#[derive(Debug)]
pub struct Outlook<'c> {
    config: &'c Config,
    work: Work,
    /// When each is expected to begin and to end, by their ids.
    spans: Vec<(Duration, Duration)>,
    /// How each should end, by their ids.
    ends: Vec<Option<(End, Duration)>>,
    critical_path: Vec<SiteId>,
    critical: BTreeSet<SiteId>,
    length: Duration,
}

impl<'c> Outlook<'c> {
    /// Of a run of these sites, after those that the history tells of.
    ///
    /// # Errors
    /// As [`Work::new`].
    pub fn new(config: &'c Config, sites: &[&SiteConfig], history: &History) -> Result<Self, AgendaError> {
        let sites = sites.iter().map(|site| (*site).clone()).collect();
        let expected = history.expected();
        let work = Work::new(sites, config.orch.max_parallel_sites, &config.resources, &expected)?;
        let work = work.in_view_of(history, |_| false);
        let trace = as_expected(work.agenda().clone());
        // Each has one turn, or none.
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

    /// Why it is not tried; `None` if it is, or at least one attempt is made.
    fn skipped(&self, site: SiteId) -> Option<String> {
        if let Tries::Skipped(skip) = &self.work.standings()[site.place()].tries {
            return Some(skip.why.clone());
        }
        match self.ends[site.place()] {
            Some((End::Skipped(cause), _)) => Some(format!("{} is", self.name(cause.site()))),
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

    /// All, by their expected begin, those of the same moment as configured.
    fn in_order(&self) -> Vec<SiteId> {
        let mut order: Vec<SiteId> = self.work.agenda().sites().collect();
        order.sort_by_key(|site| (self.spans[site.place()].0, *site));
        order
    }
}
