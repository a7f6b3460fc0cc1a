//! What is to be done: the sites, what each needs, how long it is expected to take, and the limits. Checked once, then true.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::state::{ResourceId, SiteId};
use crate::graph;

/// One site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Each must have succeeded.
    pub after: Vec<SiteId>,
    /// One of them must have succeeded.
    pub after_any: Vec<SiteId>,
    /// Each must have ended, however.
    pub after_finished: Vec<SiteId>,
    /// Units of resources that it holds while it runs.
    pub uses: Vec<(ResourceId, u32)>,
    pub expected: Duration,
    /// It has no turn, and ends at once without success.
    pub left_out: bool,
    /// Bytes of memory that it may come to hold; 0 where that is not known.
    pub memory: u64,
}

impl Entry {
    /// All that it depends on, in any way.
    pub fn needs(&self) -> impl Iterator<Item = SiteId> {
        let lists = [&self.after, &self.after_any, &self.after_finished];
        lists.into_iter().flatten().copied()
    }
}

/// What there is of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sites that run at the same time.
    pub places: NonZeroUsize,
    /// Units of each resource.
    pub resources: Vec<u32>,
}

/// Why there is no such agenda.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgendaError {
    /// Each depends on the next, and the last on the first.
    #[error("sites depend on each other in a circle")]
    Cycle(Vec<SiteId>),
    #[error("a site uses more units of a resource than there are")]
    MoreThanThereIs(SiteId, ResourceId),
    #[error("a site depends on one, or uses a resource, that there is not")]
    Unknown(SiteId),
}

/// How one site matters to another that depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    After,
    AfterAny,
    AfterFinished,
}

/// The sites of a run and the limits under which they run.
#[derive(Clone, Debug)]
pub struct Agenda {
    /// `uses` sorted by resource, each once; every list without repetitions.
    entries: Vec<Entry>,
    limits: Limits,
    dependents: Vec<Vec<(SiteId, Kind)>>,
    /// Each behind all that it depends on.
    order: Vec<SiteId>,
    /// Expected time from a site's begin to the end of the longest chain of dependents.
    chains: Vec<Duration>,
    /// Sites of the same `uses` and `memory` have the same number.
    demands: Vec<usize>,
}

impl Agenda {
    /// # Errors
    /// The sites depend on each other in a circle, or one could never begin.
    pub fn new(mut entries: Vec<Entry>, limits: Limits) -> Result<Self, AgendaError> {
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
                    Some(count) if count < units => return Err(AgendaError::MoreThanThereIs(site, *resource)),
                    Some(_) => {}
                }
            }
        }
        let count = entries.len();
        let known = |entry: &Entry| entry.needs().all(|needed| needed.place() < count);
        if let Some(site) = entries.iter().position(|entry| !known(entry)) {
            return Err(AgendaError::Unknown(SiteId::at(site)));
        }
        let before: Vec<Vec<usize>> = entries
            .iter()
            .map(|entry| entry.needs().map(SiteId::place).collect())
            .collect();
        let sites = |places: Vec<usize>| places.into_iter().map(SiteId::at).collect();
        let order: Vec<SiteId> = graph::order(&before)
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

    /// The same without turns of these sites; nothing is expected to take time of what cannot begin because of that.
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

    /// With what each site may come to hold of memory.
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

    pub fn entry(&self, site: SiteId) -> &Entry {
        &self.entries[site.place()]
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Each site behind all that it depends on.
    pub fn order(&self) -> &[SiteId] {
        &self.order
    }

    /// Sites that depend on this one in any way, a site twice if it does so in two.
    pub fn dependents(&self, site: SiteId) -> impl Iterator<Item = SiteId> {
        self.dependents[site.place()].iter().map(|(dependent, _)| *dependent)
    }

    pub(super) fn dependents_by_kind(&self, site: SiteId) -> &[(SiteId, Kind)] {
        &self.dependents[site.place()]
    }

    /// Expected time from its begin to the end of the longest chain of dependents.
    pub(super) fn chain(&self, site: SiteId) -> Duration {
        self.chains[site.place()]
    }

    pub(super) fn demand(&self, site: SiteId) -> usize {
        self.demands[site.place()]
    }

    /// The chain of sites that bounds the run when nothing else does: each begins with the end of the one before it.
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
        // The first of the latest ones.
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

    /// What no schedule undercuts: the critical path, and all work on the places, and on the units of each resource.
    pub fn lower_bound(&self) -> Duration {
        let path = self.critical_path().iter().map(|site| self.entry(*site).expected).sum();
        let work: Duration = self.entries.iter().map(|entry| entry.expected).sum();
        let mut bound = work.div_f64(self.limits.places.get() as f64).max(path);
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

fn dependents(entries: &[Entry]) -> Vec<Vec<(SiteId, Kind)>> {
    let mut dependents = vec![Vec::new(); entries.len()];
    for (site, entry) in entries.iter().enumerate() {
        let lists = [
            (&entry.after, Kind::After),
            (&entry.after_any, Kind::AfterAny),
            (&entry.after_finished, Kind::AfterFinished),
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

fn chains(entries: &[Entry], dependents: &[Vec<(SiteId, Kind)>], order: &[SiteId]) -> Vec<Duration> {
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

fn demands(entries: &[Entry]) -> Vec<usize> {
    let mut numbers = std::collections::HashMap::new();
    let number = |entry: &'_ Entry| {
        let next = numbers.len();
        *numbers.entry((entry.uses.clone(), entry.memory)).or_insert(next)
    };
    entries.iter().map(number).collect()
}
