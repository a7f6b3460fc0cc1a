//! Random graphs of sites for the tests of the schedule: arbitrary runs, and typical nights.

use std::num::NonZeroUsize;
use std::time::Duration;

use proptest::prelude::*;

use orch_journal::SiteStatus;

use super::*;

/// One random site.
#[derive(Clone, Debug)]
pub(crate) struct RandomSite {
    /// Distance back to another site, and the kind of the dependency.
    pub needs: Vec<(usize, u8)>,
    pub uses: Vec<(usize, u32)>,
    expected: u64,
    /// Results of the site's turns, one after the other; the last one repeats.
    fates: Vec<(u64, u8)>,
}

#[derive(Clone, Debug)]
pub(crate) struct RandomRun {
    pub places: usize,
    pub resources: Vec<u32>,
    pub drafts: Vec<RandomSite>,
}

pub(crate) fn world() -> impl Strategy<Value = RandomRun> {
    let draft = (
        proptest::collection::vec((1..12_usize, any::<u8>()), 0..4),
        proptest::collection::vec((0..3_usize, 0..4_u32), 0..3),
        0..200_u64,
        proptest::collection::vec((0..200_u64, any::<u8>()), 1..4),
    )
        .prop_map(|(needs, uses, expected, fates)| RandomSite {
            needs,
            uses,
            expected,
            fates,
        });
    (
        1..6_usize,
        proptest::collection::vec(1..4_u32, 3),
        proptest::collection::vec(draft, 0..40),
    )
        .prop_map(|(places, resources, drafts)| RandomRun {
            places,
            resources,
            drafts,
        })
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn limits(places: usize, resources: &[u32]) -> AgendaLimits {
    AgendaLimits {
        max_parallel: NonZeroUsize::new(places).unwrap(),
        resources: resources.to_vec(),
    }
}

impl RandomRun {
    pub(crate) fn agenda(&self) -> SiteAgenda {
        let entries = self.drafts.iter().enumerate().map(|(place, draft)| {
            let mut entry = AgendaEntry {
                expected: seconds(draft.expected),
                ..AgendaEntry::default()
            };
            for (back, kind) in &draft.needs {
                let Some(needed) = place.checked_sub(*back) else {
                    continue;
                };
                let list = match kind % 3 {
                    0 => &mut entry.after,
                    1 => &mut entry.after_any,
                    _ => &mut entry.after_finished,
                };
                list.push(SiteId::at(needed));
            }
            for (resource, units) in &draft.uses {
                let used = entry.uses.iter().map(|(used, _)| used.place());
                if !used.clone().any(|used| used == *resource) {
                    let units = (*units).min(self.resources[*resource]);
                    entry.uses.push((ResourceId::at(*resource), units));
                }
            }
            entry
        });
        SiteAgenda::new(entries.collect(), limits(self.places, &self.resources)).expect("edges lead back only")
    }

    pub(crate) fn fate(&self, site: SiteId, attempt: u32) -> SimulatedTurn {
        let fates = &self.drafts[site.place()].fates;
        let (lasts, then) = fates[(attempt as usize - 1).min(fates.len() - 1)];
        let last = attempt as usize >= fates.len();
        let then = match then % 8 {
            0 if !last => Err((PauseKind::BeforeItBegins, seconds(u64::from(then)))),
            1 if !last => Err((PauseKind::BeforeARetry, seconds(u64::from(then)))),
            2 => Ok(SiteStatus::Failed),
            3 => Ok(SiteStatus::Degraded),
            4 => Ok(SiteStatus::Cancelled),
            _ => Ok(SiteStatus::Complete),
        };
        SimulatedTurn {
            lasts: seconds(lasts),
            then,
        }
    }
}

/// Builds a graph of a typical night: many sites without dependencies, some chains and fans, durations over three
/// orders of magnitude.
pub(crate) fn night(random: &mut fastrand::Rng, count: usize) -> Vec<AgendaEntry> {
    let mut entries: Vec<AgendaEntry> = Vec::new();
    for place in 0..count {
        let mut entry = AgendaEntry {
            expected: Duration::from_secs_f64(10.0_f64.powf(random.f64() * 3.0)),
            ..AgendaEntry::default()
        };
        let needs = if place > 0 && random.f64() < 0.4 {
            random.usize(1..3)
        } else {
            0
        };
        for _ in 0..needs {
            let needed = SiteId::at(random.usize(place.saturating_sub(30)..place));
            match random.u8(0..4) {
                0 => entry.after_finished.push(needed),
                _ => entry.after.push(needed),
            }
        }
        entries.push(entry);
    }
    entries
}
