//! What a run has to do: its sites, and the agenda that the schedule goes by.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::breaker::Tries;
use super::memory_watch::MemoryWatch;
use super::schedule::{Agenda, AgendaError, Entry, Limits, ResourceId, SiteId};
use super::standing::Standing;
use crate::config::{ProxiesConfig, SiteConfig};
use crate::median::median;
use crate::proxies::Refresh;
use crate::run::{History, SiteName};
use crate::services::OnDemand;

/// What a site is taken to last where no run has told, of any site.
const TYPICAL: Duration = Duration::from_secs(60);

/// The sites of a run, with the limits and the dependencies among them.
#[derive(Clone, Debug)]
pub struct Work {
    sites: Vec<SiteConfig>,
    agenda: Agenda,
    /// How long each takes, as the last runs tell, by its id.
    known: Vec<Option<Duration>>,
    assumed: Duration,
    /// What the last runs mean for each, by its id.
    standings: Vec<Standing>,
    proxies: Option<Refresh>,
    /// By whom the sites' own workers are had.
    workers: OnDemand,
    /// Whether there is memory for a further site; none: that is no matter.
    memory: Option<MemoryWatch>,
}

impl Work {
    /// What the sites depend on outside of `sites` is taken as met: of a run that is continued it is complete, else it was not
    /// asked for. A site that has never run is expected to take as long as those do that have.
    ///
    /// # Errors
    /// The sites depend on each other in a circle, or use more than there is: no configuration that was loaded says so.
    pub fn new(
        sites: Vec<SiteConfig>,
        at_once: usize,
        resources: &BTreeMap<String, u32>,
        expected: &BTreeMap<SiteName, Duration>,
    ) -> Result<Self, AgendaError> {
        let positions: HashMap<&SiteName, usize> = sites.iter().map(|site| &site.name).zip(0..).collect();
        let places: BTreeMap<&str, usize> = resources.keys().map(String::as_str).zip(0..).collect();
        let among = |names: &[SiteName]| -> Vec<SiteId> {
            let positions = names.iter().filter_map(|name| positions.get(name));
            positions.map(|position| SiteId::at(*position)).collect()
        };
        let known: Vec<Option<Duration>> = sites.iter().map(|site| expected.get(&site.name).copied()).collect();
        let usual = median(known.iter().copied().flatten().collect());
        let assumed = usual.unwrap_or(TYPICAL);
        let entry = |(site, known): (&SiteConfig, &Option<Duration>)| {
            let any = among(&site.needs.after_any);
            Entry {
                after: among(&site.needs.after),
                // One that is met is enough.
                after_any: if any.len() < site.needs.after_any.len() {
                    Vec::new()
                } else {
                    any
                },
                after_finished: among(&site.needs.after_finished),
                uses: site
                    .uses
                    .iter()
                    .map(|(name, units)| {
                        let place = places.get(name.as_str()).copied();
                        (ResourceId::at(place.unwrap_or(usize::MAX)), *units)
                    })
                    .collect(),
                expected: known.unwrap_or(assumed),
                left_out: false,
                memory: 0,
            }
        };
        let limits = Limits {
            places: NonZeroUsize::new(at_once).unwrap_or(NonZeroUsize::MIN),
            resources: resources.values().copied().collect(),
        };
        let agenda = Agenda::new(sites.iter().zip(&known).map(entry).collect(), limits)?;
        let standings = sites.iter().map(|site| Standing::of(site, &[], false)).collect();
        Ok(Self {
            sites,
            agenda,
            known,
            assumed,
            standings,
            proxies: None,
            workers: OnDemand::default(),
            memory: None,
        })
    }

    /// The same in view of how its sites ended in the last runs: those that have failed too often have no turn. Each that is
    /// `forced` is tried as configured, however that was.
    #[must_use]
    pub fn in_view_of(self, history: &History, forced: impl Fn(&SiteName) -> bool) -> Self {
        let standing = |site: &SiteConfig| Standing::of(site, history.of(&site.name), forced(&site.name));
        let standings: Vec<Standing> = self.sites.iter().map(standing).collect();
        let skipped = |site: &SiteId| matches!(standings[site.place()].tries, Tries::Skipped(_));
        let skipped: Vec<SiteId> = self.agenda.sites().filter(skipped).collect();
        Self {
            agenda: self.agenda.leaving_out(skipped),
            standings,
            ..self
        }
    }

    /// How the proxies are refreshed where a site asks for it; without this they are not.
    #[must_use]
    pub fn refreshing(self, proxies: Refresh) -> Self {
        let is_possible = |config: &ProxiesConfig| config.enabled && !config.refresh.is_empty();
        let proxies = Some(proxies).filter(|proxies| is_possible(&proxies.config));
        Self { proxies, ..self }
    }

    /// Sites that have a worker of their own have it started here.
    #[must_use]
    pub fn with_workers(self, workers: OnDemand) -> Self {
        Self { workers, ..self }
    }

    /// Sites begin only while so many bytes of memory are available (0: always), beside what they may come to hold as far
    /// as that is known.
    #[must_use]
    pub fn with_memory(self, reserve: u64, peaks: &BTreeMap<SiteName, u64>) -> Self {
        let of = |site: SiteId| peaks.get(&self.sites[site.place()].name).copied().unwrap_or(0);
        Self {
            memory: MemoryWatch::new(reserve),
            agenda: self.agenda.clone().with_memory(of),
            ..self
        }
    }

    /// Whether there is anything to be done: not all of its sites are skipped for how they ended in the last runs.
    pub fn tries_any(&self) -> bool {
        let mut sites = self.agenda.sites();
        sites.any(|site| !self.agenda.entry(site).left_out)
    }

    /// In the order of their ids.
    pub fn sites(&self) -> &[SiteConfig] {
        &self.sites
    }

    pub fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// What a site is taken to last of which no run has told.
    pub fn assumed(&self) -> Duration {
        self.assumed
    }

    /// How long each takes, as the last runs tell, in the order of their ids.
    pub fn known(&self) -> &[Option<Duration>] {
        &self.known
    }

    /// What the last runs mean for each, in the order of their ids.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    pub(super) fn into_parts(self) -> Parts {
        Parts {
            sites: self.sites,
            agenda: self.agenda,
            known: self.known,
            standings: self.standings,
            proxies: self.proxies,
            workers: self.workers,
            memory: self.memory,
        }
    }
}

/// All of it, each list in the order of the ids.
pub(super) struct Parts {
    pub sites: Vec<SiteConfig>,
    pub agenda: Agenda,
    pub known: Vec<Option<Duration>>,
    pub standings: Vec<Standing>,
    pub proxies: Option<Refresh>,
    pub workers: OnDemand,
    pub memory: Option<MemoryWatch>,
}
