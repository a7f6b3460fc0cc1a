//! Suspicion against the proxy pool: a site of the last run had no results with the pool, so that the proxies may have
//! died without a mark in the entries.
//!
//! The journal of that run holds the facts. The pool is not suspect if that run has refreshed it after sites had begun,
//! or if any program has written the file since. A refresh within a run is not decided here.

use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use orch_journal::{RunId, SiteCounts, SiteName, SiteStatus, each_line_of_kinds, past_runs};

/// Number of runs that are searched for the last one that began a site.
const MOST_RUNS: usize = 10;

/// Pool with which a site had no results.
#[derive(Clone, Debug, PartialEq)]
pub struct SuspectPool {
    pub site: SiteName,
    pub run_id: RunId,
    /// Time at which the site ended, Unix seconds.
    pub at: f64,
}

impl SuspectPool {
    /// Examines the last run before this one that began a site.
    ///
    /// # Errors
    /// The runs cannot be listed.
    pub fn find(state_dir: &Path, before: &RunId) -> io::Result<Option<Self>> {
        let runs = past_runs(state_dir)?;
        let earlier = runs.iter().rev().filter(|run| run.run_id != *before);
        for run in earlier.take(MOST_RUNS) {
            let mut trail = PoolHistory::default();
            if let Err(error) = each_line_of_kinds(&run.journal, &PoolEvent::KINDS, |event| trail.apply(event)) {
                tracing::debug!(%error, "could not read from a journal whether the run's proxies were useful");
            }
            if trail.has_begun {
                return Ok(trail.empty.map(|(site, at)| Self {
                    site,
                    run_id: run.run_id.clone(),
                    at,
                }));
            }
        }
        Ok(None)
    }

    /// Returns whether the file has not been written since then.
    pub(crate) fn is_still(&self, file: &Path) -> bool {
        let written = fs::metadata(file).and_then(|facts| facts.modified()).ok();
        let written = written.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
        written.is_some_and(|written| written.as_secs_f64() <= self.at)
    }
}

/// Events of a journal that matter here.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum PoolEvent {
    SiteDispatched {},
    SitePickedUp {},
    SiteFinished {
        at: f64,
        site: SiteName,
        status: SiteStatus,
        counts: SiteCounts,
    },
    ProxyRefreshFinished {},
}

impl PoolEvent {
    /// Names of the events in the journal.
    const KINDS: [&str; 4] = [
        "site_dispatched",
        "site_picked_up",
        "site_finished",
        "proxy_refresh_finished",
    ];
}

/// Facts of a run about the pool.
#[derive(Default)]
struct PoolHistory {
    has_begun: bool,
    /// The pool was refreshed while sites were under way: the sites without results were the reason for that refresh.
    is_refreshed: bool,
    empty: Option<(SiteName, f64)>,
}

impl PoolHistory {
    fn apply(&mut self, event: PoolEvent) {
        match event {
            PoolEvent::SiteDispatched {} | PoolEvent::SitePickedUp {} => self.has_begun = true,
            PoolEvent::ProxyRefreshFinished {} if self.has_begun => {
                self.is_refreshed = true;
                self.empty = None;
            }
            PoolEvent::ProxyRefreshFinished {} => {}
            // A site that may have no results is complete without any.
            PoolEvent::SiteFinished {
                at,
                site,
                status: SiteStatus::Degraded,
                counts,
            } if counts.has_no_results() && !self.is_refreshed => self.empty = Some((site, at)),
            PoolEvent::SiteFinished { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use super::*;
    use orch_journal::RunDirectory;

    const BEGUN: &str = r#""site_dispatched","site":"shop","attempt":1,"task_id":"t""#;
    const REFRESHED: &str = r#""proxy_refresh_finished","elapsed_ms":1"#;

    fn ended(status: &str, results: &str) -> String {
        format!(r#""site_finished","site":"shop","status":"{status}","counts":{{{results}}},"elapsed_ms":1"#)
    }

    fn write(state_dir: &Path, run_id: &str, at: u32, events: &[&str]) {
        let directory = RunDirectory::create(state_dir, &run_id.into()).unwrap();
        let start = format!(
            r#""run_started","format":1,"run_id":"{run_id}","command":"run","version":"0","instance":"orch","config":"orch.toml","directory":"d","pid":1,"guard_pid":2,"services":[],"sites":["shop"]"#
        );
        let events = std::iter::once(start.as_str()).chain(events.iter().copied()).zip(1..);
        let line =
            |(event, seq): (&str, u32)| format!("{{\"seq\":{seq},\"at\":{at},\"elapsed\":0,\"event\":{event}}}\n");
        fs::write(directory.journal(), events.map(line).collect::<String>()).unwrap();
    }

    #[test]
    fn a_pool_is_suspect_when_a_site_of_the_last_run_had_no_results_with_it() {
        let (empty, some) = (ended("degraded", r#""results":0"#), ended("degraded", r#""results":3"#));
        let (fine, failed) = (ended("complete", r#""results":0"#), ended("failed", r#""results":0"#));
        let unknown = ended("degraded", "");
        for (events, is_suspect) in [
            (&[BEGUN, &empty][..], true),
            (&[REFRESHED, BEGUN, &empty], true),
            // A site that was tried again with another pool.
            (&[BEGUN, REFRESHED, BEGUN, &empty], false),
            (&[BEGUN, &empty, BEGUN, REFRESHED], false),
            (&[BEGUN, &some], false),
            (&[BEGUN, &fine], false),
            (&[BEGUN, &failed], false),
            (&[BEGUN, &unknown], false),
            (&[BEGUN], false),
            (&[], false),
        ] {
            let state_dir = tempfile::tempdir().unwrap();
            write(state_dir.path(), "night", 1000, events);
            // Neither a start that failed nor the run itself counts.
            write(state_dir.path(), "failed", 2000, &[]);
            write(state_dir.path(), "this", 3000, &[BEGUN]);
            let found = SuspectPool::find(state_dir.path(), &"this".into()).unwrap();
            let expected = is_suspect.then(|| SuspectPool {
                site: "shop".into(),
                run_id: "night".into(),
                at: 1000.0,
            });
            assert_eq!(found, expected, "{events:?}");
        }
    }

    #[test]
    fn the_last_run_alone_counts() {
        let state_dir = tempfile::tempdir().unwrap();
        assert_eq!(SuspectPool::find(state_dir.path(), &"this".into()).unwrap(), None);
        write(
            state_dir.path(),
            "one",
            1,
            &[BEGUN, &ended("degraded", r#""results":0"#)],
        );
        write(
            state_dir.path(),
            "two",
            2,
            &[BEGUN, &ended("complete", r#""results":9"#)],
        );
        assert_eq!(SuspectPool::find(state_dir.path(), &"this".into()).unwrap(), None);
    }

    #[test]
    fn a_pool_that_was_written_since_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pool.json");
        let suspect = SuspectPool {
            site: "shop".into(),
            run_id: "night".into(),
            at: 1000.0,
        };
        assert!(!suspect.is_still(&path), "there is no pool file");
        let pool = File::create(&path).unwrap();
        for (written, is_still) in [(999, true), (1001, false)] {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
            pool.set_modified(moment).unwrap();
            assert_eq!(suspect.is_still(&path), is_still, "{written}");
        }
    }
}
