//! Simulation of past nights: the schedule runs in virtual time, with other limits, and with more or less knowledge of
//! the durations.
//!
//! Each site takes as long (retries included) and ends as it did in that night; dependencies and resources are those of
//! the present configuration. So the simulation compares orders, and ignores that sites slow each other down when more
//! of them run in parallel. Past nights come from [`History`], the output is in [`simulate`](super::simulate).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use orch_config::{Config, SiteConfig};
use orch_journal::{History, PastSite, RunId, SiteBaseline, SiteName, SiteStatus};
use orch_scrape::schedule::{AgendaError, SimulatedTurn, SimulationTrace, SiteAgenda, SiteId, simulate};
use orch_scrape::sites::RunPlan;

/// One past run.
#[derive(Clone, Debug, PartialEq)]
pub struct PastNight<'h> {
    pub run_id: RunId,
    /// Begin of the first site by the wall clock, Unix seconds.
    pub at: f64,
    /// Time from the begin of the first site to the end of the last site.
    pub took: Duration,
    sites: BTreeMap<&'h SiteName, &'h PastSite>,
}

/// Returns the runs of a history, the oldest first. Cancelled sites are left out, because their duration means nothing.
pub fn nights(history: &History) -> Vec<PastNight<'_>> {
    let mut nights: HashMap<&RunId, BTreeMap<&SiteName, &PastSite>> = HashMap::new();
    for (name, results) in history.all() {
        for result in results {
            if result.status != SiteStatus::Cancelled {
                nights.entry(&result.run_id).or_default().insert(name, result);
            }
        }
    }
    let mut nights: Vec<PastNight<'_>> = nights
        .into_iter()
        .map(|(run_id, sites)| PastNight::new(run_id, sites))
        .collect();
    nights.sort_by(|one, other| one.at.total_cmp(&other.at));
    nights
}

impl<'h> PastNight<'h> {
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

/// Result of a night that was simulated with one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyResult {
    pub length: Duration,
    /// Longest time of a site between the moment when its dependencies had ended and its begin.
    pub longest_wait: Duration,
}

/// Results of a simulated night, by policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedNight {
    pub sites: usize,
    /// Lower bound of any order.
    pub lower_bound: Duration,
    /// Result in the order of the configuration, without known durations.
    pub as_configured: PolicyResult,
    /// Result with the durations of the nights before; this is the policy of `orch run`.
    pub by_history: PolicyResult,
    /// Result with the actual durations of the night, which are not known in advance.
    pub oracle: PolicyResult,
}

/// Simulates the nights with `at_once` parallel sites. Sites of a night that are not in `sites` are left out.
///
/// # Errors
/// The errors of [`RunPlan::new`].
pub fn replay(
    config: &Config,
    sites: &[&SiteConfig],
    nights: &[PastNight<'_>],
    at_once: usize,
) -> Result<Vec<SimulatedNight>, AgendaError> {
    let mut replays = Vec::with_capacity(nights.len());
    let mut before: BTreeMap<&SiteName, Vec<&PastSite>> = BTreeMap::new();
    for night in nights {
        let present = sites.iter().filter(|site| night.sites.contains_key(&site.name));
        let present: Vec<SiteConfig> = present.map(|site| (*site).clone()).collect();
        let known = before.iter().filter_map(|(name, results)| {
            let usual = SiteBaseline::of(results.iter().rev().copied())?;
            Some(((*name).clone(), usual.elapsed))
        });
        let lengths = night.sites.iter().map(|(name, site)| ((*name).clone(), site.elapsed));
        let agenda = |expected: BTreeMap<SiteName, Duration>| {
            let work = RunPlan::new(present.clone(), at_once, &config.resources, &expected)?;
            Ok(work.agenda().clone())
        };
        let actual: Vec<&PastSite> = present
            .iter()
            .filter_map(|site| night.sites.get(&site.name).copied())
            .collect();
        let with_actual_lengths = agenda(lengths.collect())?;
        replays.push(SimulatedNight {
            sites: present.len(),
            lower_bound: with_actual_lengths.lower_bound(),
            as_configured: trial(agenda(BTreeMap::new())?, &actual),
            by_history: trial(agenda(known.collect())?, &actual),
            oracle: trial(with_actual_lengths, &actual),
        });
        for (name, site) in &night.sites {
            before.entry(name).or_default().push(site);
        }
    }
    Ok(replays)
}

fn trial(agenda: SiteAgenda, actual: &[&PastSite]) -> PolicyResult {
    let fate = |site: SiteId, _| {
        let site = actual[site.place()];
        SimulatedTurn {
            lasts: site.elapsed,
            then: Ok(site.status),
        }
    };
    let trace = simulate(agenda.clone(), fate);
    PolicyResult {
        length: trace.makespan,
        longest_wait: longest_wait(&agenda, &trace),
    }
}

fn longest_wait(agenda: &SiteAgenda, trace: &SimulationTrace) -> Duration {
    let end = |site: SiteId| trace.ends[site.place()];
    let wait = |turn: &orch_scrape::schedule::TurnSpan| {
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
    use orch_config::LoadOptions;
    use orch_journal::SiteCounts;

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
    fn more_knowledge_shortens_the_night_down_to_the_bound() {
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
        let seconds = |trial: PolicyResult| (trial.length.as_secs(), trial.longest_wait.as_secs());
        let seen: Vec<_> = replays
            .iter()
            .map(|replay| {
                let trials = [replay.as_configured, replay.by_history, replay.oracle];
                (replay.sites, replay.lower_bound.as_secs(), trials.map(seconds))
            })
            .collect();
        assert_eq!(
            seen,
            [
                // d and a, then b and e, while c runs. c begins last, as long as its duration is unknown.
                (5, 32, [(40, 10), (40, 10), (35, 20)]),
                // c and d, then a, b and e one after the other.
                (5, 32, [(40, 10), (35, 20), (35, 20)]),
                // d fails after its full time, and e, which depends on d, is skipped.
                (3, 20, [(20, 0), (20, 0), (20, 0)]),
            ]
        );
        let alone = super::replay(&config, &sites, &nights, 1).unwrap();
        assert_eq!(alone[0].oracle.length.as_secs(), 65);
    }
}
