//! Plain lines for cron, CI and pipes: one a change, progress of a site at most every 15 s, of the whole each minute.
//! Where there are many sites, only the latter.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use super::mark::mark;
use super::overall;
use super::paint::{Line, Tone};
use super::summary::status as site_word;
use super::text::{chunks_of, clock, dated_clock, span};
use crate::counted::plural;
use crate::run::{
    Event, EventKind, ExitStatus, FollowStage, HealthAction, Level, Progress, Resumption, RunState, SiteCounts,
    SiteName, SitePhase, SiteStatus, StopReason,
};

/// Seconds between two progress lines of one site.
const PROGRESS_PAUSE: f64 = 15.0;
/// Seconds between two lines that tell of the whole run.
const OVERALL_PAUSE: f64 = 60.0;
/// More sites than this do not tell their progress each for itself.
const MANY_SITES: usize = 16;

/// What has been printed of progress, so that it stays rare.
pub struct PlainView {
    zone: TimeZone,
    stamps: Stamps,
    /// `-v`: each step of a service and a site, not only what comes of it.
    verbose: bool,
    /// Run time of the last progress line: by site, and of the proxies.
    sites: BTreeMap<SiteName, f64>,
    proxies: Option<f64>,
    /// Of the whole.
    overall: Option<f64>,
}

/// The begin of each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamps {
    /// `02:30:00`
    Time,
    /// `2026-08-01 02:30:00+02:00`
    DateAndTime,
}

impl PlainView {
    /// Nothing printed yet; times are those of this zone.
    pub fn new(zone: TimeZone, stamps: Stamps, verbose: bool) -> Self {
        Self {
            zone,
            stamps,
            verbose,
            sites: BTreeMap::new(),
            proxies: None,
            overall: None,
        }
    }

    /// See [`PlainView::new`].
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// The lines for this event, given the state that includes it; none for what only the journal needs.
    pub fn lines(&mut self, event: &Event, state: &RunState) -> Vec<Line> {
        let texts = [self.text(event, state), self.overall(event, state)];
        let time = self.stamp(event.at);
        let blank = " ".repeat(time.len());
        let line = |(number, line): (usize, &str)| {
            let margin = if number == 0 { &time } else { &blank };
            (number == 0, format!("{margin} {line}"))
        };
        let mut mark = mark(&event.kind);
        texts
            .iter()
            .flatten()
            .flat_map(|text| text.lines().enumerate().map(line))
            .map(|(is_first, text)| match mark.take_if(|_| is_first) {
                Some(mark) => mark.line(&text),
                None => Line::of(Tone::Plain, text),
            })
            .collect()
    }

    fn stamp(&self, unix_seconds: f64) -> String {
        match self.stamps {
            Stamps::Time => clock(unix_seconds, &self.zone),
            Stamps::DateAndTime => dated_clock(unix_seconds, &self.zone),
        }
    }

    /// How far the whole run is, now and then while its sites move.
    fn overall(&mut self, event: &Event, state: &RunState) -> Option<String> {
        let moves = matches!(
            event.kind,
            EventKind::SiteProgressed { .. } | EventKind::SiteDispatched { .. } | EventKind::SiteFinished { .. }
        );
        let is_over = state.totals.ended_sites() == state.sites.len();
        if !moves || is_over || state.sites.len() < 2 {
            return None;
        }
        let pause = if state.sites.len() > MANY_SITES {
            PROGRESS_PAUSE
        } else {
            OVERALL_PAUSE
        };
        let last = *self.overall.get_or_insert(event.elapsed);
        if event.elapsed - last < pause {
            return None;
        }
        self.overall = Some(event.elapsed);
        let parts = [
            overall::sites(state),
            overall::chunks(state, event.elapsed),
            overall::left(state, event.elapsed),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        Some(parts.join("; "))
    }

    /// The line for events that were not shown, since this view was too slow.
    pub fn missed(&self, events: u64, state: &RunState) -> Line {
        let time = self.stamp(state.updated_at);
        let text = format!("{time} {} not shown: the journal has them", plural(events, "event"));
        Line::of(Tone::Warning, text)
    }

    fn text(&mut self, event: &Event, state: &RunState) -> Option<String> {
        let seconds = |milliseconds: u64| span(std::time::Duration::from_millis(milliseconds).as_secs_f64());
        Some(match &event.kind {
            EventKind::RunStarted {
                run_id,
                instance,
                directory,
                resumes,
                ..
            } => {
                let begun = format!("run {run_id} of instance {instance}; logs in {}", directory.display());
                match resumes {
                    Some(resumption) => format!("{begun}\n{}", resumed(resumption)),
                    None => begun,
                }
            }
            EventKind::Noticed { level, message } => match level {
                Level::Info => message.clone(),
                Level::Warning => format!("warning: {message}"),
                Level::Error => format!("error: {message}"),
            },
            EventKind::StopStarted { reason, bound_ms } => {
                let why = match reason {
                    StopReason::Finished => "done",
                    StopReason::Failure => "failed",
                    StopReason::Hangup => "terminal closed (SIGHUP)",
                    StopReason::Terminate => "asked to end (SIGTERM)",
                    StopReason::Interrupt => "Ctrl+C",
                };
                // "Again" is true only of a stop that a signal began.
                let again = match reason {
                    StopReason::Finished | StopReason::Failure => "",
                    StopReason::Hangup | StopReason::Terminate | StopReason::Interrupt => {
                        "; Ctrl+C again: without grace"
                    }
                };
                format!("{why}: stopping, within {}{again}", seconds(*bound_ms))
            }
            EventKind::StopHurried => "stopping without grace".to_owned(),
            EventKind::StopFinished { elapsed_ms } => format!("stopped after {}, nothing left", seconds(*elapsed_ms)),
            EventKind::RunFinished { .. } => return None,
            EventKind::ServiceStarting { .. }
            | EventKind::ServiceSpawned { .. }
            | EventKind::ServiceStopping { .. }
            | EventKind::ServicePeaked { .. }
            | EventKind::SiteWaiting { .. }
            | EventKind::SiteQueued { .. }
            | EventKind::EndExpected { .. }
            | EventKind::SiteChordCompleted { .. }
                if !self.verbose =>
            {
                return None;
            }
            EventKind::ServiceStarting { service, attempt } => match attempt {
                1 => format!("service {service} starting"),
                attempt => format!("service {service} starting, attempt {attempt}"),
            },
            EventKind::ServiceSpawned { service, pid } => format!("service {service} has pid {pid}"),
            EventKind::ServiceStopping { service } => format!("service {service} stopping"),
            EventKind::ServicePeaked { service, memory_bytes } => {
                format!(
                    "service {service} held {} of memory at most",
                    crate::memory::shown(*memory_bytes)
                )
            }
            EventKind::SiteWaiting { site, waits_for } => {
                let names: Vec<&str> = waits_for.iter().map(SiteName::as_str).collect();
                format!("{site}: waits for {}", names.join(", "))
            }
            EventKind::SiteQueued { site } => format!("{site}: queued"),
            EventKind::EndExpected { in_ms } => format!("the sites should have ended in {}", seconds(*in_ms)),
            EventKind::SiteChordCompleted { site, .. } => format!("{site}: the chord's callback has ended"),
            EventKind::ServiceReady {
                service,
                elapsed_ms,
                detail,
            } => {
                format!("service {service} ready after {}: {detail}", seconds(*elapsed_ms))
            }
            EventKind::ServiceReused { service, detail } => format!("service {service} reused: {detail}"),
            EventKind::ServiceCompleted { service, elapsed_ms } => {
                format!("service {service} completed after {}", seconds(*elapsed_ms))
            }
            EventKind::ServiceUnhealthy { service, reason } => format!("service {service} unhealthy: {reason}"),
            EventKind::ConsumerAdded { service, queue, reason } => {
                format!("service {service} told to consume `{queue}` again: {reason}")
            }
            EventKind::ServiceExited { service, status, log } => {
                format!(
                    "service {service} {}; log: {}",
                    crate::run::describe_exit(*status),
                    log.display()
                )
            }
            EventKind::ServiceRestarting {
                service,
                attempt,
                backoff_ms,
                reason,
            } => {
                format!(
                    "service {service} restarting (restart {attempt}, in {}): {reason}",
                    seconds(*backoff_ms)
                )
            }
            EventKind::ServiceFailed { service, reason, .. } => format!("service {service} failed: {reason}"),
            EventKind::ServiceStopped { service, status } => match stopped_otherwise(*status) {
                None => format!("service {service} stopped"),
                Some(how) => format!("service {service} stopped: {how}"),
            },
            EventKind::LeftoversFound {
                queued,
                unacked,
                keys,
                removed,
            } => {
                let done = if *removed {
                    "removed"
                } else {
                    "left as they are (not orch's Redis)"
                };
                let keys = plural(*keys, "key");
                match (queued, unacked) {
                    // A run that went well leaves its progress, which expires.
                    (0, 0) => format!("left by earlier runs in Redis: {keys}, {done}"),
                    _ => format!(
                        "left by earlier runs in Redis: {}, {unacked} unacknowledged, {keys}: {done}",
                        plural(*queued, "queued message"),
                    ),
                }
            }
            EventKind::ProxiesCounted {
                file,
                total,
                usable,
                min_usable,
                left_out,
                problem,
            } => {
                let problem = problem
                    .as_ref()
                    .map(|problem| format!(" ({problem})"))
                    .unwrap_or_default();
                format!(
                    "proxies: {usable} usable of {total}{} in {}, {min_usable} needed{problem}",
                    left_out.in_brackets(),
                    file.display()
                )
            }
            EventKind::ProxyRefreshStarted { attempt, .. } => format!("proxies: refresh {attempt} started"),
            EventKind::ProxyRefreshDispatched {
                total_chunks,
                timeout_ms,
                ..
            } => {
                let chunks = total_chunks.map_or_else(
                    || "number of chunks not known".to_owned(),
                    |total| plural(total, "chunk"),
                );
                format!("proxies: {chunks}, within {}", seconds(*timeout_ms))
            }
            // The way a job usually goes; a fall-back is what a person should know of.
            EventKind::ProxyStageEntered {
                stage: FollowStage::Dispatch | FollowStage::Chord,
                ..
            }
            | EventKind::SiteStageEntered {
                stage: FollowStage::Dispatch | FollowStage::Chord,
                ..
            } if !self.verbose => return None,
            EventKind::ProxyStageEntered { stage, reason } => {
                format!("proxies: now following {}: {reason}", stage_name(*stage))
            }
            EventKind::ProxyRefreshProgressed { done, total } => {
                if self.proxies.is_some_and(|last| event.elapsed - last < PROGRESS_PAUSE) {
                    return None;
                }
                self.proxies = Some(event.elapsed);
                format!("proxies: {done}/{}", chunks_of(*total))
            }
            EventKind::ProxyRefreshFinished { elapsed_ms } => format!("proxies: refreshed in {}", seconds(*elapsed_ms)),
            EventKind::ProxyRefreshFailed { reason, will_retry } => {
                let next = if *will_retry { "; retrying" } else { "" };
                format!("proxies: refresh failed: {reason}{next}")
            }
            EventKind::SiteDispatched { site, attempt, .. } => match attempt {
                1 => format!("{site}: dispatched"),
                attempt => format!("{site}: dispatched, attempt {attempt}"),
            },
            EventKind::SitePickedUp { site, task_id, .. } => match self.verbose {
                true => format!("{site}: picked up, its dispatch task is {task_id}"),
                false => format!("{site}: picked up"),
            },
            EventKind::SiteJobStarted {
                site,
                job_id,
                counts,
                timeout_ms,
                ..
            } => {
                self.sites.insert(site.clone(), event.elapsed);
                // Nothing takes no time.
                let within = match counts.total_urls == Some(0) || counts.total_chunks == Some(0) {
                    true => String::new(),
                    false => format!(", within {}", seconds(*timeout_ms)),
                };
                let job = match self.verbose {
                    true => format!("job {job_id}, "),
                    false => String::new(),
                };
                format!("{site}: running, {job}{}{within}", described(counts))
            }
            EventKind::SiteStageEntered { site, stage, reason } => {
                format!("{site}: now following {}: {reason}", stage_name(*stage))
            }
            EventKind::SiteProgressed { site, source, .. } => {
                if state.sites.len() > MANY_SITES && !self.verbose {
                    return None;
                }
                if self
                    .sites
                    .get(site)
                    .is_some_and(|last| event.elapsed - last < PROGRESS_PAUSE)
                {
                    return None;
                }
                self.sites.insert(site.clone(), event.elapsed);
                let by = match self.verbose {
                    true => format!(", by {}", super::text::source_name(*source)),
                    false => String::new(),
                };
                format!("{site}: {}{by}", described(&counts_of(site, state)))
            }
            EventKind::SiteVerdict {
                site,
                health,
                reason,
                action,
                vitals: _,
            } => {
                let done = match action {
                    None | Some(HealthAction::Warn) => "",
                    Some(HealthAction::Cancel) => "; this attempt is ended",
                    Some(HealthAction::Fail) => "; it is ended",
                    Some(HealthAction::RefreshProxies) => "; the proxies are to be refreshed",
                };
                format!("{site}: {}: {reason}{done}", health.word())
            }
            EventKind::SiteStopRequested { site, by } => format!("{site}: stopping, as {by} has asked"),
            EventKind::SiteRetrying {
                site,
                attempt,
                backoff_ms,
                reason,
            } => {
                format!(
                    "{site}: RETRYING, attempt {attempt} in {}: {reason}",
                    seconds(*backoff_ms)
                )
            }
            EventKind::SiteFinished {
                site,
                status,
                counts: _,
                elapsed_ms,
                reason,
                dependency: _,
                cause: _,
            } => {
                let word = site_word(SitePhase::from(*status));
                let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                if *status == SiteStatus::Skipped {
                    return Some(format!("{site}: {word}{reason}"));
                }
                let counts = counts_of(site, state);
                let cure = match *status == SiteStatus::Complete && counts == SiteCounts::default() {
                    true => " (return {\"saved\": N, \"errors\": N} from the job's last task)",
                    false => "",
                };
                format!(
                    "{site}: {word} after {}, {}{cure}{reason}",
                    seconds(*elapsed_ms),
                    described(&counts)
                )
            }
        })
    }
}

/// All that is known, not only what the last event told.
fn counts_of(site: &SiteName, state: &RunState) -> SiteCounts {
    state.site_named(site).map(|view| view.counts).unwrap_or_default()
}

/// What a stage follows, in words.
pub fn stage_name(stage: FollowStage) -> &'static str {
    match stage {
        FollowStage::Dispatch => "the dispatch task's result",
        FollowStage::Chord => "the chord's callback",
        FollowStage::ProgressKeys => "the progress keys",
        FollowStage::FileTime => "the pool file's time",
        FollowStage::TaskEvents => "the task's events",
    }
}

/// `3/14 chunks, 42 results, 0 errors`, as far as known.
fn described(counts: &SiteCounts) -> String {
    let mut parts = Vec::new();
    match (counts.completed_chunks, counts.total_chunks) {
        (Some(done), total) => parts.push(format!("{done}/{}", chunks_of(total))),
        (None, Some(total)) => parts.push(plural(total, "chunk")),
        (None, None) => {}
    }
    if let Some(urls) = counts.total_urls {
        parts.push(plural(urls, "URL"));
    }
    if let Some(results) = counts.results {
        parts.push(plural(results, "result"));
    }
    if let Some(errors) = counts.errors {
        parts.push(plural(errors, "error"));
    }
    if parts.is_empty() {
        "counts not known".to_owned()
    } else {
        parts.join(", ")
    }
}

/// How a service ended that was asked to, where that is worth a word: a signal of the stop is not.
fn stopped_otherwise(status: ExitStatus) -> Option<String> {
    use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    match status {
        ExitStatus::Code(0)
        | ExitStatus::Unknown
        | ExitStatus::Signal {
            signal: SIGTERM | SIGINT | SIGQUIT | SIGHUP,
            core_dumped: false,
        } => None,
        ExitStatus::Code(_) | ExitStatus::Signal { .. } => Some(crate::run::describe_exit(status)),
    }
}

/// What a run takes over from the one that it continues.
fn resumed(Resumption { run_id, sites }: &Resumption) -> String {
    let sites_that = |is: fn(&Progress) -> bool| sites.iter().filter(|so_far| is(&so_far.progress)).count() as u64;
    format!(
        "resumes run {run_id}: {} complete, {} under way, {} to do",
        plural(sites_that(|progress| matches!(progress, Progress::Kept { .. })), "site"),
        sites_that(|progress| matches!(progress, Progress::InFlight(_))),
        sites_that(|progress| matches!(progress, Progress::ToDo { .. })),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{JobId, ServiceName};

    fn said(kind: EventKind) -> String {
        let event = Event {
            seq: 1,
            at: 0.0,
            elapsed: 0.0,
            kind,
        };
        let mut state = RunState::default();
        state.apply(&event);
        let lines = PlainView::new(TimeZone::UTC, Stamps::Time, false).lines(&event, &state);
        let lines: Vec<String> = lines.iter().map(|line| line.whole(false).to_string()).collect();
        lines.join("\n")
    }

    #[test]
    fn an_ordinary_stop_is_no_killing() {
        let signal = |signal| ExitStatus::Signal {
            signal,
            core_dumped: false,
        };
        for (status, text) in [
            (ExitStatus::Code(0), "00:00:00 service celery stopped"),
            (signal(nix::libc::SIGTERM), "00:00:00 service celery stopped"),
            (signal(nix::libc::SIGQUIT), "00:00:00 service celery stopped"),
            (ExitStatus::Unknown, "00:00:00 service celery stopped"),
            (
                signal(nix::libc::SIGKILL),
                "00:00:00 service celery stopped: was killed by SIGKILL",
            ),
            (
                signal(nix::libc::SIGSEGV),
                "00:00:00 service celery stopped: was killed by SIGSEGV",
            ),
            (
                ExitStatus::Code(1),
                "00:00:00 service celery stopped: ended with exit code 1",
            ),
        ] {
            let service = ServiceName::new("celery");
            assert_eq!(said(EventKind::ServiceStopped { service, status }), text);
        }
    }

    #[test]
    fn what_earlier_runs_left_alarms_nobody() {
        for (queued, unacked, keys, removed, text) in [
            (0, 0, 4, true, "00:00:00 left by earlier runs in Redis: 4 keys, removed"),
            (
                1,
                0,
                1,
                false,
                "00:00:00 left by earlier runs in Redis: 1 queued message, 0 unacknowledged, 1 key: left as they are (not \
                 orch's Redis)",
            ),
        ] {
            let kind = EventKind::LeftoversFound {
                queued,
                unacked,
                keys,
                removed,
            };
            assert_eq!(said(kind), text);
        }
    }

    #[test]
    fn one_chunk_is_no_plural_and_nothing_has_no_time() {
        let started = |total_urls, total_chunks| EventKind::SiteJobStarted {
            site: "shop".into(),
            job_id: JobId::new("job"),
            chord_id: None,
            counts: SiteCounts {
                total_urls,
                total_chunks,
                completed_chunks: total_chunks.map(|_| 0),
                ..SiteCounts::default()
            },
            timeout_ms: 1_800_000,
        };
        for (total_urls, total_chunks, text) in [
            (Some(0), None, "00:00:00 shop: running, 0 URLs"),
            (Some(0), Some(0), "00:00:00 shop: running, 0/0 chunks, 0 URLs"),
            (
                Some(9),
                Some(1),
                "00:00:00 shop: running, 0/1 chunk, 9 URLs, within 30m",
            ),
            (None, None, "00:00:00 shop: running, counts not known, within 30m"),
        ] {
            assert_eq!(said(started(total_urls, total_chunks)), text);
        }
    }
}
