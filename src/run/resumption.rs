//! What a run that ended early has left to do, as its journal tells: the first half of a resume, without processes.
//!
//! The new run's first event carries all of it, so that a run which is resumed and dies in its turn can be resumed from
//! its own journal alone. Not here: whether a job still lives in Redis (`sites` looks when it picks one up).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Command, Event, EventKind, SiteCounts, SiteStatus};
use super::ids::{JobId, RunId, SiteName};

/// A run that is continued, and how far it had come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// The run that ended early.
    pub run_id: RunId,
    /// Its sites, in its order.
    pub sites: Vec<SiteSoFar>,
}

/// How far one site had come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteSoFar {
    pub site: SiteName,
    #[serde(flatten)]
    pub progress: Progress,
}

/// What is to be done about a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "so_far", rename_all = "snake_case")]
pub enum Progress {
    /// Complete: it is kept.
    Kept {
        counts: SiteCounts,
        /// Why it counts as degraded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shortfall: Option<String>,
    },
    /// A job was under way: it is picked up where its tasks still live.
    InFlight(JobSoFar),
    /// Never begun, or failed, or ended without any results where there should be some: it is dispatched.
    ToDo {
        /// Token of the lease of its last attempt; `None` where there was none, and in journals of older versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fencing_token: Option<u64>,
    },
}

impl Progress {
    /// How a site that is kept has ended.
    pub fn kept(&self) -> Option<(SiteStatus, SiteCounts)> {
        match self {
            Progress::Kept {
                counts,
                shortfall: None,
            } => Some((SiteStatus::Complete, *counts)),
            Progress::Kept {
                counts,
                shortfall: Some(_),
            } => Some((SiteStatus::Degraded, *counts)),
            Progress::InFlight(_) | Progress::ToDo { .. } => None,
        }
    }

    /// Token of the lease under which the run was last at the site.
    fn fencing_token(&self) -> Option<u64> {
        match self {
            Progress::InFlight(job) => job.fencing_token,
            Progress::ToDo { fencing_token } => *fencing_token,
            Progress::Kept { .. } => None,
        }
    }
}

/// A job that was under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSoFar {
    /// 1 for the first.
    pub attempt: u32,
    /// The dispatch task, and the root of all others.
    pub task_id: String,
    /// As orch gave it to the task, or as the task told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Token of the site's lease under which it was followed; `None` in journals of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
}

/// What the events of a run so far say that it has left to do.
///
/// A site whose cancellation was the last that was heard of it counts as in flight: a stop leaves queued tasks in Redis.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// Id and sites of the run; `None` before its first event, and for what is no `orch run`.
    run: Option<(RunId, Vec<SiteName>)>,
    progress: BTreeMap<SiteName, Progress>,
}

impl Unfinished {
    /// The events that matter, as their lines name them.
    pub const KINDS: [&str; 6] = [
        "run_started",
        "site_dispatched",
        "site_picked_up",
        "site_job_started",
        "site_retrying",
        "site_finished",
    ];

    /// Folds one event in.
    pub fn apply(&mut self, event: &Event) {
        let (site, now) = match &event.kind {
            EventKind::RunStarted {
                run_id,
                command: Command::Run,
                sites,
                resumes,
                ..
            } => {
                self.run = Some((run_id.clone(), sites.clone()));
                let before = resumes.iter().flat_map(|resumed| &resumed.sites);
                self.progress = before
                    .map(|so_far| (so_far.site.clone(), so_far.progress.clone()))
                    .collect();
                return;
            }
            EventKind::SiteDispatched {
                site,
                attempt,
                task_id,
                job_id,
                fencing_token,
            }
            | EventKind::SitePickedUp {
                site,
                attempt,
                task_id,
                job_id,
                fencing_token,
            } => {
                let job = JobSoFar {
                    attempt: *attempt,
                    task_id: task_id.clone(),
                    job_id: job_id.clone(),
                    fencing_token: *fencing_token,
                };
                (site, Progress::InFlight(job))
            }
            EventKind::SiteJobStarted { site, job_id, .. } => {
                if let Some(Progress::InFlight(job)) = self.progress.get_mut(site) {
                    job.job_id = Some(job_id.clone());
                }
                return;
            }
            EventKind::SiteRetrying { site, .. } => (site, self.to_do(site)),
            EventKind::SiteFinished {
                site,
                status,
                counts,
                reason,
                ..
            } => match status {
                SiteStatus::Degraded if counts.has_no_results() => (site, self.to_do(site)),
                SiteStatus::Complete | SiteStatus::Degraded => {
                    let shortfall = match status {
                        SiteStatus::Degraded => Some(reason.clone().unwrap_or_default()),
                        _ => None,
                    };
                    let counts = *counts;
                    (site, Progress::Kept { counts, shortfall })
                }
                SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Skipped => (site, self.to_do(site)),
                SiteStatus::Cancelled => return,
            },
            _ => return,
        };
        self.progress.insert(site.clone(), now);
    }

    /// The site is to be done again; the token stays known, since another run may complete the site before that.
    fn to_do(&self, site: &SiteName) -> Progress {
        let before = self.progress.get(site);
        Progress::ToDo {
            fencing_token: before.and_then(Progress::fencing_token),
        }
    }

    /// What is left to do; `None` when the events began no `orch run`.
    pub fn resumption(mut self) -> Option<Resumption> {
        let (run_id, sites) = self.run?;
        let sites = sites.into_iter().map(|site| SiteSoFar {
            progress: self
                .progress
                .remove(&site)
                .unwrap_or(Progress::ToDo { fencing_token: None }),
            site,
        });
        Some(Resumption {
            run_id,
            sites: sites.collect(),
        })
    }
}

impl Resumption {
    /// Whether nothing is left to do.
    pub fn is_complete(&self) -> bool {
        self.sites
            .iter()
            .all(|so_far| matches!(so_far.progress, Progress::Kept { .. }))
    }

    /// How the sites that are kept have ended.
    pub fn kept(&self) -> impl Iterator<Item = (SiteStatus, SiteCounts)> {
        self.sites.iter().filter_map(|so_far| so_far.progress.kept())
    }

    /// The jobs that were under way.
    pub fn jobs(&self) -> impl Iterator<Item = (&SiteName, &JobSoFar)> {
        self.sites.iter().filter_map(|so_far| match &so_far.progress {
            Progress::InFlight(job) => Some((&so_far.site, job)),
            Progress::Kept { .. } | Progress::ToDo { .. } => None,
        })
    }

    /// Tokens of the leases under which the run was last at the sites that are left to do.
    pub fn fencing_tokens(&self) -> impl Iterator<Item = (&SiteName, u64)> {
        let tokens = self.sites.iter();
        tokens.filter_map(|so_far| Some((&so_far.site, so_far.progress.fencing_token()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(site: &str) -> SiteName {
        SiteName::new(site)
    }

    fn journal(resumes: Option<Resumption>, kinds: impl IntoIterator<Item = EventKind>) -> Vec<Event> {
        let started = EventKind::RunStarted {
            format: super::super::JOURNAL_FORMAT,
            run_id: "first".into(),
            command: Command::Run,
            version: String::new(),
            instance: String::new(),
            config: "orch.toml".into(),
            directory: "runs/first".into(),
            pid: 1,
            guard_pid: 2,
            services: Vec::new(),
            sites: ["a", "b", "c"].map(SiteName::from).to_vec(),
            resumes,
        };
        let events = std::iter::once(started).chain(kinds).zip(1..);
        events
            .map(|(kind, seq)| Event {
                seq,
                at: 0.0,
                elapsed: 0.0,
                kind,
            })
            .collect()
    }

    fn dispatched(site: &str, attempt: u32) -> EventKind {
        EventKind::SiteDispatched {
            site: name(site),
            attempt,
            task_id: format!("{site}{attempt}"),
            job_id: None,
            fencing_token: Some(u64::from(attempt)),
        }
    }

    fn job_started(site: &str) -> EventKind {
        EventKind::SiteJobStarted {
            site: name(site),
            job_id: JobId::new("job"),
            chord_id: None,
            counts: SiteCounts::default(),
            timeout_ms: 1,
        }
    }

    fn retrying(site: &str) -> EventKind {
        EventKind::SiteRetrying {
            site: name(site),
            attempt: 2,
            backoff_ms: 1,
            reason: "x".into(),
        }
    }

    fn finished(site: &str, status: SiteStatus) -> EventKind {
        EventKind::SiteFinished {
            site: name(site),
            status,
            counts: counts(),
            elapsed_ms: 1,
            reason: None,
            dependency: None,
            cause: None,
        }
    }

    fn counts() -> SiteCounts {
        SiteCounts {
            results: Some(7),
            ..SiteCounts::default()
        }
    }

    fn in_flight(site: &str, attempt: u32, job_id: Option<&str>) -> Progress {
        Progress::InFlight(JobSoFar {
            attempt,
            task_id: format!("{site}{attempt}"),
            job_id: job_id.map(JobId::new),
            fencing_token: Some(u64::from(attempt)),
        })
    }

    fn to_do(fencing_token: Option<u64>) -> Progress {
        Progress::ToDo { fencing_token }
    }

    fn of(events: &[Event]) -> Option<Resumption> {
        let mut unfinished = Unfinished::default();
        events.iter().for_each(|event| unfinished.apply(event));
        unfinished.resumption()
    }

    fn progress(events: &[Event]) -> Vec<Progress> {
        let resumption = of(events).unwrap();
        resumption.sites.into_iter().map(|so_far| so_far.progress).collect()
    }

    #[test]
    fn each_site_is_where_its_last_event_left_it() {
        let kept = || Progress::Kept {
            counts: counts(),
            shortfall: None,
        };
        let empty = |status| {
            let mut end = finished("a", status);
            if let EventKind::SiteFinished { counts, .. } = &mut end {
                counts.results = Some(0);
            }
            end
        };
        for (kinds, expected) in [
            (vec![], to_do(None)),
            (vec![EventKind::SiteQueued { site: name("a") }], to_do(None)),
            (vec![dispatched("a", 1)], in_flight("a", 1, None)),
            (
                vec![dispatched("a", 1), job_started("a")],
                in_flight("a", 1, Some("job")),
            ),
            (vec![dispatched("a", 1), retrying("a")], to_do(Some(1))),
            (
                vec![dispatched("a", 1), retrying("a"), dispatched("a", 2)],
                in_flight("a", 2, None),
            ),
            (vec![dispatched("a", 1), finished("a", SiteStatus::Complete)], kept()),
            (
                vec![dispatched("a", 1), finished("a", SiteStatus::Failed)],
                to_do(Some(1)),
            ),
            (
                vec![dispatched("a", 1), finished("a", SiteStatus::Degraded)],
                Progress::Kept {
                    counts: counts(),
                    shortfall: Some(String::new()),
                },
            ),
            // Nothing came of it: that is no end to keep, unless it may be so.
            (vec![dispatched("a", 1), empty(SiteStatus::Degraded)], to_do(Some(1))),
            (
                vec![dispatched("a", 1), empty(SiteStatus::Complete)],
                Progress::Kept {
                    counts: SiteCounts {
                        results: Some(0),
                        ..counts()
                    },
                    shortfall: None,
                },
            ),
            (
                vec![dispatched("a", 1), finished("a", SiteStatus::Cancelled)],
                in_flight("a", 1, None),
            ),
            (vec![finished("a", SiteStatus::Cancelled)], to_do(None)),
            (vec![finished("a", SiteStatus::Skipped)], to_do(None)),
        ] {
            let shown = format!("{kinds:?}");
            assert_eq!(
                progress(&journal(None, kinds)),
                [expected, to_do(None), to_do(None)],
                "{shown}"
            );
        }
    }

    #[test]
    fn a_run_that_was_resumed_needs_no_journal_but_its_own() {
        let first = journal(
            None,
            [
                dispatched("a", 1),
                dispatched("b", 1),
                finished("a", SiteStatus::Complete),
            ],
        );
        let resumed = of(&first);
        // It died at once.
        let second = journal(resumed.clone(), []);
        assert_eq!(progress(&second), progress(&first));
        // It found nothing of b, and died again.
        let third = journal(resumed, [retrying("b"), dispatched("b", 2)]);
        assert_eq!(
            progress(&third),
            [
                Progress::Kept {
                    counts: counts(),
                    shortfall: None
                },
                in_flight("b", 2, None),
                to_do(None)
            ]
        );
    }

    #[test]
    fn what_began_no_orch_run_cannot_be_resumed() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&journal(None, [])[1..]), None);
        let mut up = journal(None, []);
        if let EventKind::RunStarted { command, .. } = &mut up[0].kind {
            *command = Command::Up;
        }
        assert_eq!(of(&up), None);
    }

    #[test]
    fn it_survives_the_journal() {
        let resumption = Resumption {
            run_id: "first".into(),
            sites: vec![
                SiteSoFar {
                    site: name("imot.bg"),
                    progress: Progress::Kept {
                        counts: counts(),
                        shortfall: None,
                    },
                },
                SiteSoFar {
                    site: name("b"),
                    progress: in_flight("b", 1, Some("job")),
                },
                SiteSoFar {
                    site: name("c"),
                    progress: to_do(Some(7)),
                },
            ],
        };
        let text = serde_json::to_string(&resumption).unwrap();
        assert_eq!(serde_json::from_str::<Resumption>(&text).unwrap(), resumption);
        assert!(!resumption.is_complete());
        assert_eq!(resumption.jobs().count(), 1);
        let tokens: Vec<_> = resumption
            .fencing_tokens()
            .map(|(site, token)| (site.as_str(), token))
            .collect();
        assert_eq!(tokens, [("b", 1), ("c", 7)]);
        // An older version wrote no tokens.
        let old = r#"{"run_id":"old","sites":[{"site":"a","so_far":"to_do"},{"site":"b","so_far":"in_flight","attempt":1,"task_id":"t"}]}"#;
        let old: Resumption = serde_json::from_str(old).unwrap();
        assert_eq!(old.sites[0].progress, to_do(None));
        assert_eq!(old.fencing_tokens().count(), 0);
    }
}
