//! Reading of a long journal by a command that starts late. Most lines of a night are progress of sites, and each one replaces
//! the one before. Of the progress of long ago only the last line of each site is parsed, which is many times faster.

use std::io;
use std::path::Path;

use crate::event::Event;
use crate::journal_line::{CountSet, JournalLine};
use crate::journal_tail::JournalTail;
use orch_base::files::lines_from_end::LinesFromEnd;
use orch_base::files::regular;

/// Time before the last event from which on each event counts, in seconds: more than the window of the chunk rate.
const RECENT: f64 = 120.0;

/// Latest progress of each site that may still be replaced, with its counts.
type PendingProgress = foldhash::HashMap<Vec<u8>, (JournalLine, CountSet)>;

/// Opens a journal and calls `each` for the events that it has so far, without progress that a later event replaces. The
/// state after these events is that after all events. The returned reader continues with the next event.
///
/// # Errors
/// The journal cannot be read.
pub fn catch_up(path: &Path, mut each: impl FnMut(Event)) -> io::Result<JournalTail> {
    let recent = start_of_recent(path)?;
    let mut journal = JournalTail::open(path)?;
    let mut pending = PendingProgress::default();
    let mut emit = |line: &JournalLine| {
        if let Some(event) = line.event() {
            each(event);
        }
    };
    let (mut place, mut is_recent) = (0, false);
    while let Some(line) = journal.next_line()? {
        if !is_recent {
            is_recent = place >= recent;
            place += line.length() + 1;
            // These events concern all sites.
            if is_recent || matches!(line.kind(), Some("run_started" | "state_taken")) {
                flush(&mut pending, &mut emit);
            } else if let Some(site) = line.site() {
                if line.kind() == Some("site_progressed") {
                    let counts = line.counts();
                    match pending.get_mut(site) {
                        Some(before) => {
                            // A count that the later event lacks stays as it was.
                            if !counts.contains(before.1) {
                                emit(&before.0);
                            }
                            *before = (line, counts);
                        }
                        None => {
                            pending.insert(site.to_vec(), (line, counts));
                        }
                    }
                    continue;
                }
                if let Some((before, _)) = pending.remove(site) {
                    emit(&before);
                }
            }
        }
        emit(&line);
    }
    flush(&mut pending, &mut emit);
    Ok(journal)
}

fn flush(pending: &mut PendingProgress, emit: &mut impl FnMut(&JournalLine)) {
    let mut lines: Vec<JournalLine> = pending.drain().map(|(_, (line, _))| line).collect();
    lines.sort_by(|one, other| one.elapsed().unwrap_or(0.0).total_cmp(&other.elapsed().unwrap_or(0.0)));
    lines.iter().for_each(emit);
}

/// Returns the position of the first recent event; 0 if the journal has no complete event.
fn start_of_recent(path: &Path) -> io::Result<u64> {
    let file = regular::open(path)?;
    let mut lines = LinesFromEnd::new(&file, file.metadata()?.len());
    let mut last = None;
    let mut start = 0;
    while let Some(line) = lines.next_line()? {
        // An incomplete or foreign line has no time.
        let Some(elapsed) = JournalLine::new(line.text).elapsed() else {
            continue;
        };
        if elapsed < *last.get_or_insert(elapsed) - RECENT {
            break;
        }
        start = line.start;
    }
    Ok(start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_event::any_event;
    use crate::event::EventKind;
    use crate::event_values::ProgressSource;
    use crate::journal_file::read_journal;
    use crate::site_counts::SiteCounts;
    use crate::state::model::RunState;
    use crate::state::totals::RunTotals;

    fn progressed(site: &str, chunks: u64, results: Option<u64>) -> EventKind {
        EventKind::SiteProgressed {
            site: site.into(),
            counts: SiteCounts {
                completed_chunks: Some(chunks),
                results,
                ..SiteCounts::default()
            },
            source: ProgressSource::Events,
        }
    }

    /// Writes events, each ten seconds after the one before; returns the state of all, that of the events that were
    /// emitted, and their number.
    fn states(kinds: Vec<EventKind>) -> (RunState, RunState, usize) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal.jsonl");
        // A journal does not begin with progress.
        let lines: Vec<String> = (1..)
            .zip(std::iter::once(EventKind::StopHurried).chain(kinds))
            .map(|(seq, kind)| {
                let elapsed = 10.0 * seq as f64;
                let event = Event {
                    seq,
                    at: 1000.0 + elapsed,
                    elapsed,
                    kind,
                };
                crate::journal_file::line(&event).expect("plain data") + "\n"
            })
            .collect();
        std::fs::write(&path, lines.concat()).expect("written");
        let (mut all, mut emitted, mut count) = (RunState::default(), RunState::default(), 0);
        for event in read_journal(&path).expect("readable").events {
            all.apply(&event);
        }
        let mut rest = catch_up(&path, |event| {
            count += 1;
            emitted.apply(&event);
        })
        .expect("readable");
        assert_eq!(rest.next_event().expect("readable"), None);
        (all, emitted, count)
    }

    /// Returns the state with its sites sorted, as the order of sites that the first event does not name depends on the
    /// events; and without the times of ended chunks.
    fn shown(state: &RunState) -> RunState {
        let mut state = state.clone();
        state
            .sites
            .sort_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
        state.site_places = foldhash::HashMap::default();
        let sums = RunTotals::of(&state.sites);
        assert_eq!(
            (state.totals.completed_chunks, state.totals.results, &state.totals.sites),
            (sums.completed_chunks, sums.results, &sums.sites)
        );
        state.totals = RunTotals::default();
        state
    }

    #[test]
    fn old_progress_is_left_out_and_the_state_is_that_of_all_events() {
        let mut kinds = Vec::new();
        for chunks in 1..50 {
            kinds.push(progressed("a", chunks, None));
            // A later event does not have the results.
            kinds.push(progressed("b", chunks, (chunks < 20).then_some(chunks)));
        }
        kinds.push(EventKind::StopHurried);
        let (all, emitted, count) = states(kinds);
        assert_eq!(shown(&all), shown(&emitted));
        assert_eq!(
            all.site_named(&"b".into()).and_then(|site| site.counts.results),
            Some(19)
        );
        let now = all.elapsed;
        assert_eq!(all.totals.chunk_rate(now), emitted.totals.chunk_rate(now));
        assert!(count < 25, "{count}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_state_is_that_of_all_events(
            picks in proptest::collection::vec((any_event(), 0..4_usize, 0..9_u64, any::<Option<u8>>()), 1..80),
        ) {
            // The sites of the events are few, so that events replace each other.
            let kinds = picks.into_iter().map(|(event, site, chunks, results)| {
                let site = ["a", "b\"", "c:d", "e"][site];
                match event.kind {
                    EventKind::SiteFinished { status, counts, elapsed_ms, reason, dependency, cause, .. } => {
                        EventKind::SiteFinished { site: site.into(), status, counts, elapsed_ms, reason, dependency, cause }
                    }
                    kind if chunks % 3 == 0 => kind,
                    _ => progressed(site, chunks, results.map(u64::from)),
                }
            });
            let (all, emitted, _) = states(kinds.collect());
            prop_assert_eq!(shown(&all), shown(&emitted));
        }
    }
}
