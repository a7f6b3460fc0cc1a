//! Plain lines for cron, CI and pipes: one per change, the progress of a site at most every 15 s, that of the run every
//! minute. With many sites only the latter is printed.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::error_report;
use crate::highlight::highlight;
use crate::paint::{StyledLine, TextTone};
use crate::summary::status as site_word;
use crate::text::{chunks_of, clock, counts_text, dated_clock, source_name, span, stage_name};
use crate::{notice, overall};
use orch_base::text::counted::plural;
use orch_journal::{
    Event, EventKind, ExitStatus, FollowStage, HealthAction, ProxyPoolCount, ProxyRefreshJob, RedisLeftovers,
    Resumption, RunStart, RunState, SiteCounts, SiteName, SitePhase, SiteRemainder, SiteStatus, StopReason,
};

/// Seconds between two progress lines of one site.
const PROGRESS_INTERVAL: f64 = 15.0;
/// Seconds between two progress lines of the whole run.
const OVERALL_INTERVAL: f64 = 60.0;
/// Number of sites above which their own progress is not printed.
const MANY_SITES: usize = 16;

/// Printer of plain lines; records the printed progress, so that progress stays rare.
pub struct PlainView {
    zone: TimeZone,
    stamps: TimestampFormat,
    /// `-v`: prints each step of a service and a site, not only the results.
    verbose: bool,
    /// Run time of the last progress line: of each site, and of the proxies.
    sites: BTreeMap<SiteName, f64>,
    proxies: Option<f64>,
    /// Run time of the last progress line of the whole run.
    overall: Option<f64>,
}

/// Form of the time at the start of each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampFormat {
    /// `02:30:00`
    Time,
    /// `2026-08-01 02:30:00+02:00`
    DateAndTime,
}

impl PlainView {
    /// Creates a view that has printed nothing; times are in this zone.
    pub fn new(zone: TimeZone, stamps: TimestampFormat, verbose: bool) -> Self {
        Self {
            zone,
            stamps,
            verbose,
            sites: BTreeMap::new(),
            proxies: None,
            overall: None,
        }
    }

    /// Returns the `verbose` option of [`PlainView::new`].
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Returns the lines for this event, given the state that includes the event; none for events that only the journal
    /// needs.
    pub fn lines(&mut self, event: &Event, state: &RunState) -> Vec<StyledLine> {
        let texts = [self.text(event, state), self.overall(event, state)];
        let time = self.stamp(event.at);
        let blank = " ".repeat(time.len());
        let line = |(number, line): (usize, &str)| {
            let margin = if number == 0 { &time } else { &blank };
            (number == 0, format!("{margin} {line}"))
        };
        let mut mark = highlight(&event.kind);
        texts
            .iter()
            .flatten()
            .flat_map(|text| text.lines().enumerate().map(line))
            .map(|(is_first, text)| match mark.take_if(|_| is_first) {
                Some(mark) => mark.line(&text),
                None => StyledLine::of(TextTone::Plain, text),
            })
            .collect()
    }

    fn stamp(&self, unix_seconds: f64) -> String {
        match self.stamps {
            TimestampFormat::Time => clock(unix_seconds, &self.zone),
            TimestampFormat::DateAndTime => dated_clock(unix_seconds, &self.zone),
        }
    }

    /// Formats the progress of the whole run, at intervals while its sites progress.
    fn overall(&mut self, event: &Event, state: &RunState) -> Option<String> {
        let moves = matches!(
            event.kind,
            EventKind::SiteProgressed { .. } | EventKind::SiteDispatched { .. } | EventKind::SiteFinished { .. }
        );
        let is_over = state.totals.ended_sites() == state.sites.len();
        if !moves || is_over || state.sites.len() < 2 {
            return None;
        }
        let interval = if state.sites.len() > MANY_SITES {
            PROGRESS_INTERVAL
        } else {
            OVERALL_INTERVAL
        };
        let last = *self.overall.get_or_insert(event.elapsed);
        if event.elapsed - last < interval {
            return None;
        }
        self.overall = Some(event.elapsed);
        let parts = [
            overall::sites(state),
            overall::chunks(state, event.elapsed),
            overall::time_left(state, event.elapsed),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        Some(parts.join("; "))
    }

    /// Makes the line for events that were dropped because this view was too slow.
    pub fn missed(&self, events: u64, state: &RunState) -> StyledLine {
        let time = self.stamp(state.updated_at);
        let text = format!("{time} {} not shown; see the journal", plural(events, "event"));
        StyledLine::of(TextTone::Warning, text)
    }

    fn text(&mut self, event: &Event, state: &RunState) -> Option<String> {
        let seconds = |milliseconds: u64| span(std::time::Duration::from_millis(milliseconds).as_secs_f64());
        Some(match &event.kind {
            EventKind::RunStarted(RunStart {
                run_id,
                instance,
                directory,
                resumes,
                ..
            }) => {
                let begun = format!("run {run_id} of instance {instance}; logs in {}", directory.display());
                match resumes {
                    Some(resumption) => format!("{begun}\n{}", resumed(resumption)),
                    None => begun,
                }
            }
            orch_journal::any_notice!() => return notice::text(&event.kind),
            EventKind::StopStarted { reason, bound_ms } => {
                let why = match reason {
                    StopReason::Finished => "done",
                    StopReason::Failure => "failed",
                    StopReason::Requested => "asked to end by another command",
                    StopReason::Hangup => "terminal closed (SIGHUP)",
                    StopReason::Terminate => "asked to end (SIGTERM)",
                    StopReason::Interrupt => "Ctrl+C",
                };
                // "Again" is correct only for a stop that a signal began.
                let again = match reason {
                    StopReason::Finished | StopReason::Failure | StopReason::Requested => "",
                    StopReason::Hangup | StopReason::Terminate | StopReason::Interrupt => {
                        "; Ctrl+C again: skip grace periods"
                    }
                };
                format!("{why}: stopping, within {}{again}", seconds(*bound_ms))
            }
            EventKind::StopHurried => "stopping without grace periods".to_owned(),
            EventKind::StopFinished { elapsed_ms } => format!("stopped after {}, nothing left", seconds(*elapsed_ms)),
            EventKind::RunFinished { .. } | EventKind::StateTaken(_) => return None,
            EventKind::ServiceStarting { .. }
            | EventKind::ServiceSpawned { .. }
            | EventKind::ServiceStopping { .. }
            | EventKind::ServicePeaked { .. }
            | EventKind::SiteWaiting { .. }
            | EventKind::SiteQueued { .. }
            | EventKind::EndExpected { .. }
            | EventKind::SiteChordCompleted { .. }
            // The line of the request says the same.
            | EventKind::SiteStopRequested { .. }
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
                    "service {service} used at most {} of memory",
                    orch_base::text::bytes::shown(*memory_bytes)
                )
            }
            EventKind::SiteWaiting { site, waits_for } => {
                let names: Vec<&str> = waits_for.iter().map(SiteName::as_str).collect();
                format!("{site}: waits for {}", names.join(", "))
            }
            EventKind::SiteQueued { site } => format!("{site}: queued"),
            EventKind::EndExpected { in_ms } => format!("expected end of the sites in {}", seconds(*in_ms)),
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
                format!("service {service} asked to consume `{queue}` again: {reason}")
            }
            EventKind::ServiceExited { service, status, log } => {
                format!(
                    "service {service} {}; log: {}",
                    orch_journal::describe_exit(*status),
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
            EventKind::LeftoversFound(RedisLeftovers {
                queued,
                unacked,
                keys,
                removed,
            }) => {
                let done = if *removed { "removed" } else { "kept (not orch's Redis)" };
                let keys = plural(*keys, "key");
                match (queued, unacked) {
                    // A successful run leaves progress keys, which expire.
                    (0, 0) => format!("leftovers of earlier runs in Redis: {keys}, {done}"),
                    _ => format!(
                        "leftovers of earlier runs in Redis: {}, {unacked} unacknowledged, {keys}: {done}",
                        plural(*queued, "queued message"),
                    ),
                }
            }
            EventKind::ProxiesCounted(ProxyPoolCount {
                file,
                total,
                usable,
                min_usable,
                left_out,
                problem,
            }) => {
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
            EventKind::ProxyRefreshDispatched(ProxyRefreshJob {
                total_chunks,
                timeout_ms,
                ..
            }) => {
                let chunks = total_chunks.map_or_else(
                    || "number of chunks not known".to_owned(),
                    |total| plural(total, "chunk"),
                );
                format!("proxies: {chunks}, within {}", seconds(*timeout_ms))
            }
            // The usual stages of a job; a person should know only of a fallback to another stage.
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
                if self
                    .proxies
                    .is_some_and(|last| event.elapsed - last < PROGRESS_INTERVAL)
                {
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
                // An empty job has no duration.
                let within = match counts.total_urls == Some(0) || counts.total_chunks == Some(0) {
                    true => String::new(),
                    false => format!(", within {}", seconds(*timeout_ms)),
                };
                let job = match self.verbose {
                    true => format!("job {job_id}, "),
                    false => String::new(),
                };
                format!("{site}: running, {job}{}{within}", counts_text(counts))
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
                    .is_some_and(|last| event.elapsed - last < PROGRESS_INTERVAL)
                {
                    return None;
                }
                self.sites.insert(site.clone(), event.elapsed);
                let by = match self.verbose {
                    true => format!(", source: {}", source_name(*source)),
                    false => String::new(),
                };
                format!("{site}: {}{by}", counts_text(&counts_of(site, state)))
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
                    Some(HealthAction::Fail) => "; the site is ended",
                    Some(HealthAction::RefreshProxies) => "; the proxies will be refreshed",
                };
                format!("{site}: {}: {reason}{done}", health.word())
            }
            EventKind::SiteStopRequested { site, by } => format!("{site}: stopping, requested by {by}"),
            EventKind::TaskFailed(failed) => error_report::failed_task(failed),
            EventKind::SiteErrorsCounted(_) => return None,
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
                let word = site_word(SitePhase::Ended(*status));
                let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                if *status == SiteStatus::Skipped {
                    return Some(format!("{site}: {word}{reason}"));
                }
                let counts = counts_of(site, state);
                let hint = match *status == SiteStatus::Complete && counts == SiteCounts::default() {
                    true => " (return {\"saved\": N, \"errors\": N} from the job's last task)",
                    false => "",
                };
                format!(
                    "{site}: {word} after {}, {}{hint}{reason}",
                    seconds(*elapsed_ms),
                    counts_text(&counts)
                )
            }
        })
    }
}

/// Returns all known counts, not only those of the last event.
fn counts_of(site: &SiteName, state: &RunState) -> SiteCounts {
    state.site_named(site).map(|view| view.counts).unwrap_or_default()
}

/// Describes the exit of a stopped service if unusual; a signal of the stop is not.
fn stopped_otherwise(status: ExitStatus) -> Option<String> {
    use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    match status {
        ExitStatus::Code(0)
        | ExitStatus::Unknown
        | ExitStatus::Signal {
            signal: SIGTERM | SIGINT | SIGQUIT | SIGHUP,
            core_dumped: false,
        } => None,
        ExitStatus::Code(_) | ExitStatus::Signal { .. } => Some(orch_journal::describe_exit(status)),
    }
}

/// Describes the work that a run takes over from an earlier run.
fn resumed(Resumption { run_id, sites }: &Resumption) -> String {
    let sites_that = |is: fn(&SiteRemainder) -> bool| sites.iter().filter(|so_far| is(&so_far.progress)).count() as u64;
    format!(
        "resumes run {run_id}: {} complete, {} in progress, {} to do",
        plural(
            sites_that(|progress| matches!(progress, SiteRemainder::Kept { .. })),
            "site"
        ),
        sites_that(|progress| matches!(progress, SiteRemainder::InFlight(_))),
        sites_that(|progress| matches!(progress, SiteRemainder::ToDo { .. })),
    )
}
