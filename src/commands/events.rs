//! `orch events`: prints the journal of a run for programs, from another terminal.

use std::io::{BufWriter, Stdout, Write};
use std::time::Duration;

use clap::Args;

use super::follow_end::FollowEnd;
use super::output::print_message;
use super::run_choice::RunChoice;
use super::{CommandError, ConfigArgs};
use orch_base::files::path_watch::PathWatch;
use orch_base::text::printable;
use orch_base::text::redaction::redacted;
use orch_config::nearest;
use orch_journal::{JournalLine, JournalTail, RunDirectory, RunOutcome, event_names, is_being_written};

/// Exit code if there is no run.
const NO_RUN: u8 = 3;
/// Time between two looks without a change, in case the watch misses one.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Number of similar names in an error.
const MAX_SIMILAR: usize = 5;

/// Prints the events of a run as JSON lines, as the run has written them
#[derive(Args, Debug)]
#[command(
    after_help = "If an `orch run` and an `orch up` are active, the events are those of the `orch run`. Exit codes: 0 the events \
were printed; 2 usage or configuration error; 3 there is no run."
)]
pub struct JournalArgs {
    /// Print further events as they come, until the run ends, or Ctrl+C
    #[arg(short, long)]
    follow: bool,
    /// Print only these kinds of events, separated by commas, such as `service_ready,site_finished`
    #[arg(long = "type", value_delimiter = ',', value_name = "TYPES")]
    kinds: Vec<String>,
    #[command(flatten)]
    run: RunChoice,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the subcommand and returns the exit code.
pub fn main(args: &JournalArgs) -> anyhow::Result<u8> {
    check_kinds(&args.kinds)?;
    let config = args.config.load(&[])?;
    let chosen = args.run.find(&config)?;
    let Some((run_id, directory)) = chosen.runs.into_iter().next() else {
        print_message(&format!("there is no run in {}", config.orch.state_dir.display()));
        return Ok(NO_RUN);
    };
    let failed =
        |error: std::io::Error| anyhow::anyhow!("could not read the journal of run {run_id}\n  cause: {error}");
    let mut printer = EventPrinter {
        journal: JournalTail::open(&directory.journal()).map_err(failed)?,
        kinds: &args.kinds,
        output: BufWriter::new(std::io::stdout()),
    };
    if args.follow {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(printer.follow(&directory)).map_err(failed)?;
    } else {
        printer.print_available().map_err(failed)?;
    }
    Ok(RunOutcome::Succeeded.exit_code())
}

/// Checks that all kinds exist.
fn check_kinds(kinds: &[String]) -> anyhow::Result<()> {
    let known = event_names();
    let Some(unknown) = kinds.iter().find(|kind| !known.contains(&kind.as_str())) else {
        return Ok(());
    };
    let similar = similar(unknown, known);
    let hint = match similar.is_empty() {
        true => format!("the types are: {}", known.join(", ")),
        false => format!("similar types: {}", similar.join(", ")),
    };
    Err(CommandError::usage(format!(
        "no event has the type `{unknown}`\n  hint:  {hint}"
    )))
}

/// Returns the nearest name, and names with a word of the unknown one.
fn similar<'n>(unknown: &str, known: &[&'n str]) -> Vec<&'n str> {
    let mut found: Vec<&str> = nearest(unknown, known.iter().copied()).into_iter().collect();
    let words: Vec<&str> = unknown.split(['_', '-', ' ']).filter(|word| word.len() > 2).collect();
    let shares_word = |name: &&str| name.split('_').any(|word| words.contains(&word));
    for name in known.iter().copied().filter(shares_word) {
        if found.len() < MAX_SIMILAR && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Printer of a journal.
struct EventPrinter<'a> {
    journal: JournalTail,
    /// Kinds to print; empty for all.
    kinds: &'a [String],
    output: BufWriter<Stdout>,
}

impl EventPrinter<'_> {
    /// Prints the complete lines that are not printed yet; returns false if nobody reads any more.
    fn print_available(&mut self) -> std::io::Result<bool> {
        while let Some(line) = self.journal.next_line()? {
            if self.is_wanted(&line) {
                let text = printable::escaped(redacted(&line.text()).into_owned());
                if writeln!(self.output, "{text}").is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(self.output.flush().is_ok())
    }

    fn is_wanted(&self, line: &JournalLine) -> bool {
        let is_named = |kind: &str| self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind);
        // The writer ends a torn line with a line break; such a line is no event.
        line.kind().is_some_and(is_named)
    }

    async fn follow(&mut self, directory: &RunDirectory) -> std::io::Result<()> {
        let mut end = FollowEnd::listen()?;
        let journal = directory.journal();
        let mut watch = PathWatch::new()?;
        watch.add_file(&journal)?;
        loop {
            // This order matters: the lines then include every event that the run wrote before the end.
            let lives = is_being_written(&journal);
            if !self.print_available()? || !lives {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = end.come() => return Ok(()),
                changed = watch.changed() => changed?,
                () = tokio::time::sleep(RECHECK_INTERVAL) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_refused_with_the_similar_ones() {
        let refused = |kind: &str| check_kinds(&[kind.to_owned()]).unwrap_err().to_string();
        let text = refused("service_redy");
        assert!(text.contains("similar types: service_ready, "), "{text}");
        assert!(refused("service").contains("service_failed") || refused("service").contains("service_starting"));
        assert!(refused("zzzzzzzzzzzz").contains("the types are: run_started, "));
        let known = ["run_started", "site_finished"].map(str::to_owned);
        assert!(check_kinds(&known).is_ok());
    }
}
