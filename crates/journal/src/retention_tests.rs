//! Tests of the retention: by kind, number and age, and with directories of runs.

use proptest::prelude::*;

use super::*;
use crate::event::JOURNAL_FORMAT;
use crate::ids::RunId;
use crate::recorder::Recorder;
use crate::run_directory::RunDirectory;

const DAY_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Creates a run with a journal that was last written `days` ago.
fn run(state_dir: &Path, kind: RunKind, days: u32) -> RunDirectory {
    let run_id = RunId::random();
    let directory = RunDirectory::of(state_dir, &run_id);
    fs::create_dir_all(directory.path()).unwrap();
    let command = if kind == RunKind::Up { "up" } else { "run" };
    let mut text = format!(
        r#"{{"seq":1,"at":1,"elapsed":0,"event":"run_started","format":{JOURNAL_FORMAT},"run_id":"{run_id}","command":"{command}"}}"#
    );
    if kind == RunKind::Begun {
        text.push_str("\n{\"seq\":2,\"at\":1,\"elapsed\":0,\"event\":\"site_dispatched\",\"site\":\"a\"}");
    }
    fs::write(directory.journal(), text + "\n").unwrap();
    age(&directory, days);
    directory
}

fn age(directory: &RunDirectory, days: u32) {
    let journal = fs::File::options().write(true).open(directory.journal()).unwrap();
    journal.set_modified(SystemTime::now() - days * DAY_INTERVAL).unwrap();
}

fn there(runs: &[RunDirectory]) -> usize {
    runs.iter().filter(|run| run.path().exists()).count()
}

#[test]
fn ups_and_failing_starts_remove_no_night() {
    let state_dir = tempfile::tempdir().unwrap();
    let nights: Vec<_> = (0..35)
        .map(|night| run(state_dir.path(), RunKind::Begun, 100 + night))
        .collect();
    let ups: Vec<_> = (0..50).map(|_| run(state_dir.path(), RunKind::Up, 2)).collect();
    let nothing: Vec<_> = (0..50).map(|_| run(state_dir.path(), RunKind::NotBegun, 1)).collect();
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
    let dead = run(state_dir.path(), RunKind::NotBegun, 999);
    for _ in 0..=MIN_RUNS {
        create();
    }
    assert!(living.path().exists() && !dead.path().exists());
    drop(recorder);
    create();
    assert!(!living.path().exists());
}

/// Returns the positions of the removed runs, for runs given by kind and age in days.
fn gone(runs: &[(RunKind, u32)]) -> Vec<usize> {
    let now = SystemTime::UNIX_EPOCH + 100_000 * DAY_INTERVAL;
    let runs = runs.iter().zip(0..);
    let runs = runs.map(|((kind, days), place)| (*kind, now - *days * DAY_INTERVAL, place));
    let mut gone = surplus(runs.collect(), now);
    gone.sort_unstable();
    gone
}

#[test]
fn a_kind_is_kept_by_number_and_by_age() {
    use RunKind::{Begun, Up};
    let of = |kind, ages: std::ops::Range<u32>| ages.map(|days| (kind, days)).collect::<Vec<_>>();
    assert_eq!(gone(&of(Begun, 0..30)), [0; 0]);
    // One per night: those of the last thirty days.
    assert_eq!(gone(&of(Begun, 0..32)), [30, 31]);
    // Several per day: more, while they are young.
    let often: Vec<_> = (0..200).map(|run| (Begun, run / 24)).collect();
    assert_eq!(gone(&often).len(), 100);
    assert_eq!(gone(&of(Begun, 1000..1031)), [30], "however old");
    assert_eq!(gone(&of(Up, 0..22)), [20, 21]);
}

proptest! {
    #[test]
    fn no_kind_removes_another_and_none_grows_without_bound(
        runs in proptest::collection::vec((0_u8..3, 0_u32..90), 0..260),
    ) {
        let kind = |kind: u8| [RunKind::Begun, RunKind::Up, RunKind::NotBegun][usize::from(kind)];
        let runs: Vec<(RunKind, u32)> = runs.into_iter().map(|(of, days)| (kind(of), days)).collect();
        let gone = gone(&runs);
        for kind in [RunKind::Begun, RunKind::Up, RunKind::NotBegun] {
            let alone: Vec<(RunKind, u32)> = runs.iter().copied().filter(|run| run.0 == kind).collect();
            let went = gone.iter().filter(|place| runs[**place].0 == kind).count();
            // The other kinds change nothing.
            prop_assert_eq!(went, self::gone(&alone).len());
            let kept = alone.len() - went;
            prop_assert!(kept <= kind.limits().at_most && kept >= alone.len().min(kind.limits().always));
            // No removed run is younger than a kept one.
            let youngest_gone = gone.iter().map(|place| runs[*place]).filter(|run| run.0 == kind).map(|run| run.1).min();
            let is_gone = |place: &usize| gone.contains(place);
            let oldest_kept = (0..runs.len()).filter(|place| !is_gone(place) && runs[*place].0 == kind).map(|place| runs[place].1).max();
            if let (Some(gone), Some(kept)) = (youngest_gone, oldest_kept) {
                prop_assert!(gone >= kept);
            }
        }
    }
}
