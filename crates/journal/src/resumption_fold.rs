//! Fold of the events of a run that ended early into the remaining work: the first half of a resume, without processes.

use crate::facts::run_start::RunStart;
use std::collections::BTreeMap;

use crate::event::{Event, EventKind};
use crate::event_values::RunCommand;
use crate::ids::{RunId, SiteName};
use crate::resumption::{InterruptedJob, InterruptedSite, Resumption, SiteRemainder};
use crate::site_status::SiteStatus;

/// Fold of a run's events into the remaining work.
///
/// A cancelled site counts as in flight if nothing follows: a stop leaves queued tasks in Redis.
#[derive(Debug, Default)]
pub struct ResumptionFold {
    /// Id and sites of the run; `None` before the first event, and for other commands than `orch run`.
    run: Option<(RunId, Vec<SiteName>)>,
    progress: BTreeMap<SiteName, SiteRemainder>,
}

impl ResumptionFold {
    /// Names of the relevant events in the lines.
    pub const KINDS: [&str; 6] = [
        "run_started",
        "site_dispatched",
        "site_picked_up",
        "site_job_started",
        "site_retrying",
        "site_finished",
    ];

    /// Folds one event.
    pub fn apply(&mut self, event: &Event) {
        let (site, now) = match &event.kind {
            EventKind::RunStarted(RunStart {
                run_id,
                command: RunCommand::Run,
                sites,
                resumes,
                ..
            }) => {
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
                let job = InterruptedJob {
                    attempt: *attempt,
                    task_id: task_id.clone(),
                    job_id: job_id.clone(),
                    fencing_token: *fencing_token,
                };
                (site, SiteRemainder::InFlight(job))
            }
            EventKind::SiteJobStarted { site, job_id, .. } => {
                if let Some(SiteRemainder::InFlight(job)) = self.progress.get_mut(site) {
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
                    (site, SiteRemainder::Kept { counts, shortfall })
                }
                SiteStatus::Failed | SiteStatus::Unknown | SiteStatus::Skipped => (site, self.to_do(site)),
                SiteStatus::Cancelled => return,
            },
            _ => return,
        };
        self.progress.insert(site.clone(), now);
    }

    /// Marks the site as to be done again; the token stays known, since another run may complete the site before that.
    fn to_do(&self, site: &SiteName) -> SiteRemainder {
        let before = self.progress.get(site);
        SiteRemainder::ToDo {
            fencing_token: before.and_then(SiteRemainder::fencing_token),
        }
    }

    /// Returns the remaining work; `None` unless the events began an `orch run`.
    pub fn resumption(mut self) -> Option<Resumption> {
        let (run_id, sites) = self.run?;
        let sites = sites.into_iter().map(|site| InterruptedSite {
            progress: self
                .progress
                .remove(&site)
                .unwrap_or(SiteRemainder::ToDo { fencing_token: None }),
            site,
        });
        Some(Resumption {
            run_id,
            sites: sites.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::JobId;
    use crate::site_counts::SiteCounts;

    fn name(site: &str) -> SiteName {
        SiteName::new(site)
    }

    fn journal(resumes: Option<Resumption>, kinds: impl IntoIterator<Item = EventKind>) -> Vec<Event> {
        let started = EventKind::RunStarted(RunStart {
            format: crate::event::JOURNAL_FORMAT,
            run_id: "first".into(),
            command: RunCommand::Run,
            version: String::new(),
            instance: String::new(),
            config: "orch.toml".into(),
            directory: "runs/first".into(),
            pid: 1,
            guard_pid: 2,
            services: Vec::new(),
            sites: ["a", "b", "c"].map(SiteName::from).to_vec(),
            resumes,
        });
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

    fn in_flight(site: &str, attempt: u32, job_id: Option<&str>) -> SiteRemainder {
        SiteRemainder::InFlight(InterruptedJob {
            attempt,
            task_id: format!("{site}{attempt}"),
            job_id: job_id.map(JobId::new),
            fencing_token: Some(u64::from(attempt)),
        })
    }

    fn to_do(fencing_token: Option<u64>) -> SiteRemainder {
        SiteRemainder::ToDo { fencing_token }
    }

    fn of(events: &[Event]) -> Option<Resumption> {
        let mut unfinished = ResumptionFold::default();
        events.iter().for_each(|event| unfinished.apply(event));
        unfinished.resumption()
    }

    fn progress(events: &[Event]) -> Vec<SiteRemainder> {
        let resumption = of(events).unwrap();
        resumption.sites.into_iter().map(|so_far| so_far.progress).collect()
    }

    #[test]
    fn each_site_is_where_its_last_event_left_it() {
        let kept = || SiteRemainder::Kept {
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
                SiteRemainder::Kept {
                    counts: counts(),
                    shortfall: Some(String::new()),
                },
            ),
            // A site without required results is done again, unless results are optional.
            (vec![dispatched("a", 1), empty(SiteStatus::Degraded)], to_do(Some(1))),
            (
                vec![dispatched("a", 1), empty(SiteStatus::Complete)],
                SiteRemainder::Kept {
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
        // The run died at once.
        let second = journal(resumed.clone(), []);
        assert_eq!(progress(&second), progress(&first));
        // The run found nothing of b, and died again.
        let third = journal(resumed, [retrying("b"), dispatched("b", 2)]);
        assert_eq!(
            progress(&third),
            [
                SiteRemainder::Kept {
                    counts: counts(),
                    shortfall: None
                },
                in_flight("b", 2, None),
                to_do(None)
            ]
        );
    }

    #[test]
    fn other_commands_than_orch_run_cannot_be_resumed() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&journal(None, [])[1..]), None);
        let mut up = journal(None, []);
        if let EventKind::RunStarted(RunStart { command, .. }) = &mut up[0].kind {
            *command = RunCommand::Up;
        }
        assert_eq!(of(&up), None);
    }

    #[test]
    fn a_resumption_survives_the_journal() {
        let resumption = Resumption {
            run_id: "first".into(),
            sites: vec![
                InterruptedSite {
                    site: name("imot.bg"),
                    progress: SiteRemainder::Kept {
                        counts: counts(),
                        shortfall: None,
                    },
                },
                InterruptedSite {
                    site: name("b"),
                    progress: in_flight("b", 1, Some("job")),
                },
                InterruptedSite {
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
