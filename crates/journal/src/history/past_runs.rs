//! Ends and durations of sites in earlier runs of a state directory.
//!
//! They are read from the kept journals, in which only the lines of the relevant kinds are parsed. The schedule, `orch
//! plan` and `orch sites` use them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::baseline::{MAX_BASELINE_RESULTS, SiteBaseline};
use super::past_site::PastSite;
use crate::end_cause::EndCause;
use crate::event_values::RunCommand;
use crate::ids::{RunId, ServiceName, SiteName};
use crate::journal_file::{each_line_of_kinds, is_being_written};
use crate::journal_head::{JournalHead, has_begun};
use crate::run_directory::RunDirectory;
use crate::site_counts::SiteCounts;
use crate::site_status::SiteStatus;
use orch_base::median::median;

/// Number of runs that are read: the latest ones in which any site ended.
const MAX_RUNS: usize = 10;

/// An `orch run` in the state directory, described by the first event.
#[derive(Clone, Debug)]
pub struct PastRun {
    pub run_id: RunId,
    pub journal: PathBuf,
    /// Time of the start, Unix seconds.
    pub at: f64,
    /// The run that this run continues.
    pub resumes: Option<RunId>,
}

impl PastRun {
    /// Decides whether the run has begun any site, or followed the job of an earlier run further. Otherwise the run
    /// failed at the start, or all of the sites were skipped.
    pub fn has_begun(&self) -> bool {
        has_begun(&self.journal)
    }

    /// Decides whether the run is active.
    pub fn is_alive(&self) -> bool {
        is_being_written(&self.journal)
    }
}

/// Lists the kept `orch run`s, the oldest first, including an active one.
///
/// # Errors
/// The runs cannot be listed.
pub fn past_runs(state_dir: &Path) -> io::Result<Vec<PastRun>> {
    let mut found = Vec::new();
    for directory in RunDirectory::kept(state_dir)? {
        let journal = directory.journal();
        // A run without a first event was killed during the start.
        let Some(start) = JournalHead::read(&journal) else {
            continue;
        };
        if start.command != RunCommand::Run {
            continue;
        }
        found.push(PastRun {
            run_id: start.run_id,
            journal,
            at: start.at,
            resumes: start.resumes.map(|resumed| resumed.run_id),
        });
    }
    // The wall clock may have been set back between two runs: for equal times the modification time of the file
    // decides.
    let modified = |run: &PastRun| std::fs::metadata(&run.journal).and_then(|file| file.modified()).ok();
    found.sort_by(|one, other| {
        one.at
            .total_cmp(&other.at)
            .then_with(|| modified(one).cmp(&modified(other)))
    });
    Ok(found)
}

/// Relevant events of a journal: a site's end, the start of the last attempt, the memory of a service, the time of a
/// pool refresh.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum RelevantEvent {
    SiteDispatched { site: SiteName, elapsed: f64 },
    SitePickedUp { site: SiteName },
    SiteFinished(SiteEnd),
    ServicePeaked { service: ServiceName, memory_bytes: u64 },
    ProxyRefreshFinished { elapsed_ms: u64 },
}

impl RelevantEvent {
    /// Names of these events in the lines.
    const KINDS: [&str; 5] = [
        "site_dispatched",
        "site_picked_up",
        "site_finished",
        "service_peaked",
        "proxy_refresh_finished",
    ];
}

/// Start of the last attempt at a site.
#[derive(Clone, Copy)]
enum AttemptStart {
    /// Dispatched at this run time, in seconds.
    Dispatched(f64),
    /// Dispatched by an earlier run, at a time that is not known here.
    PickedUp,
}

#[derive(Deserialize)]
struct SiteEnd {
    at: f64,
    /// Run time, seconds.
    elapsed: f64,
    site: SiteName,
    status: SiteStatus,
    counts: SiteCounts,
    elapsed_ms: u64,
    reason: Option<String>,
    cause: Option<EndCause>,
}

/// Results of sites, memory of services and times of refreshes in past runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Results of each site, the latest first.
    sites: BTreeMap<SiteName, Vec<PastSite>>,
    /// Memory peaks of each service in bytes, the latest first.
    peaks: BTreeMap<ServiceName, Vec<u64>>,
    /// Durations of the finished pool refreshes, the latest first.
    refreshes: Vec<Duration>,
}

impl History {
    /// Reads the journals of the latest runs; unreadable journals are ignored.
    ///
    /// # Errors
    /// The runs cannot be listed. A missing directory is no error.
    pub fn read(state_dir: &Path) -> io::Result<Self> {
        Ok(Self::of_runs(past_runs(state_dir)?.iter().rev()))
    }

    /// Reads the history before this run and before the runs that this run continues, since a resumed night counts as
    /// one night.
    ///
    /// # Errors
    /// See [`History::read`].
    pub fn read_before(state_dir: &Path, run_id: &RunId) -> io::Result<Self> {
        let runs = past_runs(state_dir)?;
        let mut night = BTreeSet::new();
        let mut next = Some(run_id);
        // A run that was visited already ends the search, so that a cycle in damaged journals cannot loop.
        while let Some(run_id) = next
            && night.insert(run_id)
        {
            let run = runs.iter().find(|run| run.run_id == *run_id);
            next = run.and_then(|run| run.resumes.as_ref());
        }
        Ok(Self::of_runs(
            runs.iter().rev().filter(|run| !night.contains(&run.run_id)),
        ))
    }

    /// Builds the history of runs, the latest first. Runs in which no site ended, because they failed at their start,
    /// do not count towards the limit.
    fn of_runs<'r>(runs: impl Iterator<Item = &'r PastRun>) -> Self {
        let mut history = Self::default();
        let mut counted = 0;
        for run in runs {
            if counted == MAX_RUNS {
                break;
            }
            let mut begun = BTreeMap::new();
            // A site that was tried again by request has several ends, of which the last one counts.
            let mut ends = BTreeMap::new();
            let read = each_line_of_kinds(&run.journal, &RelevantEvent::KINDS, |wanted| match wanted {
                RelevantEvent::SiteDispatched { site, elapsed } => {
                    begun.insert(site, AttemptStart::Dispatched(elapsed));
                }
                RelevantEvent::SitePickedUp { site } => {
                    begun.insert(site, AttemptStart::PickedUp);
                }
                RelevantEvent::SiteFinished(end) => {
                    let begun = begun.get(&end.site).copied();
                    ends.insert(end.site.clone(), (end, begun));
                }
                RelevantEvent::ServicePeaked { service, memory_bytes } => {
                    history.peaks.entry(service).or_default().push(memory_bytes);
                }
                RelevantEvent::ProxyRefreshFinished { elapsed_ms } => {
                    history.refreshes.push(Duration::from_millis(elapsed_ms));
                }
            });
            if let Err(error) = read {
                tracing::debug!(%error, "could not read the sites of a past run");
            }
            counted += usize::from(!ends.is_empty());
            for (end, begun) in ends.into_values() {
                history.note(&run.run_id, end, begun);
            }
        }
        history
    }

    fn note(&mut self, run_id: &RunId, end: SiteEnd, begun: Option<AttemptStart>) {
        let elapsed = Duration::from_millis(end.elapsed_ms);
        let attempt = match begun {
            Some(AttemptStart::Dispatched(at)) => Duration::try_from_secs_f64(end.elapsed - at).ok(),
            Some(AttemptStart::PickedUp) => None,
            // The line of the dispatch is missing, as after a full disk: assume a single attempt.
            None => Some(elapsed),
        };
        self.sites.entry(end.site).or_default().push(PastSite {
            run_id: run_id.clone(),
            at: end.at,
            status: end.status,
            elapsed,
            attempt,
            counts: end.counts,
            reason: end.reason,
            cause: end.cause,
        });
    }

    /// Returns the results of a site, the latest first.
    pub fn of(&self, site: &SiteName) -> &[PastSite] {
        self.sites.get(site).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the results of all sites, for each the latest first.
    pub fn all(&self) -> impl Iterator<Item = (&SiteName, &[PastSite])> {
        self.sites.iter().map(|(site, results)| (site, results.as_slice()))
    }

    /// Returns the expected memory of each on-demand service: the largest of the last peaks.
    pub fn peaks(&self) -> impl Iterator<Item = (&ServiceName, u64)> {
        let most = |peaks: &Vec<u64>| peaks.iter().take(MAX_BASELINE_RESULTS).copied().max();
        self.peaks
            .iter()
            .filter_map(move |(service, peaks)| Some((service, most(peaks)?)))
    }

    /// Returns the usual duration of a pool refresh: the median of the last ones, or the last one if that was shorter,
    /// so that one quick refresh is enough to correct the expectation.
    pub fn usual_refresh(&self) -> Option<Duration> {
        let last = self.refreshes.iter().take(MAX_BASELINE_RESULTS).copied();
        let usual = median(last.collect())?;
        self.refreshes.first().map(|latest| usual.min(*latest))
    }

    /// Returns the usual duration and chunks of each site. A site without a complete whole attempt is left out.
    pub fn baselines(&self) -> BTreeMap<SiteName, SiteBaseline> {
        let sites = self.sites.iter();
        sites
            .filter_map(|(site, results)| Some((site.clone(), SiteBaseline::of(results)?)))
            .collect()
    }

    /// Returns the expected duration of each site, which is the usual one.
    pub fn expected(&self) -> BTreeMap<SiteName, Duration> {
        let usual = self.baselines().into_iter();
        usual.map(|(site, usual)| (site, usual.elapsed)).collect()
    }

    /// Builds a history of these results, those of one site the latest first.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn of_results(results: impl IntoIterator<Item = (SiteName, PastSite)>) -> Self {
        let mut history = Self::default();
        for (site, result) in results {
            history.sites.entry(site).or_default().push(result);
        }
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use crate::facts::run_start::RunStart;
    use crate::recorder::Recorder;
    use crate::resumption::Resumption;

    fn run(state_dir: &Path, ends: &[(&str, SiteStatus, u64)]) -> Recorder {
        continuing(state_dir, RunId::random(), None, ends)
    }

    fn continuing(
        state_dir: &Path,
        run_id: RunId,
        other: Option<&RunId>,
        ends: &[(&str, SiteStatus, u64)],
    ) -> Recorder {
        let directory = RunDirectory::create(state_dir, &run_id).unwrap();
        let recorder = Recorder::create(&directory.journal()).unwrap();
        recorder.emit(EventKind::RunStarted(RunStart {
            format: crate::event::JOURNAL_FORMAT,
            run_id,
            command: RunCommand::Run,
            version: String::new(),
            instance: String::new(),
            config: "orch.toml".into(),
            directory: directory.path().into(),
            pid: 1,
            guard_pid: 2,
            services: Vec::new(),
            sites: Vec::new(),
            resumes: other.map(|run_id| Resumption {
                run_id: run_id.clone(),
                sites: Vec::new(),
            }),
        }));
        for (site, status, seconds) in ends {
            // Text that contains the name of an event is not an event.
            let reason = Some("\"event\":\"site_finished\"".to_owned());
            let site = SiteName::from(*site);
            recorder.emit(EventKind::SiteRetrying {
                site: site.clone(),
                attempt: 2,
                backoff_ms: 1,
                reason: reason.clone().unwrap_or_default(),
            });
            recorder.emit(EventKind::ServicePeaked {
                service: ServiceName::new(format!("celery@{site}")),
                memory_bytes: *seconds,
            });
            recorder.emit(EventKind::SiteFinished {
                site,
                status: *status,
                counts: SiteCounts::default(),
                elapsed_ms: seconds * 1000,
                reason,
                dependency: None,
                cause: None,
            });
        }
        recorder
    }

    #[test]
    fn the_median_of_the_last_complete_results_is_expected() {
        use SiteStatus::{Complete, Failed};
        let state_dir = tempfile::tempdir().unwrap();
        assert_eq!(History::read(state_dir.path()).unwrap(), History::default());
        let nights = [900, 30, 10, 20, 50, 40];
        for seconds in nights {
            drop(run(state_dir.path(), &[("a", Complete, seconds), ("b", Failed, 1)]));
        }
        // An active run that has not ended `a` yet.
        let _living = run(state_dir.path(), &[("c", Complete, 7)]);
        let history = History::read(state_dir.path()).unwrap();
        let seconds = |site: &str| history.expected().get(&site.into()).map(Duration::as_secs);
        assert_eq!((seconds("a"), seconds("b"), seconds("c")), (Some(30), None, Some(7)));
        let of_a: Vec<u64> = history
            .of(&"a".into())
            .iter()
            .map(|result| result.elapsed.as_secs())
            .collect();
        assert_eq!(of_a, [40, 50, 20, 10, 30, 900], "the latest first");
        assert_eq!(history.of(&"b".into()).len(), nights.len());
        let peaks: Vec<(String, u64)> = history.peaks().map(|(name, bytes)| (name.to_string(), bytes)).collect();
        let peak = |name: &str, bytes| (name.to_owned(), bytes);
        // The largest of the last five.
        assert_eq!(peaks, [peak("celery@a", 50), peak("celery@b", 1), peak("celery@c", 7)]);
    }

    /// Writes a journal of these events after the start, each at a run time in seconds.
    fn write_run(state_dir: &Path, run_id: &str, at: f64, events: &[(f64, &str)]) {
        let directory = RunDirectory::create(state_dir, &run_id.into()).unwrap();
        let start = format!(
            r#"{{"seq":1,"at":{at},"elapsed":0,"event":"run_started","format":1,"run_id":"{run_id}","command":"run"}}"#
        );
        let line =
            |(elapsed, rest): &(f64, &str)| format!(r#"{{"seq":2,"at":{at},"elapsed":{elapsed},"event":{rest}}}"#);
        let lines: Vec<String> = std::iter::once(start).chain(events.iter().map(line)).collect();
        std::fs::write(directory.journal(), lines.join("\n") + "\n").unwrap();
    }

    #[test]
    fn the_time_of_an_attempt_is_from_its_own_dispatch_to_the_end() {
        let dispatched = r#""site_dispatched","site":"a","attempt":1,"task_id":"t""#;
        let picked_up = r#""site_picked_up","site":"a","attempt":1,"task_id":"t""#;
        let finished = r#""site_finished","site":"a","status":"complete","counts":{},"elapsed_ms":900000"#;
        for (events, attempt) in [
            (&[(5.0, dispatched), (605.0, finished)][..], Some(600)),
            // A retry after a wait.
            (&[(5.0, dispatched), (300.0, dispatched), (905.0, finished)], Some(605)),
            (&[(5.0, picked_up), (5.9, finished)], None),
            // Nothing was left of the earlier run's job.
            (&[(5.0, picked_up), (6.0, dispatched), (96.0, finished)], Some(90)),
            // A disk that was full: only the site's own time is known.
            (&[(605.0, finished)], Some(900)),
            (&[(700.0, dispatched), (605.0, finished)], None),
        ] {
            let state_dir = tempfile::tempdir().unwrap();
            write_run(state_dir.path(), "r", 1.0, events);
            let history = History::read(state_dir.path()).unwrap();
            let found = history.of(&"a".into())[0].attempt.map(|attempt| attempt.as_secs());
            assert_eq!(found, attempt, "{events:?}");
        }
    }

    #[test]
    fn runs_that_failed_at_their_start_hide_none_that_did_not() {
        let state_dir = tempfile::tempdir().unwrap();
        let dispatched = r#""site_dispatched","site":"a","attempt":1,"task_id":"t""#;
        let finished = r#""site_finished","site":"a","status":"complete","counts":{},"elapsed_ms":1"#;
        write_run(state_dir.path(), "good", 1.0, &[(0.0, dispatched), (60.0, finished)]);
        for number in 0..MAX_RUNS + 3 {
            let failed = r#""run_finished","outcome":"infrastructure_failed","exit_code":3"#;
            let at = 2.0 + number as f64;
            write_run(state_dir.path(), &format!("bad{number}"), at, &[(1.0, failed)]);
        }
        let history = History::read(state_dir.path()).unwrap();
        assert_eq!(history.expected().get(&"a".into()), Some(&Duration::from_secs(60)));
        let begun = |run: &PastRun| run.has_begun();
        let runs = past_runs(state_dir.path()).unwrap();
        assert_eq!(runs.iter().filter(|run| begun(run)).count(), 1);
    }

    #[test]
    fn a_night_that_was_resumed_twice_is_one_night() {
        let state_dir = tempfile::tempdir().unwrap();
        let ids = ["before", "first", "second", "third"].map(RunId::from);
        for (place, id) in ids.iter().enumerate() {
            let other = (place > 1).then(|| &ids[place - 1]);
            let failed = [("a", SiteStatus::Failed, 1)];
            drop(continuing(state_dir.path(), id.clone(), other, &failed));
        }
        let before = |run_id: &RunId| -> Vec<RunId> {
            let history = History::read_before(state_dir.path(), run_id).unwrap();
            let results = history.of(&"a".into()).iter();
            results.map(|result| result.run_id.clone()).collect()
        };
        assert_eq!(before(&ids[3]), ids[..1]);
        assert_eq!(before(&ids[2]), [ids[3].clone(), ids[0].clone()]);
        assert_eq!(before(&"none".into()).len(), 4);
        // Runs without ended sites do not count towards the limit: neither a run that has begun nor one that failed at
        // its start.
        for number in 0..MAX_RUNS {
            let failed = [("b", SiteStatus::Failed, 1)];
            drop(continuing(
                state_dir.path(),
                format!("of b {number}").as_str().into(),
                None,
                &failed,
            ));
        }
        let own = RunId::from("own");
        let _own = continuing(state_dir.path(), own.clone(), None, &[]);
        let of_b = |history: History| history.of(&"b".into()).len();
        assert_eq!(of_b(History::read_before(state_dir.path(), &own).unwrap()), MAX_RUNS);
        assert_eq!(of_b(History::read(state_dir.path()).unwrap()), MAX_RUNS);
    }
}
