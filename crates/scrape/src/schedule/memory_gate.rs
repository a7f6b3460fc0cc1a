//! Memory gate: a pure decision, from one reading to the next, whether a further site may begin.
//!
//! The gate shuts when less than the reserve is available, or when processes wait for memory a fifth of the time. It
//! opens again with some margin, so that it does not flap. The gate never waits for itself: if no site runs, no site
//! could free memory, so that after a while one site begins although memory is short. The same rule applies to a site
//! that needs more memory than exists.

use std::time::Duration;

use orch_base::system::memory::MemoryReading;
use orch_journal::MemoryShortage;

/// Percentage of the last ten seconds in which processes waited for memory, from which the gate shuts.
const PRESSED: f64 = 20.0;
/// Percentage below which the gate may open again.
const RELIEVED: f64 = 10.0;
/// Time without a running site after which one site begins although memory is short.
const IDLE_DELAY: Duration = Duration::from_secs(10);

/// Number of sites that may begin until the next reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionLimit {
    All,
    /// Sites that together may come to use at most this many bytes.
    Within(u64),
    One,
    None,
}

/// Changes of the gate that are reported; each is reported once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GateChange {
    Shut(MemoryShortage),
    Opened,
    /// A site begins although memory is short.
    ForcedAdmission(MemoryShortage),
}

/// Memory gate of a run.
#[derive(Clone, Debug)]
pub struct MemoryGate {
    reserve: u64,
    state: GateState,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct GateState {
    is_shut: bool,
    /// Time since which no site has run although one waits for memory.
    idle: Option<Duration>,
}

/// Sites at the time of a reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteLoad {
    pub running: usize,
    /// Memory that the sites that have just begun may come to use.
    pub expected_memory: u64,
    /// A site waits only for the expected memory.
    pub one_waits_for_memory: bool,
}

impl MemoryGate {
    /// Creates an open gate that keeps `reserve` bytes available.
    pub fn new(reserve: u64) -> Self {
        Self {
            reserve,
            state: GateState {
                is_shut: false,
                idle: None,
            },
        }
    }

    /// Applies a reading and the state of the sites; `now` counts from any begin.
    pub fn apply_reading(
        &mut self,
        reading: &MemoryReading,
        sites: SiteLoad,
        now: Duration,
    ) -> (AdmissionLimit, Option<GateChange>) {
        let was_shut = self.state.is_shut;
        let left = reading
            .available
            .saturating_sub(self.reserve)
            .saturating_sub(sites.expected_memory);
        let shortage = self.shortage(reading);
        self.state.is_shut = shortage.is_some();
        let waits_for = shortage.or(sites.one_waits_for_memory.then_some(MemoryShortage::TooLittle { left }));
        let idle = waits_for.filter(|_| sites.running == 0);
        self.state.idle = idle.map(|_| self.state.idle.unwrap_or(now));
        if let (Some(shortage), Some(since)) = (idle, self.state.idle)
            && (was_shut || !self.state.is_shut)
            && now.saturating_sub(since) >= IDLE_DELAY
        {
            // If this site ends at once, the next one waits as long.
            self.state.idle = None;
            return (AdmissionLimit::One, Some(GateChange::ForcedAdmission(shortage)));
        }
        match (was_shut, shortage) {
            (false, None) => (AdmissionLimit::Within(left), None),
            (false, Some(shortage)) => (AdmissionLimit::None, Some(GateChange::Shut(shortage))),
            (true, None) => (AdmissionLimit::Within(left), Some(GateChange::Opened)),
            (true, Some(_)) => (AdmissionLimit::None, None),
        }
    }

    /// Returns the shortage, by the bounds of the current state.
    fn shortage(&self, reading: &MemoryReading) -> Option<MemoryShortage> {
        let (reserve, most) = match self.state.is_shut {
            false => (self.reserve, PRESSED),
            true => (self.reserve.saturating_add(self.reserve / 4), RELIEVED),
        };
        if reading.available < reserve {
            return Some(MemoryShortage::Low {
                available: reading.available,
                reserve: self.reserve,
            });
        }
        let percent = reading.pressure.filter(|percent| *percent >= most)?;
        Some(MemoryShortage::Pressed { percent })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn running(running: usize) -> SiteLoad {
        SiteLoad {
            running,
            ..SiteLoad::default()
        }
    }

    fn reading(available: u64, pressure: f64) -> MemoryReading {
        let pressure = Some(pressure);
        MemoryReading { available, pressure }
    }

    #[test]
    fn it_shuts_and_opens_with_a_margin_and_reports_each_change_once() {
        let mut gate = MemoryGate::new(100);
        let shut = |available| {
            Some(GateChange::Shut(MemoryShortage::Low {
                available,
                reserve: 100,
            }))
        };
        let pressed = Some(GateChange::Shut(MemoryShortage::Pressed { percent: 20.0 }));
        // Available, pressure, admissions, reported change; a site runs all the time.
        for (second, (available, pressure, admissions, news)) in [
            (100, 0.0, AdmissionLimit::Within(0), None),
            (99, 0.0, AdmissionLimit::None, shut(99)),
            (100, 0.0, AdmissionLimit::None, None),
            (124, 0.0, AdmissionLimit::None, None),
            (125, 0.0, AdmissionLimit::Within(25), Some(GateChange::Opened)),
            (100, 19.9, AdmissionLimit::Within(0), None),
            (1000, 20.0, AdmissionLimit::None, pressed),
            (1000, 10.0, AdmissionLimit::None, None),
            (1000, 9.9, AdmissionLimit::Within(900), Some(GateChange::Opened)),
        ]
        .into_iter()
        .enumerate()
        {
            let now = Duration::from_secs(second as u64);
            let found = gate.apply_reading(&reading(available, pressure), running(1), now);
            assert_eq!(found, (admissions, news), "second {second}");
        }
    }

    #[test]
    fn one_site_begins_when_none_has_run_for_a_while() {
        let mut gate = MemoryGate::new(100);
        let mut begun = Vec::new();
        let mut until = 0;
        for second in 0..60 {
            // A site takes five seconds.
            let sites = running(usize::from(second < until));
            let (admissions, news) = gate.apply_reading(&reading(50, 0.0), sites, Duration::from_secs(second));
            if admissions == AdmissionLimit::One {
                assert!(matches!(news, Some(GateChange::ForcedAdmission(_))));
                begun.push(second);
                until = second + 5;
            } else {
                assert_eq!(admissions, AdmissionLimit::None);
            }
        }
        assert_eq!(begun, [10, 25, 40, 55]);
    }

    #[test]
    fn no_reserve_is_never_short() {
        let mut gate = MemoryGate::new(0);
        let none = MemoryReading::default();
        assert_eq!(
            gate.apply_reading(&none, running(0), Duration::ZERO),
            (AdmissionLimit::Within(0), None)
        );
    }

    #[test]
    fn memory_of_new_sites_counts_as_used_and_a_site_that_never_fits_begins_when_none_runs() {
        let mut gate = MemoryGate::new(100);
        let unfit = |running, promised| SiteLoad {
            running,
            expected_memory: promised,
            one_waits_for_memory: true,
        };
        let plenty = reading(1100, 0.0);
        let look =
            |gate: &mut MemoryGate, sites, second| gate.apply_reading(&plenty, sites, Duration::from_secs(second));
        assert_eq!(look(&mut gate, unfit(1, 700), 0), (AdmissionLimit::Within(300), None));
        assert_eq!(look(&mut gate, unfit(1, 700), 50), (AdmissionLimit::Within(300), None));
        // The running site ends.
        assert_eq!(look(&mut gate, unfit(0, 0), 51), (AdmissionLimit::Within(1000), None));
        assert_eq!(look(&mut gate, unfit(0, 0), 60), (AdmissionLimit::Within(1000), None));
        let news = GateChange::ForcedAdmission(MemoryShortage::TooLittle { left: 1000 });
        assert_eq!(look(&mut gate, unfit(0, 0), 61), (AdmissionLimit::One, Some(news)));
    }

    proptest! {
        /// Checks that waiting sites begin in the end, whatever is read, and that the reported changes alternate.
        #[test]
        fn it_never_waits_for_ever(readings in prop::collection::vec((0_u64..200, 0.0_f64..40.0), 11..80)) {
            let mut gate = MemoryGate::new(100);
            let mut last = Some(GateChange::Opened);
            let mut waited = 0;
            for (second, (available, pressure)) in readings.into_iter().enumerate() {
                let (admissions, news) = gate.apply_reading(&reading(available, pressure), running(0), Duration::from_secs(second as u64));
                waited = if admissions == AdmissionLimit::None { waited + 1 } else { 0 };
                prop_assert!(waited <= 11);
                match news {
                    Some(GateChange::Opened) => prop_assert!(last != Some(GateChange::Opened)),
                    Some(GateChange::Shut(_)) => prop_assert!(last == Some(GateChange::Opened)),
                    Some(GateChange::ForcedAdmission(_)) => prop_assert!(last != Some(GateChange::Opened)),
                    None => {}
                }
                last = news.or(last);
            }
        }
    }
}
