//! Whether a further site may begin: a pure decision from one reading after the other.
//!
//! The gate shuts when less than the reserve is available, or when what runs waits for memory a fifth of the time; it opens
//! again with some room between, or it would flap. It never waits for itself: when no site runs, nothing of ours would give
//! memory back, so that after a while one site begins all the same. So it is with a site that needs more than there is.

use std::time::Duration;

use super::reading::Reading;
use super::size::shown;

/// Percent of the last ten seconds in which something has waited for memory.
const PRESSED: f64 = 20.0;
/// And from which on it does no more.
const RELIEVED: f64 = 10.0;
/// A site begins all the same when none has run for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many sites may begin until the next word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admissions {
    All,
    /// Those that together may come to hold no more than so many bytes.
    Within(u64),
    One,
    None,
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shortage {
    Low {
        available: u64,
        reserve: u64,
    },
    Pressed {
        percent: f64,
    },
    /// The next site may come to hold more than is left.
    TooLittle {
        left: u64,
    },
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Shortage::Low { available, reserve } => write!(
                formatter,
                "{} of memory are available, `memory_reserve` is {}",
                shown(*available),
                shown(*reserve)
            ),
            Shortage::TooLittle { left } => write!(
                formatter,
                "it has held more in earlier runs than the {} that are left",
                shown(*left)
            ),
            Shortage::Pressed { percent } => write!(
                formatter,
                "processes waited for memory in {percent:.0} % of the last ten seconds"
            ),
        }
    }
}

/// What there is to be told; each change once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum News {
    Shut(Shortage),
    Opened,
    /// A site begins though memory is short.
    AllTheSame(Shortage),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Gate {
    reserve: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    is_shut: bool,
    /// Since when no site has run though one waits for memory.
    idle: Option<Duration>,
}

/// What the sites are at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    pub running: usize,
    /// What those that have just begun may come to hold.
    pub promised: u64,
    /// One waits for nothing but the memory which it may come to hold.
    pub one_is_unfit: bool,
}

impl Gate {
    /// An open gate; so many bytes are to stay available.
    pub fn new(reserve: u64) -> Self {
        Self {
            reserve,
            state: State {
                is_shut: false,
                idle: None,
            },
        }
    }

    /// Takes a reading, and what the sites are at; the moment is counted from any begin.
    pub fn look(&mut self, reading: &Reading, sites: Sites, now: Duration) -> (Admissions, Option<News>) {
        let was_shut = self.state.is_shut;
        let left = reading
            .available
            .saturating_sub(self.reserve)
            .saturating_sub(sites.promised);
        let shortage = self.shortage(reading);
        self.state.is_shut = shortage.is_some();
        let waits_for = shortage.or(sites.one_is_unfit.then_some(Shortage::TooLittle { left }));
        let idle = waits_for.filter(|_| sites.running == 0);
        self.state.idle = idle.map(|_| self.state.idle.unwrap_or(now));
        if let (Some(shortage), Some(since)) = (idle, self.state.idle)
            && (was_shut || !self.state.is_shut)
            && now.saturating_sub(since) >= PATIENCE
        {
            // Should it end at once, the next waits as long.
            self.state.idle = None;
            return (Admissions::One, Some(News::AllTheSame(shortage)));
        }
        match (was_shut, shortage) {
            (false, None) => (Admissions::Within(left), None),
            (false, Some(shortage)) => (Admissions::None, Some(News::Shut(shortage))),
            (true, None) => (Admissions::Within(left), Some(News::Opened)),
            (true, Some(_)) => (Admissions::None, None),
        }
    }

    /// What is short, by the bounds of the state.
    fn shortage(&self, reading: &Reading) -> Option<Shortage> {
        let (reserve, most) = match self.state.is_shut {
            false => (self.reserve, PRESSED),
            true => (self.reserve.saturating_add(self.reserve / 4), RELIEVED),
        };
        if reading.available < reserve {
            return Some(Shortage::Low {
                available: reading.available,
                reserve: self.reserve,
            });
        }
        let percent = reading.pressure.filter(|percent| *percent >= most)?;
        Some(Shortage::Pressed { percent })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn running(running: usize) -> Sites {
        Sites {
            running,
            ..Sites::default()
        }
    }

    fn reading(available: u64, pressure: f64) -> Reading {
        let pressure = Some(pressure);
        Reading { available, pressure }
    }

    #[test]
    fn it_shuts_and_opens_with_room_between_and_tells_each_change_once() {
        let mut gate = Gate::new(100);
        let shut = |available| {
            Some(News::Shut(Shortage::Low {
                available,
                reserve: 100,
            }))
        };
        let pressed = Some(News::Shut(Shortage::Pressed { percent: 20.0 }));
        // Available, pressure, what may begin, what is told; a site runs all the time.
        for (second, (available, pressure, admissions, news)) in [
            (100, 0.0, Admissions::Within(0), None),
            (99, 0.0, Admissions::None, shut(99)),
            (100, 0.0, Admissions::None, None),
            (124, 0.0, Admissions::None, None),
            (125, 0.0, Admissions::Within(25), Some(News::Opened)),
            (100, 19.9, Admissions::Within(0), None),
            (1000, 20.0, Admissions::None, pressed),
            (1000, 10.0, Admissions::None, None),
            (1000, 9.9, Admissions::Within(900), Some(News::Opened)),
        ]
        .into_iter()
        .enumerate()
        {
            let now = Duration::from_secs(second as u64);
            let found = gate.look(&reading(available, pressure), running(1), now);
            assert_eq!(found, (admissions, news), "second {second}");
        }
    }

    #[test]
    fn one_site_begins_when_none_has_run_for_a_while() {
        let mut gate = Gate::new(100);
        let mut begun = Vec::new();
        let mut until = 0;
        for second in 0..60 {
            // A site takes five seconds.
            let sites = running(usize::from(second < until));
            let (admissions, news) = gate.look(&reading(50, 0.0), sites, Duration::from_secs(second));
            if admissions == Admissions::One {
                assert!(matches!(news, Some(News::AllTheSame(_))));
                begun.push(second);
                until = second + 5;
            } else {
                assert_eq!(admissions, Admissions::None);
            }
        }
        assert_eq!(begun, [10, 25, 40, 55]);
    }

    #[test]
    fn no_reserve_is_never_short() {
        let mut gate = Gate::new(0);
        let none = Reading::default();
        assert_eq!(
            gate.look(&none, running(0), Duration::ZERO),
            (Admissions::Within(0), None)
        );
    }

    #[test]
    fn what_has_just_begun_is_taken_to_hold_its_part_and_what_never_fits_begins_when_nothing_runs() {
        let mut gate = Gate::new(100);
        let unfit = |running, promised| Sites {
            running,
            promised,
            one_is_unfit: true,
        };
        let plenty = reading(1100, 0.0);
        let look = |gate: &mut Gate, sites, second| gate.look(&plenty, sites, Duration::from_secs(second));
        assert_eq!(look(&mut gate, unfit(1, 700), 0), (Admissions::Within(300), None));
        assert_eq!(look(&mut gate, unfit(1, 700), 50), (Admissions::Within(300), None));
        // It ends.
        assert_eq!(look(&mut gate, unfit(0, 0), 51), (Admissions::Within(1000), None));
        assert_eq!(look(&mut gate, unfit(0, 0), 60), (Admissions::Within(1000), None));
        let news = News::AllTheSame(Shortage::TooLittle { left: 1000 });
        assert_eq!(look(&mut gate, unfit(0, 0), 61), (Admissions::One, Some(news)));
    }

    proptest! {
        /// Whatever is read, sites that wait begin in the end, and news alternates.
        #[test]
        fn it_never_waits_for_ever(readings in prop::collection::vec((0_u64..200, 0.0_f64..40.0), 11..80)) {
            let mut gate = Gate::new(100);
            let mut last = Some(News::Opened);
            let mut waited = 0;
            for (second, (available, pressure)) in readings.into_iter().enumerate() {
                let (admissions, news) = gate.look(&reading(available, pressure), running(0), Duration::from_secs(second as u64));
                waited = if admissions == Admissions::None { waited + 1 } else { 0 };
                prop_assert!(waited <= 11);
                match news {
                    Some(News::Opened) => prop_assert!(last != Some(News::Opened)),
                    Some(News::Shut(_)) => prop_assert!(last == Some(News::Opened)),
                    Some(News::AllTheSame(_)) => prop_assert!(last != Some(News::Opened)),
                    None => {}
                }
                last = news.or(last);
            }
        }
    }
}
