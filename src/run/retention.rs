//! Which runs are kept. Each kind has its own share, so that neither twenty `orch up` nor a night of failing starts removes what
//! `--resume`, the medians and the breaker need.
//!
//! Looks at the begin of the journals only: it is done at each start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::directory::JOURNAL;
use super::event::Command;
use super::journal::is_being_written;
use super::journal_head::{RunStart, has_begun};

/// What a run was, as far as it matters for how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// An `orch run` that has begun a site, or followed an earlier run's job further.
    Night,
    /// An `orch up`.
    Up,
    /// An `orch run` that ended before that, or a start that has written nothing.
    Nothing,
}

/// How many runs of one kind are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// The last ones, however old.
    always: usize,
    /// ... and as many more that are younger than `for_days`, up to this number of all.
    at_most: usize,
    for_days: u64,
}

impl Kind {
    const fn share(self) -> Share {
        match self {
            Kind::Night => Share {
                always: 30,
                at_most: 100,
                for_days: 30,
            },
            Kind::Up | Kind::Nothing => Share {
                always: 20,
                at_most: 20,
                for_days: 0,
            },
        }
    }

    fn of(journal: &Path) -> Self {
        match RunStart::read(journal) {
            Some(start) if start.command != Command::Run => Kind::Up,
            Some(_) if has_begun(journal) => Kind::Night,
            Some(_) | None => Kind::Nothing,
        }
    }
}

/// The fewest runs of which one may have to go.
const FEWEST: usize = 20;

/// Removes old runs beside the one that begins. A run that lives is kept: an `orch up` that runs well writes nothing for weeks,
/// while a run beside it comes and goes each night.
pub(super) fn prune(runs: &Path, newest: &Path) {
    let Ok(entries) = fs::read_dir(runs) else { return };
    let found: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path() != newest)
        .filter_map(|entry| {
            // The journal's time is the run's last sign of life.
            let journal = fs::metadata(entry.path().join(JOURNAL)).and_then(|journal| journal.modified());
            let time = journal.or_else(|_| entry.metadata().and_then(|directory| directory.modified()));
            Some((time.ok()?, entry.path()))
        })
        .collect();
    if found.len() <= FEWEST {
        return;
    }
    let found = found
        .into_iter()
        .map(|(time, path)| (Kind::of(&path.join(JOURNAL)), time, path));
    for path in surplus(found.collect(), SystemTime::now()) {
        if is_being_written(&path.join(JOURNAL)) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(%error, path = %path.display(), "could not remove an old run");
        }
    }
}

/// The runs that are not kept.
fn surplus<P: Ord>(mut runs: Vec<(Kind, SystemTime, P)>, now: SystemTime) -> Vec<P> {
    // The latest first.
    runs.sort_by(|one, other| other.cmp(one));
    let mut kept: BTreeMap<Kind, usize> = BTreeMap::new();
    let is_surplus = |(kind, time, _): &(Kind, SystemTime, P)| {
        let share = kind.share();
        let kept = kept.entry(*kind).or_default();
        // A time to come is that of a clock which was set back.
        let age = now.duration_since(*time).unwrap_or_default();
        let is_young = age < Duration::from_secs(share.for_days * 24 * 60 * 60);
        if *kept < share.always || (*kept < share.at_most && is_young) {
            *kept += 1;
            return false;
        }
        true
    };
    let runs = runs.into_iter();
    let mut is_surplus = is_surplus;
    runs.filter(|run| is_surplus(run)).map(|(_, _, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::{JOURNAL_FORMAT, Recorder, RunDirectory, RunId};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A run whose journal was last written so many days ago.
    fn run(state_dir: &Path, kind: Kind, days: u32) -> RunDirectory {
        let run_id = RunId::random();
        let directory = RunDirectory::of(state_dir, &run_id);
        fs::create_dir_all(directory.path()).unwrap();
        let command = if kind == Kind::Up { "up" } else { "run" };
        let mut text = format!(
            r#"{{"seq":1,"at":1,"elapsed":0,"event":"run_started","format":{JOURNAL_FORMAT},"run_id":"{run_id}","command":"{command}"}}"#
        );
        if kind == Kind::Night {
            text.push_str("\n{\"seq\":2,\"at\":1,\"elapsed\":0,\"event\":\"site_dispatched\",\"site\":\"a\"}");
        }
        fs::write(directory.journal(), text + "\n").unwrap();
        age(&directory, days);
        directory
    }

    fn age(directory: &RunDirectory, days: u32) {
        let journal = fs::File::options().write(true).open(directory.journal()).unwrap();
        journal.set_modified(SystemTime::now() - days * DAY).unwrap();
    }

    fn there(runs: &[RunDirectory]) -> usize {
        runs.iter().filter(|run| run.path().exists()).count()
    }

    #[test]
    fn ups_and_failing_starts_remove_no_night() {
        let state_dir = tempfile::tempdir().unwrap();
        let nights: Vec<_> = (0..35)
            .map(|night| run(state_dir.path(), Kind::Night, 100 + night))
            .collect();
        let ups: Vec<_> = (0..50).map(|_| run(state_dir.path(), Kind::Up, 2)).collect();
        let nothing: Vec<_> = (0..50).map(|_| run(state_dir.path(), Kind::Nothing, 1)).collect();
        let newest = RunDirectory::create(state_dir.path(), &RunId::random()).unwrap();
        assert!(newest.path().exists());
        assert_eq!((there(&nights), there(&ups), there(&nothing)), (30, 20, 20));
        assert_eq!(there(&nights[..30]), 30, "the latest are kept");
    }

    #[test]
    fn a_living_run_is_kept_however_old_it_is() {
        let state_dir = tempfile::tempdir().unwrap();
        let create = || RunDirectory::create(state_dir.path(), &RunId::random()).unwrap();
        let living = create();
        let recorder = Recorder::create(&living.journal()).unwrap();
        age(&living, 999);
        let dead = run(state_dir.path(), Kind::Nothing, 999);
        for _ in 0..FEWEST + 1 {
            create();
        }
        assert!(living.path().exists() && !dead.path().exists());
        drop(recorder);
        create();
        assert!(!living.path().exists());
    }

    /// Places of those that go, of runs given by kind and age in days.
    fn gone(runs: &[(Kind, u32)]) -> Vec<usize> {
        let now = SystemTime::UNIX_EPOCH + 100_000 * DAY;
        let runs = runs.iter().zip(0..);
        let runs = runs.map(|((kind, days), place)| (*kind, now - *days * DAY, place));
        let mut gone = surplus(runs.collect(), now);
        gone.sort_unstable();
        gone
    }

    #[test]
    fn a_kind_is_kept_by_number_and_by_age() {
        use Kind::{Night, Up};
        let of = |kind, ages: std::ops::Range<u32>| ages.map(|days| (kind, days)).collect::<Vec<_>>();
        assert_eq!(gone(&of(Night, 0..30)), [0; 0]);
        // One a night: those of the last thirty days.
        assert_eq!(gone(&of(Night, 0..32)), [30, 31]);
        // Several a day: more, while they are young.
        let often: Vec<_> = (0..200).map(|run| (Night, run / 24)).collect();
        assert_eq!(gone(&often).len(), 100);
        assert_eq!(gone(&of(Night, 1000..1031)), [30], "however old");
        assert_eq!(gone(&of(Up, 0..22)), [20, 21]);
    }

    proptest! {
        #[test]
        fn no_kind_removes_another_and_none_grows_without_bound(
            runs in proptest::collection::vec((0_u8..3, 0_u32..90), 0..260),
        ) {
            let kind = |kind: u8| [Kind::Night, Kind::Up, Kind::Nothing][usize::from(kind)];
            let runs: Vec<(Kind, u32)> = runs.into_iter().map(|(of, days)| (kind(of), days)).collect();
            let gone = gone(&runs);
            for kind in [Kind::Night, Kind::Up, Kind::Nothing] {
                let alone: Vec<(Kind, u32)> = runs.iter().copied().filter(|run| run.0 == kind).collect();
                let went = gone.iter().filter(|place| runs[**place].0 == kind).count();
                // The others change nothing.
                prop_assert_eq!(went, self::gone(&alone).len());
                let kept = alone.len() - went;
                prop_assert!(kept <= kind.share().at_most && kept >= alone.len().min(kind.share().always));
                // None goes that is younger than one that is kept.
                let youngest_gone = gone.iter().map(|place| runs[*place]).filter(|run| run.0 == kind).map(|run| run.1).min();
                let is_gone = |place: &usize| gone.contains(place);
                let oldest_kept = (0..runs.len()).filter(|place| !is_gone(place) && runs[*place].0 == kind).map(|place| runs[place].1).max();
                if let (Some(gone), Some(kept)) = (youngest_gone, oldest_kept) {
                    prop_assert!(gone >= kept);
                }
            }
        }
    }
}
