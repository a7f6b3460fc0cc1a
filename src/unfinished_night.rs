//! The latest night, where it was cut short: what `orch run` and `orch sites` say of it, and how to go on with it.
//!
//! Not here: what it has left to do (`run::Resumption`), and doing that (`resume`).

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use crate::resume::latest;
use crate::run::{Event, EventKind, Outcome, Progress, RunId, Unfinished, each_line_told, local_time, past_runs};

/// How a run ended that was cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CutShort {
    /// It was killed, it crashed, or the machine went down: its journal has no end.
    Died,
    /// By Ctrl+C, a SIGTERM or a hangup.
    Interrupted,
    /// By a failure of Redis, of a service, or of what else it needs.
    Failed,
}

impl CutShort {
    fn of(end: Option<Outcome>) -> Option<Self> {
        match end {
            None => Some(Self::Died),
            Some(Outcome::Interrupted | Outcome::Terminated | Outcome::HungUp) => Some(Self::Interrupted),
            Some(
                Outcome::InfrastructureFailed | Outcome::ConfigurationError | Outcome::NotEnoughProxies | Outcome::Busy,
            ) => Some(Self::Failed),
            Some(Outcome::Succeeded | Outcome::SitesFailed) => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Died => "died",
            Self::Interrupted => "was interrupted",
            Self::Failed => "failed",
        }
    }
}

/// A night that was cut short, and has sites left to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnfinishedNight {
    pub run_id: RunId,
    pub how: CutShort,
    /// Its last sign of life, Unix seconds.
    pub at: u64,
    /// Sites that are complete, degraded or not.
    pub complete: usize,
    pub sites: usize,
}

impl UnfinishedNight {
    /// The latest night, if it is such a one. A run that lives is none, nor is one that began no site: to start it again is the
    /// same as to go on with it. What cannot be read is none either.
    ///
    /// # Errors
    /// The runs cannot be listed.
    pub fn find(state_dir: &Path) -> io::Result<Option<Self>> {
        let runs = past_runs(state_dir)?;
        if runs.iter().any(crate::run::PastRun::is_alive) {
            return Ok(None);
        }
        let Some(run) = latest(&runs) else { return Ok(None) };
        if !(run.has_begun() || run.resumes.is_some()) {
            return Ok(None);
        }
        let mut unfinished = Unfinished::default();
        let mut end = None;
        // Progress, which is most of a journal, is not read.
        let kinds = [&Unfinished::KINDS[..], &["run_finished"]].concat();
        let read = each_line_told(&run.journal, &kinds, |event: Event| {
            if let EventKind::RunFinished { outcome, .. } = event.kind {
                end = Some(outcome);
            }
            unfinished.apply(&event);
        });
        if let Err(error) = read {
            tracing::debug!(%error, "the last run cannot be read");
            return Ok(None);
        }
        let (Some(how), Some(resumption)) = (CutShort::of(end), unfinished.resumption()) else {
            return Ok(None);
        };
        if resumption.is_complete() {
            return Ok(None);
        }
        let written = std::fs::metadata(&run.journal).and_then(|journal| journal.modified());
        let written = written.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let is_kept = |progress: &Progress| matches!(progress, Progress::Kept { .. });
        Ok(Some(Self {
            run_id: resumption.run_id.clone(),
            how,
            at: written.unwrap_or_default().as_secs(),
            complete: resumption.sites.iter().filter(|site| is_kept(&site.progress)).count(),
            sites: resumption.sites.len(),
        }))
    }

    /// The command that goes on with it, as long as no other night was begun.
    pub const COMMAND: &'static str = "orch run --resume";

    /// For a run that begins: from then on the one that `--resume` alone means is that.
    pub fn notice(&self) -> String {
        let (end, progress) = self.facts();
        let Self { run_id, .. } = self;
        format!(
            "the last run {run_id} was not finished (it {end}, {progress}): `{} {run_id}` continues it",
            Self::COMMAND
        )
    }

    /// For whoever looks.
    pub fn status(&self) -> String {
        let (end, progress) = self.facts();
        format!(
            "run {} {end}: {progress}; continue with `{}`",
            self.run_id,
            Self::COMMAND
        )
    }

    /// How and when it ended, and how far it came.
    fn facts(&self) -> (String, String) {
        let Self {
            how,
            at,
            complete,
            sites,
            ..
        } = self;
        let end = format!("{} at {}", how.word(), local_time(*at));
        (end, format!("{complete} of {sites} sites are complete"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::run::RunDirectory;

    /// A run of the sites a, b and c, of these events after its start.
    fn write(state_dir: &Path, run_id: &str, at: u32, resumes: &str, events: &[&str]) {
        let directory = RunDirectory::create(state_dir, &run_id.into()).unwrap();
        let start = format!(
            r#""run_started","format":1,"run_id":"{run_id}","command":"run","version":"0","instance":"orch","config":"orch.toml","directory":"d","pid":1,"guard_pid":2,"services":[],"sites":["a","b","c"]{resumes}"#
        );
        let events = std::iter::once(start.as_str()).chain(events.iter().copied()).zip(1..);
        let line =
            |(event, seq): (&str, u32)| format!("{{\"seq\":{seq},\"at\":{at},\"elapsed\":0,\"event\":{event}}}\n");
        fs::write(directory.journal(), events.map(line).collect::<String>()).unwrap();
    }

    const DISPATCHED: &str = r#""site_dispatched","site":"a","attempt":1,"task_id":"t""#;
    const A: &str = r#""site_finished","site":"a","status":"complete","counts":{},"elapsed_ms":1"#;
    const B: &str = r#""site_finished","site":"b","status":"degraded","counts":{},"elapsed_ms":1"#;
    const C: &str = r#""site_finished","site":"c","status":"failed","counts":{},"elapsed_ms":1"#;
    const C_COMPLETE: &str = r#""site_finished","site":"c","status":"complete","counts":{},"elapsed_ms":1"#;

    fn ended(outcome: &str) -> String {
        format!(r#""run_finished","outcome":"{outcome}","exit_code":1"#)
    }

    fn found(state_dir: &Path) -> Option<(String, CutShort, usize, usize)> {
        let found = UnfinishedNight::find(state_dir).unwrap()?;
        Some((found.run_id.to_string(), found.how, found.complete, found.sites))
    }

    #[test]
    fn a_night_without_an_end_and_one_that_was_stopped_are_unfinished() {
        use CutShort::{Died, Failed, Interrupted};
        let (interrupted, terminated, hung_up) = (ended("interrupted"), ended("terminated"), ended("hung_up"));
        let (broken, succeeded, failed) = (
            ended("infrastructure_failed"),
            ended("succeeded"),
            ended("sites_failed"),
        );
        for (events, expected) in [
            (&[DISPATCHED][..], Some((Died, 0))),
            (&[DISPATCHED, A, B], Some((Died, 2))),
            (&[DISPATCHED, A, C], Some((Died, 1))),
            (&[DISPATCHED, A, &interrupted], Some((Interrupted, 1))),
            (&[DISPATCHED, &terminated], Some((Interrupted, 0))),
            (&[DISPATCHED, &hung_up], Some((Interrupted, 0))),
            (&[DISPATCHED, A, &broken], Some((Failed, 1))),
            // Nothing is left to do.
            (&[DISPATCHED, A, B, C_COMPLETE], None),
            (&[DISPATCHED, A, B, C, &failed], None),
            (&[DISPATCHED, A, B, C_COMPLETE, &succeeded], None),
            // Nothing had begun.
            (&[], None),
            (&[&interrupted], None),
            (&[&broken], None),
        ] {
            let state_dir = tempfile::tempdir().unwrap();
            write(state_dir.path(), "one", 1, "", events);
            let expected = expected.map(|(how, complete)| ("one".to_owned(), how, complete, 3));
            assert_eq!(found(state_dir.path()), expected, "{events:?}");
        }
    }

    #[test]
    fn a_start_that_failed_does_not_hide_the_night_before_it() {
        let state_dir = tempfile::tempdir().unwrap();
        assert_eq!(found(state_dir.path()), None);
        write(state_dir.path(), "night", 1, "", &[DISPATCHED, A]);
        let of_night = |run_id: &str| Some((run_id.to_owned(), CutShort::Died, 1, 3));
        write(state_dir.path(), "failed", 2, "", &[&ended("infrastructure_failed")]);
        assert_eq!(found(state_dir.path()), of_night("night"));
        // One that continues it has all of it in its first event.
        let resumes = r#","resumes":{"run_id":"night","sites":[{"site":"a","so_far":"kept","counts":{}},{"site":"b","so_far":"to_do"},{"site":"c","so_far":"to_do"}]}"#;
        write(state_dir.path(), "second", 3, resumes, &[]);
        assert_eq!(found(state_dir.path()), of_night("second"));
        write(
            state_dir.path(),
            "good",
            4,
            "",
            &[DISPATCHED, A, B, C_COMPLETE, &ended("succeeded")],
        );
        assert_eq!(found(state_dir.path()), None);
    }

    #[test]
    fn a_person_reads_what_happened_and_what_to_do() {
        let night = UnfinishedNight {
            run_id: "3a1b".into(),
            how: CutShort::Interrupted,
            at: 0,
            complete: 3,
            sites: 7,
        };
        let at = local_time(0);
        assert_eq!(
            night.status(),
            format!("run 3a1b was interrupted at {at}: 3 of 7 sites are complete; continue with `orch run --resume`")
        );
        assert_eq!(
            night.notice(),
            format!(
                "the last run 3a1b was not finished (it was interrupted at {at}, 3 of 7 sites are complete): \
                 `orch run --resume 3a1b` continues it"
            )
        );
    }
}
