//! Which entries of a pool are usable proxies. Pure: the file's time and the clock are given.

use std::time::Duration;

use super::checked_at::Clock;
use crate::config::ProxiesConfig;

/// What makes a proxy of the pool useless.
#[derive(Clone, Debug, Default)]
pub struct PoolRules {
    /// `anonymity` values, compared without case, numbers as text.
    pub unusable_anonymity: Vec<String>,
    /// Time since its last check after which a proxy does not count; `None`: no limit.
    pub max_age: Option<Duration>,
}

impl PoolRules {
    pub fn of(config: &ProxiesConfig) -> Self {
        Self {
            unusable_anonymity: config.unusable_anonymity.clone(),
            max_age: config.max_age,
        }
    }
}

/// The rules at one moment, for one file.
#[derive(Debug)]
pub struct Judge<'r> {
    pub rules: &'r PoolRules,
    pub clock: Clock,
    /// When the file was written, in Unix seconds: the time of an entry that names none.
    pub written: Option<f64>,
}

/// An entry with an address, by the fields that matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proxy {
    pub anonymity: Option<String>,
    /// A field marks it as not working.
    pub is_dead: bool,
    /// Latest of the times at which it was checked, in Unix seconds.
    pub checked_at: Option<f64>,
}

/// What an entry with an address counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Usable,
    /// Its `anonymity` is one of the useless ones.
    Useless,
    /// Its entry marks it as not working.
    Dead,
    /// Its last check is longer ago than `max_age`.
    TooOld,
}

impl Judge<'_> {
    pub fn standing(&self, proxy: &Proxy) -> Standing {
        let is_useless = |anonymity: &String| {
            let useless = &self.rules.unusable_anonymity;
            useless.iter().any(|one| same(one, anonymity))
        };
        if proxy.is_dead {
            Standing::Dead
        } else if proxy.anonymity.as_ref().is_some_and(is_useless) {
            Standing::Useless
        } else if self.is_too_old(proxy.checked_at) {
            Standing::TooOld
        } else {
            Standing::Usable
        }
    }

    /// Where neither the entry nor the file tells a time, nothing is too old.
    fn is_too_old(&self, checked_at: Option<f64>) -> bool {
        let (Some(max_age), Some(moment)) = (self.rules.max_age, checked_at.or(self.written)) else {
            return false;
        };
        self.clock.now - moment > max_age.as_secs_f64()
    }
}

fn same(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    const NOW: f64 = 1_795_867_200.0;

    fn standing(max_age: Option<u64>, written: Option<f64>, proxy: &Proxy) -> Standing {
        let rules = PoolRules {
            unusable_anonymity: vec!["Transparent".to_owned()],
            max_age: max_age.map(Duration::from_secs),
        };
        let clock = Clock {
            now: NOW,
            zone: TimeZone::UTC,
        };
        let judge = Judge {
            rules: &rules,
            clock,
            written,
        };
        judge.standing(proxy)
    }

    #[test]
    fn the_entry_s_own_time_stands_above_the_file_s() {
        let checked = |ago: Option<f64>| Proxy {
            checked_at: ago.map(|ago| NOW - ago),
            ..Proxy::default()
        };
        for (max_age, written, proxy, expected) in [
            (Some(100), Some(NOW - 200.0), checked(None), Standing::TooOld),
            (Some(100), Some(NOW - 50.0), checked(None), Standing::Usable),
            (Some(100), Some(NOW + 50.0), checked(None), Standing::Usable),
            (Some(100), None, checked(None), Standing::Usable),
            (Some(100), Some(NOW), checked(Some(101.0)), Standing::TooOld),
            (Some(100), Some(NOW - 200.0), checked(Some(99.0)), Standing::Usable),
            (None, Some(0.0), checked(Some(1e8)), Standing::Usable),
        ] {
            assert_eq!(
                standing(max_age, written, &proxy),
                expected,
                "{max_age:?} {written:?} {proxy:?}"
            );
        }
    }

    #[test]
    fn a_dead_proxy_is_dead_however_old_and_hidden_it_is() {
        let proxy = Proxy {
            anonymity: Some(" transparent".to_owned()),
            is_dead: true,
            checked_at: Some(1e9),
        };
        assert_eq!(standing(Some(1), None, &proxy), Standing::Dead);
        let proxy = Proxy {
            is_dead: false,
            ..proxy
        };
        assert_eq!(standing(Some(1), None, &proxy), Standing::Useless);
    }

    proptest! {
        #[test]
        fn a_longer_limit_never_makes_a_proxy_too_old(ago in 0.0f64..1e8, less in 0u64..100_000_000, more in 0u64..100_000_000) {
            let proxy = Proxy { checked_at: Some(NOW - ago), ..Proxy::default() };
            if standing(Some(less), None, &proxy) == Standing::Usable {
                prop_assert_eq!(standing(Some(less + more), None, &proxy), Standing::Usable);
            }
        }
    }
}
