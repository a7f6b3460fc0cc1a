//! Sites that a run has to do, and the agenda for the schedule.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::time::Duration;

use super::memory_watch::MemoryWatch;
use super::own_worker::OwnWorkers;
use crate::proxies::ProxyRefresh;
use crate::schedule::{AgendaEntry, AgendaError, AgendaLimits, ResourceId, SiteAgenda, SiteId};
use crate::sites::policy::circuit_breaker::BreakerState;
use crate::sites::policy::standing::SiteStanding;
use orch_base::median::median;
use orch_config::{ProxiesConfig, SiteConfig};
use orch_journal::{History, SiteName};

/// Assumed duration of a site, in seconds, if no past run gives a duration for any site.
const TYPICAL_SECONDS: u64 = 60;

/// Sites of a run, with their limits and dependencies.
#[derive(Clone, Debug)]
pub struct RunPlan {
    sites: Vec<SiteConfig>,
    agenda: SiteAgenda,
    /// Duration of each site in the last runs, by site id.
    known: Vec<Option<Duration>>,
    assumed: Duration,
    /// Consequences of the last runs for each site, by site id.
    standings: Vec<SiteStanding>,
    proxies: Option<ProxyRefresh>,
    /// Handle that starts the sites' own workers on demand; `None`: they run all the time, or no site has one.
    workers: Option<OwnWorkers>,
    /// Memory check before a further site begins; `None`: the check is off.
    memory: Option<MemoryWatch>,
}

impl RunPlan {
    /// Builds the plan of a run. A dependency outside of `sites` counts as met: in a resumed run that site is complete,
    /// otherwise not selected. A site without past runs is expected to take the median duration of the other sites.
    ///
    /// # Errors
    /// The sites depend on each other in a cycle, or one of them uses more units than exist. A configuration that was
    /// loaded has neither problem.
    pub fn new(
        sites: Vec<SiteConfig>,
        at_once: usize,
        resources: &BTreeMap<String, u32>,
        expected: &BTreeMap<SiteName, Duration>,
    ) -> Result<Self, AgendaError> {
        let positions: HashMap<&SiteName, usize> = sites.iter().map(|site| &site.name).zip(0..).collect();
        let resource_positions: BTreeMap<&str, usize> = resources.keys().map(String::as_str).zip(0..).collect();
        let among = |names: &[SiteName]| -> Vec<SiteId> {
            let positions = names.iter().filter_map(|name| positions.get(name));
            positions.map(|position| SiteId::at(*position)).collect()
        };
        let known: Vec<Option<Duration>> = sites.iter().map(|site| expected.get(&site.name).copied()).collect();
        let usual = median(known.iter().copied().flatten().collect());
        let assumed = usual.unwrap_or(Duration::from_secs(TYPICAL_SECONDS));
        let entry = |(site, known): (&SiteConfig, &Option<Duration>)| {
            let any = among(&site.dependencies.after_any);
            AgendaEntry {
                after: among(&site.dependencies.after),
                // A dependency outside of `sites` is met, and one met dependency is enough.
                after_any: if any.len() < site.dependencies.after_any.len() {
                    Vec::new()
                } else {
                    any
                },
                after_finished: among(&site.dependencies.after_finished),
                uses: site
                    .uses
                    .iter()
                    .map(|(name, units)| {
                        let position = resource_positions.get(name.as_str()).copied();
                        (ResourceId::at(position.unwrap_or(usize::MAX)), *units)
                    })
                    .collect(),
                expected: known.unwrap_or(assumed),
                left_out: false,
                memory: 0,
            }
        };
        let limits = AgendaLimits {
            max_parallel: NonZeroUsize::new(at_once).unwrap_or(NonZeroUsize::MIN),
            resources: resources.values().copied().collect(),
        };
        let agenda = SiteAgenda::new(sites.iter().zip(&known).map(entry).collect(), limits)?;
        let standings = sites.iter().map(|site| SiteStanding::of(site, &[], false)).collect();
        Ok(Self {
            sites,
            agenda,
            known,
            assumed,
            standings,
            proxies: None,
            workers: None,
            memory: None,
        })
    }

    /// Applies the circuit breaker: leaves out the sites that failed too often in the last runs. A site for which
    /// `forced` returns true is tried as configured in any case.
    #[must_use]
    pub fn with_history(self, history: &History, forced: impl Fn(&SiteName) -> bool) -> Self {
        let standing = |site: &SiteConfig| SiteStanding::of(site, history.of(&site.name), forced(&site.name));
        let standings: Vec<SiteStanding> = self.sites.iter().map(standing).collect();
        let skipped = |site: &SiteId| matches!(standings[site.place()].breaker, BreakerState::Open(_));
        let skipped: Vec<SiteId> = self.agenda.sites().filter(skipped).collect();
        Self {
            agenda: self.agenda.leaving_out(skipped),
            standings,
            ..self
        }
    }

    /// Sets how the proxies are refreshed when a site asks for a refresh. Without this call, or without a configured
    /// refresh, none takes place.
    #[must_use]
    pub fn with_proxy_refresh(self, proxies: ProxyRefresh) -> Self {
        let is_possible = |config: &ProxiesConfig| config.enabled && !config.refresh.is_empty();
        let proxies = Some(proxies).filter(|proxies| is_possible(&proxies.config));
        Self { proxies, ..self }
    }

    /// Sets the handle that starts the workers of sites with a worker of their own.
    #[must_use]
    pub fn with_workers(self, workers: OwnWorkers) -> Self {
        Self {
            workers: Some(workers),
            ..self
        }
    }

    /// Lets sites begin only while `reserve` bytes of memory are available (0: always), in addition to the memory that
    /// the sites are expected to use according to `peaks`.
    #[must_use]
    pub fn with_memory(self, reserve: u64, peaks: &BTreeMap<SiteName, u64>) -> Self {
        let of = |site: SiteId| peaks.get(&self.sites[site.place()].name).copied().unwrap_or(0);
        Self {
            memory: MemoryWatch::new(reserve),
            agenda: self.agenda.clone().with_memory(of),
            ..self
        }
    }

    /// Returns whether there is a site to run, that is, a site that the circuit breaker does not skip.
    pub fn has_site_to_run(&self) -> bool {
        let mut sites = self.agenda.sites();
        sites.any(|site| !self.agenda.entry(site).left_out)
    }

    /// Returns the sites in the order of their ids.
    pub fn sites(&self) -> &[SiteConfig] {
        &self.sites
    }

    pub fn agenda(&self) -> &SiteAgenda {
        &self.agenda
    }

    /// Returns the duration that is assumed for a site without past runs.
    pub fn assumed_duration(&self) -> Duration {
        self.assumed
    }

    /// Returns the duration of each site in the last runs, in the order of the site ids.
    pub fn known_durations(&self) -> &[Option<Duration>] {
        &self.known
    }

    /// Returns the consequences of the last runs for each site, in the order of the site ids.
    pub fn standings(&self) -> &[SiteStanding] {
        &self.standings
    }

    pub(crate) fn into_parts(self) -> RunPlanParts {
        RunPlanParts {
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

/// Contents of the plan of a run; each list is in the order of the site ids.
pub(crate) struct RunPlanParts {
    pub sites: Vec<SiteConfig>,
    pub agenda: SiteAgenda,
    pub known: Vec<Option<Duration>>,
    pub standings: Vec<SiteStanding>,
    pub proxies: Option<ProxyRefresh>,
    pub workers: Option<OwnWorkers>,
    pub memory: Option<MemoryWatch>,
}
