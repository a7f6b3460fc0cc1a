//! Decision which entries of a pool are usable proxies. Pure: the file's time and the clock are arguments.

use std::time::Duration;

use super::checked_at::CheckClock;
use orch_config::ProxiesConfig;

/// Rules by which a proxy of the pool is useless.
#[derive(Clone, Debug, Default)]
pub struct PoolRules {
    /// `anonymity` values of useless proxies, compared without case, numbers as text.
    pub unusable_anonymity: Vec<String>,
    /// Time since the last check after which a proxy does not count; `None`: no limit.
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

/// Rules at one time, for one file.
#[derive(Debug)]
pub struct PoolJudge<'r> {
    pub rules: &'r PoolRules,
    pub clock: CheckClock,
    /// Time at which the file was written, in Unix seconds; counts for an entry that names no time.
    pub written: Option<f64>,
}

/// Entry with an address, reduced to the fields that matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyEntry {
    pub anonymity: Option<String>,
    /// A field marks the proxy as not working.
    pub is_dead: bool,
    /// Latest time at which the proxy was checked, in Unix seconds.
    pub checked_at: Option<f64>,
}

/// Category in which an entry with an address counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyUsability {
    Usable,
    /// The `anonymity` of the proxy is one of the useless ones.
    Useless,
    /// The entry marks the proxy as not working.
    Dead,
    /// The last check is longer ago than `max_age`.
    TooOld,
}

impl PoolJudge<'_> {
    pub fn usability(&self, proxy: &ProxyEntry) -> ProxyUsability {
        let is_useless = |anonymity: &String| {
            let useless = &self.rules.unusable_anonymity;
            useless.iter().any(|one| same(one, anonymity))
        };
        if proxy.is_dead {
            ProxyUsability::Dead
        } else if proxy.anonymity.as_ref().is_some_and(is_useless) {
            ProxyUsability::Useless
        } else if self.is_too_old(proxy.checked_at) {
            ProxyUsability::TooOld
        } else {
            ProxyUsability::Usable
        }
    }

    /// Returns whether the last check is too long ago. If neither the entry nor the file has a time, the proxy is not
    /// too old.
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

    fn standing(max_age: Option<u64>, written: Option<f64>, proxy: &ProxyEntry) -> ProxyUsability {
        let rules = PoolRules {
            unusable_anonymity: vec!["Transparent".to_owned()],
            max_age: max_age.map(Duration::from_secs),
        };
        let clock = CheckClock {
            now: NOW,
            zone: TimeZone::UTC,
        };
        let judge = PoolJudge {
            rules: &rules,
            clock,
            written,
        };
        judge.usability(proxy)
    }

    #[test]
    fn the_entry_s_own_time_takes_precedence_over_the_file_s() {
        let checked = |ago: Option<f64>| ProxyEntry {
            checked_at: ago.map(|ago| NOW - ago),
            ..ProxyEntry::default()
        };
        for (max_age, written, proxy, expected) in [
            (Some(100), Some(NOW - 200.0), checked(None), ProxyUsability::TooOld),
            (Some(100), Some(NOW - 50.0), checked(None), ProxyUsability::Usable),
            (Some(100), Some(NOW + 50.0), checked(None), ProxyUsability::Usable),
            (Some(100), None, checked(None), ProxyUsability::Usable),
            (Some(100), Some(NOW), checked(Some(101.0)), ProxyUsability::TooOld),
            (
                Some(100),
                Some(NOW - 200.0),
                checked(Some(99.0)),
                ProxyUsability::Usable,
            ),
            (None, Some(0.0), checked(Some(1e8)), ProxyUsability::Usable),
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
        let proxy = ProxyEntry {
            anonymity: Some(" transparent".to_owned()),
            is_dead: true,
            checked_at: Some(1e9),
        };
        assert_eq!(standing(Some(1), None, &proxy), ProxyUsability::Dead);
        let proxy = ProxyEntry {
            is_dead: false,
            ..proxy
        };
        assert_eq!(standing(Some(1), None, &proxy), ProxyUsability::Useless);
    }

    proptest! {
        #[test]
        fn a_longer_limit_never_makes_a_proxy_too_old(ago in 0.0f64..1e8, less in 0u64..100_000_000, more in 0u64..100_000_000) {
            let proxy = ProxyEntry { checked_at: Some(NOW - ago), ..ProxyEntry::default() };
            if standing(Some(less), None, &proxy) == ProxyUsability::Usable {
                prop_assert_eq!(standing(Some(less + more), None, &proxy), ProxyUsability::Usable);
            }
        }
    }
}
