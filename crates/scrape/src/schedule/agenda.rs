//! Agenda of a run: the sites with needs and expected durations, and the limits. Checked once, at the creation.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::state::{ResourceId, SiteId};
use orch_base::topological_order;

/// One site of an agenda.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgendaEntry {
    /// Sites that all must have succeeded.
    pub after: Vec<SiteId>,
    /// Sites of which one must have succeeded.
    pub after_any: Vec<SiteId>,
    /// Sites that all must have ended, in any way.
    pub after_finished: Vec<SiteId>,
    /// Units of resources that a running site holds.
    pub uses: Vec<(ResourceId, u32)>,
    pub expected: Duration,
    /// The site has no turn, and ends at once without success.
    pub left_out: bool,
    /// Bytes of memory that the site may come to use; 0 if that is unknown.
    pub memory: u64,
}

impl AgendaEntry {
    /// Returns all dependencies of the site, of any kind.
    pub fn dependencies(&self) -> impl Iterator<Item = SiteId> {
        let lists = [&self.after, &self.after_any, &self.after_finished];
        lists.into_iter().flatten().copied()
    }
}

/// Limits of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgendaLimits {
    /// Number of sites that may run at the same time.
    pub max_parallel: NonZeroUsize,
    /// Units of each resource.
    pub resources: Vec<u32>,
}

/// Reason why an agenda is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgendaError {
    /// Each site depends on the next, and the last on the first.
    #[error("sites depend on each other in a cycle")]
    Cycle(Vec<SiteId>),
    #[error("a site uses more units of a resource than there are")]
    TooManyUnits(SiteId, ResourceId),
    #[error("a site depends on a site or uses a resource that does not exist")]
    Unknown(SiteId),
}

/// Kind of a dependency of one site on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DependencyKind {
    After,
    AfterAny,
    AfterFinished,
}

/// Sites of a run, and the limits under which they run.
#[derive(Clone, Debug)]
pub struct SiteAgenda {
    /// Entries with `uses` sorted by resource, each resource once, and with no repetition in any list.
    entries: Vec<AgendaEntry>,
    limits: AgendaLimits,
    dependents: Vec<Vec<(SiteId, DependencyKind)>>,
    /// Sites, each after all dependencies.
    order: Vec<SiteId>,
    /// Expected time from a site's begin to the end of the longest chain of dependents.
    chains: Vec<Duration>,
    /// Numbers of the demands: sites with the same `uses` and `memory` have the same number.
    demands: Vec<usize>,
}

impl SiteAgenda {
    /// Checks the entries against the limits, and builds the agenda.
    ///
    /// # Errors
    /// The sites depend on each other in a cycle, or one of them could never begin.
    pub fn new(mut entries: Vec<AgendaEntry>, limits: AgendaLimits) -> Result<Self, AgendaError> {
        for (site, entry) in entries.iter_mut().enumerate() {
            let site = SiteId::at(site);
            for list in [&mut entry.after, &mut entry.after_any, &mut entry.after_finished] {
                list.sort_unstable();
                list.dedup();
            }
            entry.uses = summed(&entry.uses);
            for (resource, units) in &entry.uses {
                match limits.resources.get(resource.place()) {
                    None => return Err(AgendaError::Unknown(site)),
                    Some(count) if count < units => return Err(AgendaError::TooManyUnits(site, *resource)),
                    Some(_) => {}
                }
            }
        }
        let count = entries.len();
        let known = |entry: &AgendaEntry| entry.dependencies().all(|needed| needed.place() < count);
        if let Some(site) = entries.iter().position(|entry| !known(entry)) {
            return Err(AgendaError::Unknown(SiteId::at(site)));
        }
        let dependencies: Vec<Vec<usize>> = entries
            .iter()
            .map(|entry| entry.dependencies().map(SiteId::place).collect())
            .collect();
        let sites = |places: Vec<usize>| places.into_iter().map(SiteId::at).collect();
        let order: Vec<SiteId> = topological_order::order(&dependencies)
            .map(sites)
            .map_err(|cycle| AgendaError::Cycle(sites(cycle)))?;
        let dependents = dependents(&entries);
        let chains = chains(&entries, &dependents, &order);
        let demands = demands(&entries);
        Ok(Self {
            entries,
            limits,
            dependents,
            order,
            chains,
            demands,
        })
    }

    /// Leaves these sites out. Neither they nor the sites that cannot begin without them are expected to take any time.
    #[must_use]
    pub fn leaving_out(mut self, sites: impl IntoIterator<Item = SiteId>) -> Self {
        for site in sites {
            self.entries[site.place()].left_out = true;
        }
        let mut out = vec![false; self.entries.len()];
        for site in &self.order {
            let entry = &mut self.entries[site.place()];
            let is_out = |needed: &SiteId| out[needed.place()];
            let none_is_left = !entry.after_any.is_empty() && entry.after_any.iter().all(is_out);
            if entry.left_out || entry.after.iter().any(is_out) || none_is_left {
                out[site.place()] = true;
                entry.expected = Duration::ZERO;
            }
        }
        self.chains = chains(&self.entries, &self.dependents, &self.order);
        self
    }

    /// Sets the memory that each site may come to use.
    #[must_use]
    pub fn with_memory(mut self, memory: impl Fn(SiteId) -> u64) -> Self {
        for (place, entry) in self.entries.iter_mut().enumerate() {
            entry.memory = memory(SiteId::at(place));
        }
        self.demands = demands(&self.entries);
        self
    }

    pub fn sites(&self) -> impl ExactSizeIterator<Item = SiteId> + use<> {
        (0..self.entries.len()).map(SiteId::at)
    }

    pub fn entry(&self, site: SiteId) -> &AgendaEntry {
        &self.entries[site.place()]
    }

    pub fn limits(&self) -> &AgendaLimits {
        &self.limits
    }

    /// Returns the sites, each after all dependencies.
    pub fn order(&self) -> &[SiteId] {
        &self.order
    }

    /// Returns the sites that depend on this one in any way; a site that does so in two ways comes twice.
    pub fn dependents(&self, site: SiteId) -> impl Iterator<Item = SiteId> {
        self.dependents[site.place()].iter().map(|(dependent, _)| *dependent)
    }

    pub(crate) fn dependents_by_kind(&self, site: SiteId) -> &[(SiteId, DependencyKind)] {
        &self.dependents[site.place()]
    }

    /// Returns the expected time from the begin of a site to the end of the longest chain of dependents.
    pub(crate) fn chain(&self, site: SiteId) -> Duration {
        self.chains[site.place()]
    }

    pub(crate) fn demand(&self, site: SiteId) -> usize {
        self.demands[site.place()]
    }

    /// Returns the chain of sites that bounds the run when nothing else does: each site begins when the previous one
    /// ends.
    pub fn critical_path(&self) -> Vec<SiteId> {
        let mut ends: Vec<Duration> = vec![Duration::ZERO; self.entries.len()];
        let mut decided_by: Vec<Option<SiteId>> = vec![None; self.entries.len()];
        for site in &self.order {
            let entry = self.entry(*site);
            let end = |needed: &SiteId| (ends[needed.place()], *needed);
            let all = entry.after.iter().chain(&entry.after_finished).map(end).max();
            // One of these is enough.
            let any = entry.after_any.iter().map(end).min();
            let latest = all.max(any);
            decided_by[site.place()] = latest.map(|(_, needed)| needed);
            ends[site.place()] = latest.map_or(Duration::ZERO, |(end, _)| end) + entry.expected;
        }
        let mut path: Vec<SiteId> = Vec::new();
        // The first of the sites with the latest end.
        let mut next = self
            .sites()
            .max_by_key(|site| (ends[site.place()], std::cmp::Reverse(*site)));
        while let Some(site) = next {
            path.push(site);
            next = decided_by[site.place()];
        }
        path.reverse();
        path
    }

    /// Returns the lower bound of every schedule: the critical path, all work divided by the slots, and the use of each
    /// resource divided by the existing units.
    pub fn lower_bound(&self) -> Duration {
        let path = self.critical_path().iter().map(|site| self.entry(*site).expected).sum();
        let work: Duration = self.entries.iter().map(|entry| entry.expected).sum();
        let mut bound = work.div_f64(self.limits.max_parallel.get() as f64).max(path);
        for (resource, count) in self.limits.resources.iter().enumerate() {
            let held = self.entries.iter().map(|entry| {
                let units = entry.uses.iter().find(|(used, _)| used.place() == resource);
                entry.expected * units.map_or(0, |(_, units)| *units)
            });
            bound = bound.max(held.sum::<Duration>() / (*count).max(1));
        }
        bound
    }
}

fn summed(uses: &[(ResourceId, u32)]) -> Vec<(ResourceId, u32)> {
    let mut sums = std::collections::BTreeMap::new();
    for (resource, units) in uses {
        let sum: &mut u32 = sums.entry(*resource).or_default();
        *sum = sum.saturating_add(*units);
    }
    sums.into_iter().filter(|(_, units)| *units > 0).collect()
}

fn dependents(entries: &[AgendaEntry]) -> Vec<Vec<(SiteId, DependencyKind)>> {
    let mut dependents = vec![Vec::new(); entries.len()];
    for (site, entry) in entries.iter().enumerate() {
        let lists = [
            (&entry.after, DependencyKind::After),
            (&entry.after_any, DependencyKind::AfterAny),
            (&entry.after_finished, DependencyKind::AfterFinished),
        ];
        for (needed, kind) in lists
            .into_iter()
            .flat_map(|(list, kind)| list.iter().map(move |needed| (needed, kind)))
        {
            dependents[needed.place()].push((SiteId::at(site), kind));
        }
    }
    dependents
}

fn chains(entries: &[AgendaEntry], dependents: &[Vec<(SiteId, DependencyKind)>], order: &[SiteId]) -> Vec<Duration> {
    let mut chains = vec![Duration::ZERO; entries.len()];
    for site in order.iter().rev().map(|site| site.place()) {
        let behind = dependents[site]
            .iter()
            .map(|(dependent, _)| chains[dependent.place()])
            .max();
        chains[site] = entries[site].expected.saturating_add(behind.unwrap_or_default());
    }
    chains
}

fn demands(entries: &[AgendaEntry]) -> Vec<usize> {
    let mut numbers = std::collections::HashMap::new();
    let number = |entry: &'_ AgendaEntry| {
        let next = numbers.len();
        *numbers.entry((entry.uses.clone(), entry.memory)).or_insert(next)
    };
    entries.iter().map(number).collect()
}
