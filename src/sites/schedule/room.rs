//! What is free: places, units of resources; and what is kept free for a site that needs more than there is now.

use std::collections::BTreeSet;
use std::time::Duration;

use super::agenda::Limits;
use super::state::{ResourceId, SiteId};

/// Units of resources, as a site uses them.
pub(super) type Uses = [(ResourceId, u32)];

#[derive(Clone, Debug)]
pub(super) struct Room {
    places: usize,
    free: Vec<u32>,
    /// Who holds units of a resource, by when each is expected to give them back.
    held: Vec<BTreeSet<(Duration, SiteId, u32)>>,
}

impl Room {
    pub fn new(limits: &Limits) -> Self {
        Self {
            places: limits.places.get(),
            free: limits.resources.clone(),
            held: vec![BTreeSet::new(); limits.resources.len()],
        }
    }

    /// Free places.
    pub fn places(&self) -> usize {
        self.places
    }

    pub fn has_a_place(&self) -> bool {
        self.places > 0
    }

    /// Takes a place and the units, until then as is expected.
    pub fn take(&mut self, site: SiteId, uses: &Uses, until: Duration) {
        self.places = self.places.saturating_sub(1);
        for (resource, units) in uses {
            let free = &mut self.free[resource.place()];
            *free = free.saturating_sub(*units);
            self.held[resource.place()].insert((until, site, *units));
        }
    }

    /// Gives back what was taken with the same words.
    pub fn give_back(&mut self, site: SiteId, uses: &Uses, until: Duration) {
        self.places += 1;
        for (resource, units) in uses {
            self.free[resource.place()] += units;
            self.held[resource.place()].remove(&(until, site, *units));
        }
    }

    /// When as many units should be free, if those who hold them keep to what is expected; not before now.
    pub fn expected_for(&self, uses: &Uses, now: Duration) -> Duration {
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

/// What is kept free during one look through the queue, for those who came before.
#[derive(Debug)]
pub(super) struct Claims {
    /// Of each resource: units, and the moment at which the first of them is wanted.
    claimed: Vec<Option<(u32, Duration)>>,
}

impl Claims {
    pub fn none(limits: &Limits) -> Self {
        Self {
            claimed: vec![None; limits.resources.len()],
        }
    }

    /// For a site that did not fit, which should have the units at this moment.
    pub fn add(&mut self, uses: &Uses, moment: Duration) {
        for (resource, units) in uses {
            let (claimed, first) = self.claimed[resource.place()].unwrap_or((0, moment));
            self.claimed[resource.place()] = Some((claimed.saturating_add(*units), first.min(moment)));
        }
    }

    /// Whether all units are free and either nobody has a claim on them, or they are back before it could be met.
    pub fn allow(&self, room: &Room, uses: &Uses, until: Duration) -> bool {
        uses.iter().all(|(resource, units)| {
            let free = room.free[resource.place()];
            match self.claimed[resource.place()] {
                Some((claimed, moment)) => free.saturating_sub(claimed) >= *units || (free >= *units && until < moment),
                None => free >= *units,
            }
        })
    }
}
