//! Search for the latest run, if it was cut short.
//!
//! The remaining work of a run is an [`orch_journal::Resumption`]; [`resume`](crate::orchestrator::instance::resume)
//! finds the run to continue.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::orchestrator::instance::resume::latest;
use orch_journal::{
    Event, EventKind, ResumptionFold, RunInterruption, RunOutcome, SiteRemainder, UnfinishedRun, each_line_of_kinds,
    past_runs,
};

/// Returns how the run was cut short; `None` if it came to its end.
fn interruption(end: Option<RunOutcome>) -> Option<RunInterruption> {
    match end {
        None => Some(RunInterruption::Died),
        Some(RunOutcome::Interrupted | RunOutcome::Terminated | RunOutcome::HungUp) => {
            Some(RunInterruption::Interrupted)
        }
        Some(
            RunOutcome::InfrastructureFailed
            | RunOutcome::ConfigurationError
            | RunOutcome::NotEnoughProxies
            | RunOutcome::Busy,
        ) => Some(RunInterruption::Failed),
        Some(RunOutcome::Succeeded | RunOutcome::SitesFailed) => None,
    }
}

/// Returns the latest run that began a site, if it was cut short. Returns `None` while a run is alive, if the run
/// began no site (a new start is then the same as a continuation), and if its journal cannot be read.
///
/// # Errors
/// The runs cannot be listed.
pub fn find(state_dir: &Path) -> io::Result<Option<UnfinishedRun>> {
    let runs = past_runs(state_dir)?;
    if runs.iter().any(orch_journal::PastRun::is_alive) {
        return Ok(None);
    }
    let Some(run) = latest(&runs) else { return Ok(None) };
    if !(run.has_begun() || run.resumes.is_some()) {
        return Ok(None);
    }
    let mut unfinished = ResumptionFold::default();
    let mut end = None;
    // Skips progress events, which are most of a journal.
    let kinds = [&ResumptionFold::KINDS[..], &["run_finished"]].concat();
    let read = each_line_of_kinds(&run.journal, &kinds, |event: Event| {
        if let EventKind::RunFinished { outcome, .. } = event.kind {
            end = Some(outcome);
        }
        unfinished.apply(&event);
    });
    if let Err(error) = read {
        tracing::debug!(%error, "could not read the journal of the last run");
        return Ok(None);
    }
    let (Some(how), Some(resumption)) = (interruption(end), unfinished.resumption()) else {
        return Ok(None);
    };
    if resumption.is_complete() {
        return Ok(None);
    }
    let written = std::fs::metadata(&run.journal).and_then(|journal| journal.modified());
    let written = written.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let is_kept = |progress: &SiteRemainder| matches!(progress, SiteRemainder::Kept { .. });
    Ok(Some(UnfinishedRun {
        run_id: resumption.run_id.clone(),
        how,
        ended_at: written.unwrap_or_default().as_secs(),
        complete: resumption.sites.iter().filter(|site| is_kept(&site.progress)).count(),
        sites: resumption.sites.len(),
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use orch_journal::RunDirectory;

    /// Writes the journal of a run of the sites a, b and c with these events after the start.
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

    fn found(state_dir: &Path) -> Option<(String, RunInterruption, usize, usize)> {
        let found = find(state_dir).unwrap()?;
        Some((found.run_id.to_string(), found.how, found.complete, found.sites))
    }

    #[test]
    fn a_night_without_an_end_and_one_that_was_stopped_are_unfinished() {
        use RunInterruption::{Died, Failed, Interrupted};
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
            // No site is left to do.
            (&[DISPATCHED, A, B, C_COMPLETE], None),
            (&[DISPATCHED, A, B, C, &failed], None),
            (&[DISPATCHED, A, B, C_COMPLETE, &succeeded], None),
            // No site had begun.
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
        let of_night = |run_id: &str| Some((run_id.to_owned(), RunInterruption::Died, 1, 3));
        write(state_dir.path(), "failed", 2, "", &[&ended("infrastructure_failed")]);
        assert_eq!(found(state_dir.path()), of_night("night"));
        // A run that continues another one has the whole resumption in its first event.
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
}
