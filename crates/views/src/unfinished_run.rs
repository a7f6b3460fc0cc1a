//! Texts about a run that was cut short, and the command that continues the run.

use orch_journal::{RunInterruption, UnfinishedRun, local_time};

/// Command that continues the run, as long as no other run has begun a site.
pub const COMMAND: &str = "orch run --resume";

/// Formats the notice at the begin of a new run. The notice contains the run's id, because `--resume` without an id then
/// continues the new run.
pub(crate) fn notice(run: &UnfinishedRun) -> String {
    let run_id = &run.run_id;
    format!(
        "the last run {run_id} was not finished (it {}, {}): `{COMMAND} {run_id}` continues it",
        end(run),
        progress(run)
    )
}

/// Formats the status line of `orch sites`.
pub fn status(run: &UnfinishedRun) -> String {
    format!(
        "run {} {}: {}; continue with `{COMMAND}`",
        run.run_id,
        end(run),
        progress(run)
    )
}

fn end(run: &UnfinishedRun) -> String {
    let how = match run.how {
        RunInterruption::Died => "died",
        RunInterruption::Interrupted => "was interrupted",
        RunInterruption::Failed => "failed",
    };
    format!("{how} at {}", local_time(run.ended_at))
}

fn progress(run: &UnfinishedRun) -> String {
    format!("{} of {} sites are complete", run.complete, run.sites)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_name_the_end_and_the_command_that_continues() {
        let night = UnfinishedRun {
            run_id: "3a1b".into(),
            how: RunInterruption::Interrupted,
            ended_at: 0,
            complete: 3,
            sites: 7,
        };
        let at = local_time(0);
        assert_eq!(
            status(&night),
            format!("run 3a1b was interrupted at {at}: 3 of 7 sites are complete; continue with `orch run --resume`")
        );
        assert_eq!(
            notice(&night),
            format!(
                "the last run 3a1b was not finished (it was interrupted at {at}, 3 of 7 sites are complete): \
                 `orch run --resume 3a1b` continues it"
            )
        );
    }
}
