//! Tests of the retention: by kind, number, age and size, and with directories of runs.

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

/// Creates the directory of a new run, and removes old runs.
fn start(state_dir: &Path, keep: RunRetention) -> RunDirectory {
    let directory = RunDirectory::create(state_dir, &RunId::random()).unwrap();
    directory.remove_old_runs(keep);
    directory
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
    let newest = start(state_dir.path(), RunRetention::default());
    assert!(newest.path().exists());
    assert_eq!((there(&nights), there(&ups), there(&nothing)), (20, 20, 20));
    assert_eq!(there(&nights[..20]), 20, "the latest are kept");
    let few = RunRetention {
        runs: 3,
        ..RunRetention::default()
    };
    // The run of the start before has written nothing.
    start(state_dir.path(), few);
    assert_eq!((there(&nights), there(&ups), there(&nothing)), (3, 3, 2));
}

#[test]
fn a_living_run_is_kept_however_old_it_is() {
    let state_dir = tempfile::tempdir().unwrap();
    let create = || start(state_dir.path(), RunRetention::default());
    let living = create();
    let recorder = Recorder::create(&living.journal()).unwrap();
    age(&living, 999);
    let dead = run(state_dir.path(), RunKind::NotBegun, 999);
    for _ in 0..=RunRetention::default().runs {
        create();
    }
    assert!(living.path().exists() && !dead.path().exists());
    drop(recorder);
    create();
    assert!(!living.path().exists());
}

#[test]
fn a_night_that_is_compared_loses_its_logs_and_keeps_its_journal() {
    let state_dir = tempfile::tempdir().unwrap();
    let nights: Vec<_> = (0..3)
        .map(|night| run(state_dir.path(), RunKind::Begun, night))
        .collect();
    for night in &nights {
        for log in ["web.log", "web.log.1", "web.log.part", "celery.probe.log"] {
            fs::write(night.path().join(log), vec![b'x'; 100_000]).unwrap();
        }
        fs::write(night.path().join("catalog.txt"), "x").unwrap();
    }
    let keep = RunRetention {
        size: 600_000,
        ..RunRetention::default()
    };
    start(state_dir.path(), keep);
    let files = |night: &RunDirectory| {
        let entries = fs::read_dir(night.path()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names.join(" ")
    };
    let all = "catalog.txt celery.probe.log journal.jsonl web.log web.log.1 web.log.part";
    assert_eq!(
        nights.iter().map(files).collect::<Vec<_>>(),
        [all, "catalog.txt journal.jsonl", "catalog.txt journal.jsonl"]
    );
}

const NO_SIZE: RunRetention = RunRetention {
    runs: 30,
    days: 30,
    size: 0,
};

/// Returns the positions of the runs of which something is removed, for runs given by kind, age in days and size.
fn removed(runs: &[(RunKind, u32, u64)], keep: RunRetention) -> Vec<(usize, RunRemoval)> {
    let now = SystemTime::UNIX_EPOCH + 100_000 * DAY_INTERVAL;
    let ended = |((kind, days, size), path): (&(RunKind, u32, u64), usize)| EndedRun {
        kind: *kind,
        time: now - *days * DAY_INTERVAL,
        size: *size,
        logs: *size / 2,
        path,
    };
    let mut removed = removals(runs.iter().zip(0..).map(ended).collect(), keep, now);
    removed.sort_unstable_by_key(|(place, _)| *place);
    removed
}

/// Returns the positions of the removed runs, for runs given by kind and age in days.
fn gone(runs: &[(RunKind, u32)]) -> Vec<usize> {
    let runs: Vec<_> = runs.iter().map(|(kind, days)| (*kind, *days, 1 << 40)).collect();
    removed(&runs, NO_SIZE).into_iter().map(|(place, _)| place).collect()
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
    assert_eq!(gone(&of(Up, 0..32)), [30, 31], "an age is not enough");
}

#[test]
fn the_oldest_runs_are_removed_until_the_others_fit_the_size() {
    use RunKind::{Begun, NotBegun, Up};
    use RunRemoval::{Logs, Run};
    let keep = |size| RunRetention { size, ..NO_SIZE };
    let runs = [
        (Begun, 0, 10),
        (Up, 1, 10),
        (Up, 2, 10),
        (NotBegun, 3, 10),
        (Begun, 4, 10),
        (Up, 5, 10),
    ];
    assert_eq!(removed(&runs, keep(60)), []);
    assert_eq!(removed(&runs, keep(59)), [(5, Run)]);
    assert_eq!(removed(&runs, keep(49)), [(4, Logs), (5, Run)]);
    // The last run of each kind stays.
    assert_eq!(removed(&runs, keep(1)), [(2, Run), (4, Logs), (5, Run)]);
    let nights: Vec<_> = (0..12).map(|night| (Begun, night, 10)).collect();
    let expected: Vec<_> = (1..12)
        .map(|night| (night, if night < 10 { Logs } else { Run }))
        .collect();
    assert_eq!(removed(&nights, keep(1)), expected);
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
            prop_assert!(kept <= MAX_YOUNG_NIGHTS && kept >= alone.len().min(NO_SIZE.runs));
            // No removed run is younger than a kept one.
            let youngest_gone = gone.iter().map(|place| runs[*place]).filter(|run| run.0 == kind).map(|run| run.1).min();
            let is_gone = |place: &usize| gone.contains(place);
            let oldest_kept = (0..runs.len()).filter(|place| !is_gone(place) && runs[*place].0 == kind).map(|place| runs[place].1).max();
            if let (Some(gone), Some(kept)) = (youngest_gone, oldest_kept) {
                prop_assert!(gone >= kept);
            }
        }
    }

    #[test]
    fn a_size_removes_no_more_than_it_must_and_never_the_last_run_of_a_kind(
        runs in proptest::collection::vec((0_u8..3, 0_u32..90, 0_u64..100), 0..80),
        size in 1_u64..3000,
    ) {
        let kind = |kind: u8| [RunKind::Begun, RunKind::Up, RunKind::NotBegun][usize::from(kind)];
        let runs: Vec<(RunKind, u32, u64)> = runs.into_iter().map(|(of, days, size)| (kind(of), days, size)).collect();
        let all = removed(&runs, NO_SIZE);
        let more = removed(&runs, RunRetention { size, ..NO_SIZE });
        prop_assert!(all.iter().all(|removal| more.contains(removal)), "number and age remove as much as before");
        let left = |removals: &[(usize, RunRemoval)]| -> u64 {
            let of = |place| removals.iter().find(|(removed, _)| *removed == place).map(|(_, removal)| *removal);
            let left = runs.iter().zip(0..).map(|((_, _, size), place)| match of(place) {
                None => *size,
                Some(RunRemoval::Logs) => size - size / 2,
                Some(RunRemoval::Run) => 0,
            });
            left.sum()
        };
        prop_assert!(left(&all) > size || more.len() == all.len(), "nothing is removed without need");
        for kind in [RunKind::Begun, RunKind::Up, RunKind::NotBegun] {
            let of_kind: Vec<usize> = (0..runs.len()).filter(|place| runs[*place].0 == kind).collect();
            let is_whole = |place: &usize| more.iter().all(|(removed, _)| removed != place);
            prop_assert!(of_kind.is_empty() || of_kind.iter().any(is_whole));
        }
    }
}
