//! Whether the pool is the one with which a site of the last run had no results: its proxies may have died without a word in
//! its entries.
//!
//! What is known of that run is its journal. Where the run has refreshed the pool after its sites had begun, and where the file
//! was written since, by whomever, nothing is held against the pool. Not here: the refresh within a run (`asked`).

use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use crate::run::{RunId, SiteCounts, SiteName, SiteStatus, each_line_told, past_runs};

/// Runs that are looked through for the last one that began a site.
const MOST_RUNS: usize = 10;

/// A site that had no results with the pool of that time.
#[derive(Clone, Debug, PartialEq)]
pub struct SuspectPool {
    pub site: SiteName,
    pub run_id: RunId,
    /// When the site ended, Unix seconds.
    pub at: f64,
}

impl SuspectPool {
    /// Looks at the last run before this one that began a site.
    ///
    /// # Errors
    /// The runs cannot be listed.
    pub fn find(state_dir: &Path, before: &RunId) -> io::Result<Option<Self>> {
        let runs = past_runs(state_dir)?;
        let earlier = runs.iter().rev().filter(|run| run.run_id != *before);
        for run in earlier.take(MOST_RUNS) {
            let mut trail = Trail::default();
            if let Err(error) = each_line_told(&run.journal, &Told::KINDS, |told| trail.apply(told)) {
                tracing::debug!(%error, "a run does not say whether its proxies were of use");
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

    /// Whether the file is still the one of then.
    pub(super) fn is_still(&self, file: &Path) -> bool {
        let written = fs::metadata(file).and_then(|facts| facts.modified()).ok();
        let written = written.and_then(|moment| moment.duration_since(UNIX_EPOCH).ok());
        written.is_some_and(|written| written.as_secs_f64() <= self.at)
    }
}

/// The events that matter.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Told {
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

impl Told {
    /// As their lines name them.
    const KINDS: [&str; 4] = [
        "site_dispatched",
        "site_picked_up",
        "site_finished",
        "proxy_refresh_finished",
    ];
}

/// What a run tells of its pool.
#[derive(Default)]
struct Trail {
    has_begun: bool,
    /// The pool was refreshed while sites were under way: those that had no results were what it was refreshed for.
    is_refreshed: bool,
    empty: Option<(SiteName, f64)>,
}

impl Trail {
    fn apply(&mut self, told: Told) {
        match told {
            Told::SiteDispatched {} | Told::SitePickedUp {} => self.has_begun = true,
            Told::ProxyRefreshFinished {} if self.has_begun => {
                self.is_refreshed = true;
                self.empty = None;
            }
            Told::ProxyRefreshFinished {} => {}
            // One that may have no results is complete without any.
            Told::SiteFinished {
                at,
                site,
                status: SiteStatus::Degraded,
                counts,
            } if counts.has_no_results() && !self.is_refreshed => self.empty = Some((site, at)),
            Told::SiteFinished { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::run::RunDirectory;

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
            // Neither a start that failed nor the run itself says anything.
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
        assert!(!suspect.is_still(&path), "there is none");
        let pool = File::create(&path).unwrap();
        for (written, is_still) in [(999, true), (1001, false)] {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
            pool.set_modified(moment).unwrap();
            assert_eq!(suspect.is_still(&path), is_still, "{written}");
        }
    }
}
