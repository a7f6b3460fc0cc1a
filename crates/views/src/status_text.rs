//! Status of a run for people: a headline, the problems, and tables of services and sites that stay short. Pure.

use crate::frame;
use crate::overall;
use crate::paint::{StyledLine, TextTone, columns, cut, padded};
use crate::status::{LeftProcesses, ObservedRun, RunLife, ServiceUse, StatusPart};
use crate::summary;
use crate::text::{coarse_span, counts_text};
use orch_base::text::bytes;
use orch_base::text::counted::plural;
use orch_base::text::printable::{one_line, shortened};
use orch_journal::{RunCommand, ServicePhase, ServiceView, SitePhase, SiteView, local_time};

/// Number of services and of sites that have a line each.
const MAX_ROWS: usize = 20;
/// Number of problems that have a line each.
const MAX_PROBLEMS: usize = 8;
/// Width of a name at most; a longer one is cut.
const NAME_WIDTH: usize = 40;
/// Number of characters of an exception.
const MAX_ERROR: usize = 160;
const HEADINGS: [&str; 10] = [
    "SERVICE", "STATE", "FOR", "PID", "PROCS", "CPU", "RSS", "PORT", "RESTARTS", "DETAIL",
];

impl ObservedRun {
    /// Makes the lines of the run. `width` is that of the terminal, if there is one.
    pub fn lines(&self, width: Option<usize>) -> Vec<StyledLine> {
        let mut lines = self.end_lines();
        // The headline has the death of orch already.
        let problems = match self.life {
            RunLife::EndedByGuard { .. } => Vec::new(),
            _ => self.problems(),
        };
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        for problem in problems.iter().take(MAX_PROBLEMS) {
            let mut line = StyledLine::of(TextTone::Warning, "  ! ");
            line.plain(problem);
            lines.push(line);
        }
        lines.extend(frame::more(more, "problem"));
        lines.extend(self.service_lines());
        if self.state.proxies.count.is_some() || self.state.proxies.refreshes > 0 {
            lines.push(StyledLine::default());
            lines.push(frame::proxies_line(&self.state, self.now));
        }
        lines.extend(self.site_lines(width));
        lines
    }

    /// Makes the first lines of the run: headline, logs, and the outcome if there is one.
    pub fn end_lines(&self) -> Vec<StyledLine> {
        let mut lines = vec![self.headline()];
        lines.extend(self.place());
        if !self.life.is_running() {
            lines.extend(summary::end_lines(&self.state));
        }
        lines
    }

    /// Makes the first line: the command, the instance, and the life of the run.
    pub fn headline(&self) -> StyledLine {
        let mut line = StyledLine::default();
        let Some(header) = &self.state.header else {
            line.plain("a run is ").push(TextTone::Busy, "starting");
            return line;
        };
        let command = match header.command {
            RunCommand::Run => "orch run",
            RunCommand::Up => "orch up",
        };
        line.plain(format!("{} ({command}, run {}): ", header.instance, header.run_id));
        let age = |at: f64| coarse_span(self.state.started_at + self.now - at);
        match self.life {
            RunLife::Active | RunLife::Suspended => {
                let (tone, word) = match (self.is_well(), &self.state.stop) {
                    (_, Some(_)) => (TextTone::Busy, "stopping"),
                    (true, None) => (TextTone::Good, "all well"),
                    (false, None) => (TextTone::Warning, "not all well"),
                };
                line.push(tone, word);
                line.plain(format!(
                    "; pid {}, since {} ({})",
                    header.pid,
                    moment(self.state.started_at),
                    coarse_span(self.now)
                ));
            }
            RunLife::EndedByGuard {
                guard_pid,
                died_at,
                stop_bound,
            } => {
                line.push(TextTone::Bad, "orch has died");
                if let Some(at) = died_at {
                    line.plain(format!(" at {} ({} ago)", moment(at), age(at)));
                }
                let guard = guard_pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                line.plain(format!(
                    "; its guard{guard} ends its processes, within {}",
                    coarse_span(stop_bound.as_secs_f64().ceil())
                ));
            }
            RunLife::Over { .. } if self.state.outcome.is_some() => {
                line.plain(format!("ended at {}", moment(self.state.updated_at)));
            }
            RunLife::Over { died_at, left } => {
                line.push(TextTone::Bad, "orch died");
                line.plain(match died_at {
                    Some(at) => format!(" at {}", moment(at)),
                    None => format!(" after {}", moment(self.state.updated_at)),
                });
                match left {
                    LeftProcesses::Ended => line.plain("; none of its processes is left"),
                    LeftProcesses::Alive(number) => {
                        let processes = match number {
                            1 => "1 process is".to_owned(),
                            number => format!("{number} processes are"),
                        };
                        line.plain(format!("; {processes} left: run `orch clean`"))
                    }
                    LeftProcesses::Unknown => line.plain("; its processes may be left: run `orch clean`"),
                };
            }
        }
        line
    }

    fn place(&self) -> Option<StyledLine> {
        let header = self.state.header.as_ref()?;
        Some(StyledLine::of(
            TextTone::Dim,
            format!("logs: {}", header.directory.display()),
        ))
    }

    fn service_lines(&self) -> Vec<StyledLine> {
        let services = &self.state.services;
        if services.is_empty() {
            return Vec::new();
        }
        let rows = services.iter().map(|service| (service_rank(service), service));
        let (shown, hidden) = frame::fit_rows(rows.collect(), MAX_ROWS, true);
        let mut rows = vec![HEADINGS.map(|heading| (TextTone::Dim, heading.to_owned()))];
        rows.extend(shown.into_iter().map(|service| self.service_row(service)));
        let mut lines = vec![StyledLine::default()];
        lines.extend(aligned(&rows));
        lines.extend(frame::more(hidden, "service"));
        lines
    }

    fn service_row(&self, service: &ServiceView) -> [(TextTone, String); 10] {
        let phase = self.service_phase(service);
        let (tone, word) = frame::service_word(phase);
        let used = self.uses.get(&service.name);
        let dash = || "-".to_owned();
        let of_use = |cell: &dyn Fn(&ServiceUse) -> String| (TextTone::Plain, used.map_or_else(dash, cell));
        let since = match phase == service.phase && phase != ServicePhase::Pending {
            true => coarse_span(self.now - service.since),
            false => dash(),
        };
        let pid = service.pid.filter(|_| phase != ServicePhase::Stopped);
        let detail = match phase {
            ServicePhase::Stopped => "",
            _ => service.detail.lines().next().unwrap_or_default(),
        };
        [
            (TextTone::Plain, cut(service.name.as_str(), NAME_WIDTH)),
            (tone, word.to_owned()),
            (TextTone::Plain, since),
            (TextTone::Plain, pid.map_or_else(dash, |pid| pid.to_string())),
            of_use(&|used| used.processes.to_string()),
            of_use(&|used| format!("{:.0}%", used.cpu_percent)),
            of_use(&|used| bytes::shown(used.rss_bytes)),
            of_use(&|used| ports(used)),
            (TextTone::Plain, service.restarts.to_string()),
            (TextTone::Dim, detail.to_owned()),
        ]
    }

    /// Returns the phase of a service. After the death of orch nobody writes the journal: processes that live are being
    /// stopped, and others are.
    fn service_phase(&self, service: &ServiceView) -> ServicePhase {
        let has_writer = matches!(self.life, RunLife::Active | RunLife::Suspended) || self.state.outcome.is_some();
        match service.pid {
            Some(_) if has_writer => service.phase,
            Some(_) if self.uses.contains_key(&service.name) => ServicePhase::Stopping,
            Some(_) => ServicePhase::Stopped,
            None => service.phase,
        }
    }

    fn site_lines(&self, width: Option<usize>) -> Vec<StyledLine> {
        if self.state.sites.is_empty() {
            return Vec::new();
        }
        let parts = [
            overall::sites(&self.state),
            overall::chunks(&self.state, self.now),
            overall::time_left(&self.state, self.now),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let figures = match parts.is_empty() {
            true => plural(self.state.sites.len() as u64, "site"),
            false => parts.join("; "),
        };
        let mut lines = vec![StyledLine::default(), StyledLine::of(TextTone::Plain, figures)];
        lines.extend(frame::worst_sites(&self.state, self.now, MAX_ROWS, width));
        lines
    }

    /// Makes the lines of one service or site with all of its details.
    pub fn part_lines(&self, part: StatusPart<'_>) -> Vec<StyledLine> {
        match part {
            StatusPart::Service(service) => self.service_details(service),
            StatusPart::Site(site) => self.site_details(site),
        }
    }

    fn service_details(&self, service: &ServiceView) -> Vec<StyledLine> {
        let phase = self.service_phase(service);
        let (tone, word) = frame::service_word(phase);
        let mut line = StyledLine::of(TextTone::Plain, format!("service {}: ", service.name));
        line.push(tone, word);
        line.plain(self.since(service.since, phase != service.phase || phase == ServicePhase::Pending));
        let mut facts = Vec::new();
        let pid = service.pid.filter(|_| phase != ServicePhase::Stopped);
        facts.extend(pid.map(|pid| format!("pid {pid}")));
        if let Some(used) = self.uses.get(&service.name) {
            let processes = match used.processes {
                1 => "1 process".to_owned(),
                number => format!("{number} processes"),
            };
            facts.push(processes);
            facts.push(format!("CPU {:.0}%", used.cpu_percent));
            facts.push(format!("RSS {}", bytes::shown(used.rss_bytes)));
            if !used.ports.is_empty() {
                facts.push(format!("port {}", ports(used)));
            }
        }
        facts.push(plural(u64::from(service.restarts), "restart"));
        let mut lines = vec![line, detail_line(&facts.join(", "))];
        lines.extend(service.detail.lines().map(detail_line));
        // The reason of the last unhealthy phase may still be the detail.
        let unhealthy = service.unhealthy.as_ref().filter(|reason| **reason != service.detail);
        lines.extend(unhealthy.map(|reason| detail_line(&format!("was unhealthy: {reason}"))));
        let log = service.log.clone().or_else(|| {
            let header = self.state.header.as_ref()?;
            let is_own = service.phase != ServicePhase::Reused && service.phase != ServicePhase::Pending;
            is_own.then(|| header.directory.join(format!("{}.log", service.name)))
        });
        lines.extend(log.map(|log| detail_line(&format!("log: {}", log.display()))));
        lines
    }

    fn site_details(&self, site: &SiteView) -> Vec<StyledLine> {
        let mut line = StyledLine::of(TextTone::Plain, format!("site {}: ", site.name));
        line.push(summary::tone(site.phase), summary::status(site.phase));
        if let Some(started) = site.started {
            let ended = site.finished.unwrap_or(self.now);
            line.plain(format!(
                " after {}, attempt {}",
                coarse_span(ended - started),
                site.attempt
            ));
            if !matches!(site.phase, SitePhase::Ended(_)) {
                line.plain(self.since(started, false));
            }
        }
        let mut lines = vec![line, detail_line(&counts_text(&site.counts))];
        if !site.waits_for.is_empty() {
            let names: Vec<&str> = site.waits_for.iter().map(|name| name.as_str()).collect();
            lines.push(detail_line(&format!("waits for {}", names.join(", "))));
        }
        // The reason of an end by bad health repeats the problem.
        let repeats = |ailment: &&String| {
            site.reason
                .as_ref()
                .is_some_and(|reason| reason.contains(ailment.as_str()))
        };
        if let Some(ailment) = site.ailment.as_ref().filter(|ailment| !repeats(ailment)) {
            lines.push(detail_line(&format!("{}: {ailment}", site.health.word())));
        }
        lines.extend(site.reason.iter().flat_map(|reason| reason.lines()).map(detail_line));
        lines.extend(site.job_id.iter().map(|job_id| detail_line(&format!("job {job_id}"))));
        if let Some(error) = site.errors.first() {
            let more = format!(
                "{}; more: `orch errors {}`",
                shortened(&one_line(&error.exception), MAX_ERROR),
                site.name
            );
            lines.push(detail_line(&more));
        }
        lines.push(detail_line(&format!("log lines: `orch logs site:{}`", site.name)));
        lines
    }

    /// Formats the begin of a phase by the wall clock, unless the begin is not known.
    fn since(&self, since: f64, is_unknown: bool) -> String {
        match is_unknown {
            true => String::new(),
            false => format!(
                " since {} ({})",
                moment(self.state.started_at + since),
                coarse_span(self.now - since)
            ),
        }
    }
}

fn detail_line(text: &str) -> StyledLine {
    StyledLine::of(TextTone::Plain, format!("  {text}"))
}

/// Formats the first ports.
fn ports(used: &ServiceUse) -> String {
    const SHOWN: usize = 3;
    let shown = used.ports.iter().take(SHOWN).map(ToString::to_string);
    let shown: Vec<String> = shown.collect();
    let more = if used.ports.len() > SHOWN { ",…" } else { "" };
    match shown.is_empty() {
        true => "-".to_owned(),
        false => format!("{}{more}", shown.join(",")),
    }
}

fn moment(unix_seconds: f64) -> String {
    local_time(std::time::Duration::try_from_secs_f64(unix_seconds).map_or(0, |at| at.as_secs()))
}

/// Returns the rank of a service when not all fit; the smallest ranks are shown.
fn service_rank(service: &ServiceView) -> u8 {
    match service.phase {
        ServicePhase::Failed => 0,
        ServicePhase::Unhealthy | ServicePhase::Restarting => 1,
        ServicePhase::Starting | ServicePhase::Stopping => 2,
        ServicePhase::Pending => 3,
        ServicePhase::Ready | ServicePhase::Reused => 4,
        ServicePhase::Completed | ServicePhase::Stopped => 5,
    }
}

/// Aligns the cells of rows in columns.
fn aligned<const N: usize>(rows: &[[(TextTone, String); N]]) -> Vec<StyledLine> {
    let widths: Vec<usize> = (0..N)
        .map(|column| rows.iter().map(|row| columns(&row[column].1)).max().unwrap_or(0))
        .collect();
    let line = |row: &[(TextTone, String); N]| {
        let mut line = StyledLine::default();
        for ((tone, cell), width) in row.iter().zip(&widths) {
            line.push(*tone, cell).plain(padded("", width - columns(cell) + 2));
        }
        line
    };
    rows.iter().map(line).collect()
}
