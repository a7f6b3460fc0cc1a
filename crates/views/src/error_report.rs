//! Report of all errors of a run: signatures by count, each with the first failure.

use serde::Serialize;

use crate::summary;
use orch_base::text::counted::plural;
use orch_base::text::printable::{one_line, shortened, text};
use orch_journal::{
    ErrorCount, Event, EventKind, FailedTask, RunState, SiteErrors, SiteName, SitePhase, TaskEndKind, local_time,
};

/// Number of characters of an exception in a line.
const MAX_LINE: usize = 200;

/// First failure of a signature, with the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct DatedFailure {
    /// Unix seconds.
    at: f64,
    #[serde(flatten)]
    failed: FailedTask,
}

/// Error of a site, or of the proxy refresh.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ReportedError {
    signature: String,
    /// Number of failed tasks; `None`: not counted, because the run still runs or has died.
    count: Option<u64>,
    first_at: f64,
    last_at: Option<f64>,
    /// First failure; `None`: not recorded.
    first: Option<DatedFailure>,
}

/// Errors of one site, or of the proxy refresh.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ErrorGroup {
    /// `None`: the proxy refresh.
    site: Option<SiteName>,
    phase: Option<SitePhase>,
    reason: Option<String>,
    errors: Vec<ReportedError>,
    /// Number of failed tasks with further signatures.
    others: u64,
}

/// Errors of a run, folded from the events.
#[derive(Clone, Debug, Default)]
pub struct ErrorReport {
    state: RunState,
    failures: Vec<DatedFailure>,
    counts: Vec<SiteErrors>,
}

impl ErrorReport {
    /// Applies the next event of the run.
    pub fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::TaskFailed(failed) => self.failures.push(DatedFailure {
                at: event.at,
                failed: (**failed).clone(),
            }),
            EventKind::SiteErrorsCounted(counted) => self.counts.push(counted.clone()),
            _ => {}
        }
        self.state.apply(event);
    }

    /// Returns whether the run has this site.
    pub fn has_site(&self, site: &SiteName) -> bool {
        self.state.site_named(site).is_some()
    }

    /// Makes the text for people; of one site only, if a site is given.
    pub fn lines(&self, site: Option<&SiteName>) -> Vec<String> {
        let groups = self.groups(site);
        let mut lines = vec![self.headline()];
        for group in &groups {
            lines.push(String::new());
            lines.push(self.group_headline(group));
            for error in &group.errors {
                lines.extend(lines_of(error));
            }
            if group.others > 0 {
                lines.push(format!("  {} with other errors", plural(group.others, "failed task")));
            }
            if group.errors.is_empty() && group.others == 0 {
                lines.push("  no failed task is recorded".to_owned());
            }
        }
        if groups.is_empty() {
            lines.push("no failed task is recorded".to_owned());
        }
        lines
    }

    /// Makes the object for programs; of one site only, if a site is given.
    pub fn json(&self, site: Option<&SiteName>) -> serde_json::Value {
        serde_json::json!({
            "run_id": self.state.header.as_ref().map(|header| &header.run_id),
            "started_at": self.state.started_at,
            "outcome": self.state.outcome,
            "sites": self.groups(site),
        })
    }

    fn headline(&self) -> String {
        let run = self.state.header.as_ref().map_or("?", |header| header.run_id.as_str());
        // Whole seconds are enough for people.
        let began = local_time(self.state.started_at.max(0.0) as u64);
        let end = match self.state.outcome {
            Some(_) => String::new(),
            None => ", without an end so far".to_owned(),
        };
        one_line(&format!("run {run}, begun {began}{end}"))
    }

    fn group_headline(&self, group: &ErrorGroup) -> String {
        let Some(site) = &group.site else {
            return "proxy refresh".to_owned();
        };
        let word = group.phase.map_or("", summary::status);
        let reason = group
            .reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(": {reason}"));
        one_line(&format!("{site} {word}{reason}"))
    }

    fn groups(&self, wanted: Option<&SiteName>) -> Vec<ErrorGroup> {
        let mut groups = Vec::new();
        let refresh = self.errors_of(None);
        if wanted.is_none() && !refresh.is_empty() {
            groups.push(ErrorGroup {
                site: None,
                phase: None,
                reason: self.state.proxies.failure.clone(),
                errors: refresh,
                others: 0,
            });
        }
        for site in &self.state.sites {
            let errors = self.errors_of(Some(&site.name));
            let others = self.counted(&site.name).map(|counted| counted.others).sum();
            let is_wanted = wanted.map_or(!errors.is_empty() || others > 0, |wanted| *wanted == site.name);
            if is_wanted {
                groups.push(ErrorGroup {
                    site: Some(site.name.clone()),
                    phase: Some(site.phase),
                    reason: site.reason.clone(),
                    errors,
                    others,
                });
            }
        }
        groups
    }

    fn counted(&self, site: &SiteName) -> impl Iterator<Item = &SiteErrors> {
        self.counts.iter().filter(move |counted| counted.site == *site)
    }

    fn errors_of(&self, site: Option<&SiteName>) -> Vec<ReportedError> {
        let firsts = self
            .failures
            .iter()
            .filter(|failure| failure.failed.site.as_ref() == site);
        let mut errors: Vec<ReportedError> = Vec::new();
        for first in firsts {
            if errors.iter().all(|error| error.signature != first.failed.signature) {
                errors.push(ReportedError {
                    signature: first.failed.signature.clone(),
                    count: None,
                    first_at: first.at,
                    last_at: None,
                    first: Some(first.clone()),
                });
            }
        }
        let counts = site
            .into_iter()
            .flat_map(|site| self.counted(site))
            .flat_map(|counted| &counted.errors);
        for ErrorCount {
            signature,
            count,
            first_at,
            last_at,
        } in counts
        {
            match errors.iter_mut().find(|error| error.signature == *signature) {
                Some(error) => {
                    error.count = Some(error.count.unwrap_or(0) + count);
                    error.last_at = Some(*last_at);
                }
                None => errors.push(ReportedError {
                    signature: signature.clone(),
                    count: Some(*count),
                    first_at: *first_at,
                    last_at: Some(*last_at),
                    first: None,
                }),
            }
        }
        errors.sort_by_key(|error| std::cmp::Reverse(error.count));
        errors
    }
}

fn lines_of(error: &ReportedError) -> Vec<String> {
    let time = |at: f64| local_time(at.max(0.0) as u64);
    let when = match error.last_at {
        Some(last) if error.count != Some(1) => format!("{} to {}", time(error.first_at), time(last)),
        _ => time(error.first_at),
    };
    let count = match error.count {
        Some(count) => plural(count, "failed task"),
        None => "failed tasks, not counted yet".to_owned(),
    };
    let mut lines = vec![
        one_line(&format!("  {}", error.signature)),
        format!("    {count}, {when}"),
    ];
    let Some(DatedFailure { at: _, failed }) = &error.first else {
        return lines;
    };
    lines.push(one_line(&format!("    first: {}", place(failed))));
    let detail = failed.traceback.as_ref().unwrap_or(&failed.exception);
    lines.extend(indented(detail));
    if let Some(log) = &failed.log {
        lines.push(one_line(&format!("    log {}:", log.file.display())));
        lines.extend(log.lines.iter().map(|line| format!("      {}", one_line(line))));
    }
    lines
}

fn indented(detail: &str) -> Vec<String> {
    let safe = text(detail);
    safe.lines().map(|line| format!("      {line}")).collect()
}

/// Describes which task failed, how, and where.
fn place(failed: &FailedTask) -> String {
    let name = failed.task.as_deref().unwrap_or("task");
    let mut text = format!("{name} {} {}", failed.task_id, end_of(failed.kind));
    if let Some(chunk) = failed.chunk {
        text.push_str(&format!(", chunk {chunk}"));
    }
    if let Some(worker) = &failed.worker {
        text.push_str(&format!(", on {worker}"));
    }
    if failed.attempt > 1 {
        text.push_str(&format!(", in attempt {}", failed.attempt));
    }
    text
}

/// Makes the line of a live run for the first failure with a signature.
pub(crate) fn failed_task(failed: &FailedTask) -> String {
    let owner = failed.site.as_ref().map_or("proxies", SiteName::as_str);
    let exception = shortened(&one_line(&failed.exception), MAX_LINE);
    let chunk = failed
        .chunk
        .map_or_else(String::new, |chunk| format!("chunk {chunk}, "));
    format!(
        "{owner}: {chunk}task {} {}: {exception}",
        failed.task_id,
        end_of(failed.kind)
    )
}

/// Returns the sentence part for the way in which a task ended.
fn end_of(kind: TaskEndKind) -> &'static str {
    match kind {
        TaskEndKind::Raised => "raised an exception",
        TaskEndKind::TimeLimit => "ran longer than its time limit",
        TaskEndKind::ProcessLost => "lost its pool process",
        TaskEndKind::Revoked => "was revoked",
        TaskEndKind::Expired => "was discarded, because its message had expired",
        TaskEndKind::Rejected => "was rejected",
        TaskEndKind::ResultUnstorable => "returned a value that cannot be stored",
        TaskEndKind::HeaderFailed => "never ran, because a task of its chord's header failed",
    }
}
