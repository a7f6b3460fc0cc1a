//! Consequence of a count of the pool, and of the end of the refresh, for the run. Pure.

use std::path::Path;
use std::time::Duration;

use super::pool_count::PoolCount;
use orch_base::text::duration_text::shown;
use orch_config::ProxiesConfig;

/// Shortest time in which a refresh can end.
const MIN_REFRESH_TIMEOUT: Duration = Duration::from_secs(1);

/// Hint for a queue without a consumer.
const UNCONSUMED: &str = "add the queue to `[celery] queues`, start a worker that consumes it, or give the tasks of `[proxies] refresh` \
                          another `queue`";

/// Decision whether the run may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyVerdict {
    /// The usable proxies are enough, or few are allowed.
    Enough { usable: u64 },
    TooFew {
        usable: u64,
        /// Result of the refresh, as text for a person.
        reason: String,
        hint: String,
    },
    /// The content of the file is not a pool, and the refresh has not changed that.
    Unreadable { reason: String, hint: String },
}

/// End of a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshEnd {
    /// The configuration names no chain.
    Impossible,
    /// The refresh was not begun, for this reason: the time would not suffice.
    NotBegun(String),
    Failed(String),
    /// The refresh failed because some tasks wait in a queue that no worker consumes.
    Unconsumed(String),
    Finished,
}

impl RefreshEnd {
    fn text(&self) -> String {
        match self {
            Self::Impossible => "`[proxies] refresh` names no task that would find more".to_owned(),
            Self::NotBegun(reason) => format!("no refresh is begun: {reason}"),
            Self::Failed(reason) | Self::Unconsumed(reason) => format!("the refresh failed: {reason}"),
            Self::Finished => "the refresh finished and found no more".to_owned(),
        }
    }
}

/// Judges the pool, without regard to the option that allows few proxies.
pub fn verdict(config: &ProxiesConfig, counted: &PoolCount, end: &RefreshEnd) -> ProxyVerdict {
    let usable = counted.usable;
    if usable >= config.min_usable {
        return ProxyVerdict::Enough { usable };
    }
    let file = config.file.display();
    let problem = counted.problem.as_deref().unwrap_or_default();
    if counted.is_unreadable {
        let end = match end {
            // The hint names the missing chain.
            RefreshEnd::Impossible => String::new(),
            // A refresh that succeeds writes the file, or another one.
            RefreshEnd::Finished => "; the refresh finished and did not repair it".to_owned(),
            end => format!("; {}", end.text()),
        };
        return ProxyVerdict::Unreadable {
            reason: format!("{problem}{end}"),
            hint: unreadable_hint(&config.file, !config.refresh.is_empty()),
        };
    }
    let mut reason = end.text();
    if !counted.left_out.is_none() {
        reason.push_str(&format!(
            "; of {} in {file}, {} do not count",
            counted.total, counted.left_out
        ));
    }
    if !problem.is_empty() {
        reason.push_str(&format!("; {file}: {problem}"));
    }
    let few = "`--allow-few-proxies` goes on with fewer; `[proxies] min_usable` sets how many are enough";
    let hint = match end {
        // To go on with fewer proxies is no remedy: the sites have no worker either, or the next night has none for the
        // refresh.
        RefreshEnd::Unconsumed(_) => UNCONSUMED.to_owned(),
        RefreshEnd::NotBegun(_) => format!("`[proxies] timeout` (`--proxy-timeout`) sets the limit; {few}"),
        _ if usable.saturating_add(counted.left_out.too_old) >= config.min_usable => {
            format!("`[proxies] max_age` sets how old a proxy may be; {few}")
        }
        _ => few.to_owned(),
    };
    ProxyVerdict::TooFew { usable, reason, hint }
}

/// Returns the hint for a pool that cannot be read.
fn unreadable_hint(file: &Path, is_refreshed: bool) -> String {
    let then = match is_refreshed {
        true => "the next refresh writes it anew",
        false => "`[proxies] refresh` names no task that would write it",
    };
    format!("delete or repair {}: {then}", file.display())
}

/// Returns the reason why a refresh cannot end in the time that is left, if there is one.
pub fn cannot_end(left: Duration, usual: Option<Duration>) -> Option<String> {
    let needed = usual.unwrap_or_default().max(MIN_REFRESH_TIMEOUT);
    if needed <= left {
        return None;
    }
    let left = shown(left);
    Some(match usual {
        Some(usual) if usual == needed => {
            format!(
                "it usually takes {}, and {left} of `[proxies] timeout` are left",
                shown(usual)
            )
        }
        _ => format!("{left} of `[proxies] timeout` are left"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use orch_config::{DynamicTimeout, TaskCall};
    use orch_journal::LeftOutProxies;

    fn config(min_usable: u64, has_chain: bool) -> ProxiesConfig {
        let call = TaskCall {
            task: "refresh".to_owned(),
            args: vec![],
            kwargs: Default::default(),
            queue: None,
            immutable: false,
        };
        ProxiesConfig {
            enabled: true,
            file: "pool.json".into(),
            min_usable,
            unusable_anonymity: vec![],
            max_age: None,
            allow_few: false,
            refresh: if has_chain { vec![call] } else { vec![] },
            keys: String::new(),
            timeout: Duration::from_secs(60),
            dynamic_timeout: DynamicTimeout {
                time_per_chunk: Duration::from_secs(60),
                buffer: 1.0,
                timeout_min: Duration::from_secs(1),
                timeout_default: Duration::from_secs(1),
            },
        }
    }

    fn failed() -> RefreshEnd {
        RefreshEnd::Failed("ValueError".to_owned())
    }

    #[test]
    fn an_unreadable_pool_names_its_cure_and_not_how_to_ignore_it() {
        let counted = PoolCount::unreadable("it is null, not a list of proxies");
        for (has_chain, end, expected_reason, expected_hint) in [
            (
                true,
                failed(),
                "it is null, not a list of proxies; the refresh failed: ValueError",
                "delete or repair pool.json: the next refresh writes it anew",
            ),
            (
                true,
                RefreshEnd::Finished,
                "it is null, not a list of proxies; the refresh finished and did not repair it",
                "delete or repair pool.json: the next refresh writes it anew",
            ),
            (
                false,
                RefreshEnd::Impossible,
                "it is null, not a list of proxies",
                "delete or repair pool.json: `[proxies] refresh` names no task that would write it",
            ),
        ] {
            let ProxyVerdict::Unreadable { reason, hint } = verdict(&config(1, has_chain), &counted, &end) else {
                panic!("{end:?}");
            };
            assert_eq!((reason.as_str(), hint.as_str()), (expected_reason, expected_hint));
        }
        // No proxy is required.
        assert_eq!(
            verdict(&config(0, false), &counted, &failed()),
            ProxyVerdict::Enough { usable: 0 }
        );
    }

    #[test]
    fn too_few_says_why_and_hints_at_what_would_change_it() {
        let counted = |usable, too_old| PoolCount {
            total: 48,
            usable,
            left_out: LeftOutProxies {
                too_old,
                max_age_ms: 86_400_000,
                dead: 0,
            },
            ..PoolCount::default()
        };
        let ProxyVerdict::TooFew {
            usable: 8,
            reason,
            hint,
        } = verdict(&config(10, true), &counted(8, 40), &failed())
        else {
            panic!("8 are not 10");
        };
        assert_eq!(
            reason,
            "the refresh failed: ValueError; of 48 in pool.json, 40 older than 24h do not count"
        );
        assert!(hint.starts_with("`[proxies] max_age` "), "{hint}");
        let hint_of = |end| match verdict(&config(10, true), &counted(8, 1), &end) {
            ProxyVerdict::TooFew { hint, .. } => hint,
            verdict => panic!("{verdict:?}"),
        };
        assert!(hint_of(failed()).starts_with("`--allow-few-proxies` "));
        assert!(hint_of(RefreshEnd::Unconsumed(String::new())).starts_with("add the queue to `[celery] queues`"));
        assert!(hint_of(RefreshEnd::NotBegun(String::new())).contains("--proxy-timeout"));
    }

    #[test]
    fn no_refresh_is_begun_that_cannot_end() {
        let seconds = Duration::from_secs;
        for (left, usual, reason) in [
            (seconds(300), Some(seconds(300)), None),
            (seconds(60), None, None),
            (seconds(1), None, None),
            (
                seconds(299),
                Some(seconds(300)),
                Some("it usually takes 5m, and 4m59s of `[proxies] timeout` are left"),
            ),
            (
                Duration::from_millis(500),
                None,
                Some("0.5s of `[proxies] timeout` are left"),
            ),
            (
                Duration::ZERO,
                Some(Duration::from_millis(1)),
                Some("0s of `[proxies] timeout` are left"),
            ),
        ] {
            assert_eq!(cannot_end(left, usual).as_deref(), reason, "{left:?} {usual:?}");
        }
    }

    proptest! {
        #[test]
        fn more_time_never_forbids_a_refresh(left in 0u64..100_000, more in 0u64..100_000, usual in proptest::option::of(0u64..100_000)) {
            let millis = Duration::from_millis;
            if cannot_end(millis(left), usual.map(millis)).is_none() {
                prop_assert_eq!(cannot_end(millis(left + more), usual.map(millis)), None);
            }
        }

        #[test]
        fn enough_is_enough_whatever_became_of_the_refresh(usable in 0u64..20, min_usable in 0u64..20, is_unreadable: bool) {
            let counted = PoolCount { usable, is_unreadable, ..PoolCount::default() };
            for end in [RefreshEnd::Impossible, RefreshEnd::NotBegun(String::new()), failed(), RefreshEnd::Finished] {
                let is_enough = matches!(verdict(&config(min_usable, true), &counted, &end), ProxyVerdict::Enough { .. });
                prop_assert_eq!(is_enough, usable >= min_usable);
            }
        }
    }
}
