//! Nights that were, run again by the schedule in virtual time: with other limits, and by who knows less or more of them.
//!
//! Each site takes as long, its retries included, and ends as it did; what it depends on and uses is as the configuration
//! says now. So what is compared is the order, not what sites do to each other: more at a time make each slower. Not here:
//! where nights are remembered (`run::History`), and the words (`cli::simulate`).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::config::{Config, SiteConfig};
use crate::run::{History, PastSite, RunId, SiteName, SiteStatus, Usual};
use crate::sites::Work;
use crate::sites::schedule::{Agenda, AgendaError, Fate, Outcome, SiteId, Trace, simulate};

/// One run, as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Night<'h> {
    pub run_id: RunId,
    /// Wall clock of its first site's begin, Unix seconds.
    pub at: f64,
    /// From there to the end of its last site.
    pub took: Duration,
    sites: BTreeMap<&'h SiteName, &'h PastSite>,
}

/// The runs that a history tells of, the oldest first. A site that was cancelled tells nothing.
pub fn nights(history: &History) -> Vec<Night<'_>> {
    let mut nights: HashMap<&RunId, BTreeMap<&SiteName, &PastSite>> = HashMap::new();
    for (name, results) in history.all() {
        for result in results {
            if result.status != SiteStatus::Cancelled {
                nights.entry(&result.run_id).or_default().insert(name, result);
            }
        }
    }
    let mut nights: Vec<Night<'_>> = nights
        .into_iter()
        .map(|(run_id, sites)| Night::new(run_id, sites))
        .collect();
    nights.sort_by(|one, other| one.at.total_cmp(&other.at));
    nights
}

impl<'h> Night<'h> {
    fn new(run_id: &RunId, sites: BTreeMap<&'h SiteName, &'h PastSite>) -> Self {
        let begins = sites.values().map(|site| site.at - site.elapsed.as_secs_f64());
        let at = begins.fold(f64::INFINITY, f64::min);
        let end = sites.values().map(|site| site.at).fold(f64::NEG_INFINITY, f64::max);
        Self {
            run_id: run_id.clone(),
            at,
            took: Duration::try_from_secs_f64(end - at).unwrap_or_default(),
            sites,
        }
    }
}

/// What a night becomes under one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trial {
    pub length: Duration,
    /// The longest time that a site spent between the moment from which it could have run and its begin.
    pub longest_wait: Duration,
}

/// A night run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    pub sites: usize,
    /// What no order undercuts.
    pub lower_bound: Duration,
    /// In the order of the configuration: nothing is known of how long sites take.
    pub as_configured: Trial,
    /// By what the nights before it told: what `orch run` does.
    pub by_history: Trial,
    /// By how long they then took, which nobody knows beforehand.
    pub foreseen: Trial,
}

/// Runs the nights again with so many sites at once; sites that are not among these were not there.
///
/// # Errors
/// As [`Work::new`].
pub fn replay(
    config: &Config,
    sites: &[&SiteConfig],
    nights: &[Night<'_>],
    at_once: usize,
) -> Result<Vec<Replay>, AgendaError> {
    let mut replays = Vec::with_capacity(nights.len());
    let mut before: BTreeMap<&SiteName, Vec<&PastSite>> = BTreeMap::new();
    for night in nights {
        let there = sites.iter().filter(|site| night.sites.contains_key(&site.name));
        let there: Vec<SiteConfig> = there.map(|site| (*site).clone()).collect();
        let known = before.iter().filter_map(|(name, results)| {
            let usual = Usual::of(results.iter().rev().copied())?;
            Some(((*name).clone(), usual.elapsed))
        });
        let lengths = night.sites.iter().map(|(name, site)| ((*name).clone(), site.elapsed));
        let agenda = |expected: BTreeMap<SiteName, Duration>| {
            let work = Work::new(there.clone(), at_once, &config.resources, &expected)?;
            Ok(work.agenda().clone())
        };
        let was: Vec<&PastSite> = there
            .iter()
            .filter_map(|site| night.sites.get(&site.name).copied())
            .collect();
        let as_it_was = agenda(lengths.collect())?;
        replays.push(Replay {
            sites: there.len(),
            lower_bound: as_it_was.lower_bound(),
            as_configured: trial(agenda(BTreeMap::new())?, &was),
            by_history: trial(agenda(known.collect())?, &was),
            foreseen: trial(as_it_was, &was),
        });
        for (name, site) in &night.sites {
            before.entry(name).or_default().push(site);
        }
    }
    Ok(replays)
}

fn trial(agenda: Agenda, was: &[&PastSite]) -> Trial {
    let fate = |site: SiteId, _| {
        let site = was[site.place()];
        Fate {
            lasts: site.elapsed,
            then: Ok(match site.status {
                SiteStatus::Complete => Outcome::Complete,
                SiteStatus::Degraded => Outcome::Degraded,
                SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Skipped => Outcome::Failed,
                SiteStatus::Cancelled => Outcome::Cancelled,
            }),
        }
    };
    let trace = simulate(agenda.clone(), fate);
    Trial {
        length: trace.makespan,
        longest_wait: longest_wait(&agenda, &trace),
    }
}

fn longest_wait(agenda: &Agenda, trace: &Trace) -> Duration {
    let end = |site: SiteId| trace.ends[site.place()];
    let wait = |turn: &crate::sites::schedule::Span| {
        let entry = agenda.entry(turn.site);
        let all = entry.after.iter().chain(&entry.after_finished);
        let all = all.filter_map(|site| end(*site)).map(|(_, at)| at).max();
        let any = entry.after_any.iter().filter_map(|site| end(*site));
        let any = any.filter(|(end, _)| end.is_success()).map(|(_, at)| at).min();
        turn.begin.saturating_sub(all.max(any).unwrap_or_default())
    };
    trace.turns.iter().map(wait).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadOptions;
    use crate::run::SiteCounts;

    fn config() -> (tempfile::TempDir, Config) {
        let text = "[redis]\nmode = \"external\"\n[celery]\napp = \"app\"\n[sites.defaults]\ndispatch = \"app.d\"\n\
                    [sites.a]\n[sites.b]\n[sites.c]\n[sites.d]\n[sites.e]\nafter = [\"d\"]\n";
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("orch.toml"), text).unwrap();
        let options = LoadOptions {
            directory: directory.path().to_owned(),
            ..LoadOptions::default()
        };
        let config = Config::load(options).unwrap();
        (directory, config)
    }

    fn night(number: u32, sites: &[(&str, SiteStatus, u64)]) -> Vec<(SiteName, PastSite)> {
        let site = |(name, status, seconds): &(&str, SiteStatus, u64)| {
            let result = PastSite {
                run_id: RunId::from(format!("night{number}").as_str()),
                at: f64::from(number) * 100_000.0 + *seconds as f64,
                status: *status,
                elapsed: Duration::from_secs(*seconds),
                attempt: Some(Duration::from_secs(*seconds)),
                counts: SiteCounts::default(),
                reason: None,
                cause: None,
            };
            (SiteName::from(*name), result)
        };
        sites.iter().map(site).collect()
    }

    #[test]
    fn who_knows_more_is_done_earlier_and_nobody_before_the_bound() {
        use SiteStatus::{Cancelled, Complete, Failed, Skipped};
        let (_directory, config) = config();
        let good = [
            ("a", Complete, 10),
            ("b", Complete, 10),
            ("c", Complete, 30),
            ("d", Complete, 5),
            ("e", Complete, 10),
        ];
        let bad = [
            ("a", Complete, 10),
            ("d", Failed, 20),
            ("e", Skipped, 0),
            ("b", Cancelled, 3),
            ("gone", Complete, 9),
        ];
        let history = History::of_results([night(2, &good), night(1, &good), night(3, &bad)].concat());
        let nights = nights(&history);
        let at: Vec<(f64, Duration)> = nights.iter().map(|night| (night.at, night.took)).collect();
        let begin = |night: f64, took| (night * 100_000.0, Duration::from_secs(took));
        assert_eq!(at, [begin(1.0, 30), begin(2.0, 30), begin(3.0, 20)]);

        let sites: Vec<&SiteConfig> = config.sites.iter().collect();
        let replays = replay(&config, &sites, &nights, 2).unwrap();
        let seconds = |trial: Trial| (trial.length.as_secs(), trial.longest_wait.as_secs());
        let seen: Vec<_> = replays
            .iter()
            .map(|replay| {
                let trials = [replay.as_configured, replay.by_history, replay.foreseen];
                (replay.sites, replay.lower_bound.as_secs(), trials.map(seconds))
            })
            .collect();
        assert_eq!(
            seen,
            [
                // d a, then b e beside c, which begins last as long as nobody knows how long it is.
                (5, 32, [(40, 10), (40, 10), (35, 20)]),
                // c d, then a b e one after the other.
                (5, 32, [(40, 10), (35, 20), (35, 20)]),
                // What fails skips what depends on it, and takes its time all the same.
                (3, 20, [(20, 0), (20, 0), (20, 0)]),
            ]
        );
        let alone = super::replay(&config, &sites, &nights, 1).unwrap();
        assert_eq!(alone[0].foreseen.length.as_secs(), 65);
    }
}
