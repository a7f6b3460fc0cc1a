//! Free capacity: slots and units of resources, and the units that are kept free for a site that needs more than are
//! free now.

use std::collections::BTreeSet;
use std::time::Duration;

use super::agenda::AgendaLimits;
use super::state::{ResourceId, SiteId};

/// Units of resources that a site uses.
pub(crate) type ResourceUses = [(ResourceId, u32)];

#[derive(Clone, Debug)]
pub(crate) struct FreeCapacity {
    free_slots: usize,
    free: Vec<u32>,
    /// Holders of each resource's units, by the time at which each is expected to give them back.
    held: Vec<BTreeSet<(Duration, SiteId, u32)>>,
}

impl FreeCapacity {
    pub fn new(limits: &AgendaLimits) -> Self {
        Self {
            free_slots: limits.max_parallel.get(),
            free: limits.resources.clone(),
            held: vec![BTreeSet::new(); limits.resources.len()],
        }
    }

    /// Returns the number of free slots.
    pub fn free_slots(&self) -> usize {
        self.free_slots
    }

    pub fn has_free_slot(&self) -> bool {
        self.free_slots > 0
    }

    /// Takes a slot and the units, which are expected back at `until`.
    pub fn take(&mut self, site: SiteId, uses: &ResourceUses, until: Duration) {
        self.free_slots = self.free_slots.saturating_sub(1);
        for (resource, units) in uses {
            let free = &mut self.free[resource.place()];
            *free = free.saturating_sub(*units);
            self.held[resource.place()].insert((until, site, *units));
        }
    }

    /// Gives back a slot and units that were taken with the same arguments.
    pub fn give_back(&mut self, site: SiteId, uses: &ResourceUses, until: Duration) {
        self.free_slots += 1;
        for (resource, units) in uses {
            self.free[resource.place()] += units;
            self.held[resource.place()].remove(&(until, site, *units));
        }
    }

    /// Returns when the units should be free if their holders give them back as expected; not before `now`.
    pub fn expected_for(&self, uses: &ResourceUses, now: Duration) -> Duration {
        let of = |(resource, units): &(ResourceId, u32)| {
            let mut free = self.free[resource.place()];
            let mut moment = now;
            for (until, _, given_back) in &self.held[resource.place()] {
                if free >= *units {
                    break;
                }
                free += given_back;
                moment = moment.max(*until);
            }
            moment
        };
        uses.iter().map(of).max().unwrap_or(now)
    }
}

/// Units that are kept free during one pass through the queue, for sites that were examined earlier in that pass.
#[derive(Debug)]
pub(crate) struct CapacityClaims {
    /// Units and the earliest time at which they are wanted, for each resource.
    claimed: Vec<Option<(u32, Duration)>>,
}

impl CapacityClaims {
    pub fn none(limits: &AgendaLimits) -> Self {
        Self {
            claimed: vec![None; limits.resources.len()],
        }
    }

    /// Adds the claim of a site that did not fit and should have the units at `moment`.
    pub fn add(&mut self, uses: &ResourceUses, moment: Duration) {
        for (resource, units) in uses {
            let (claimed, first) = self.claimed[resource.place()].unwrap_or((0, moment));
            self.claimed[resource.place()] = Some((claimed.saturating_add(*units), first.min(moment)));
        }
    }

    /// Returns whether all units are free, and either without a claim or expected back before the claim could be met.
    pub fn allow(&self, room: &FreeCapacity, uses: &ResourceUses, until: Duration) -> bool {
        uses.iter().all(|(resource, units)| {
            let free = room.free[resource.place()];
            match self.claimed[resource.place()] {
                Some((claimed, moment)) => free.saturating_sub(claimed) >= *units || (free >= *units && until < moment),
                None => free >= *units,
            }
        })
    }
}
