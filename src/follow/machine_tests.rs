//! The stages of following, by tables and properties; no Celery, no Redis, no clock.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::facts::*;
use super::inventory::{Inventory, OpenChord};
use super::machine::*;
use super::outcome::HeaderCheck;
use crate::celery::TaskId;
use crate::config::Pace;
use crate::run::{FollowStage, JobId, SiteCounts};

const PACE: Pace = Pace {
    time_per_chunk: Duration::from_secs(60),
    buffer: 1.5,
    timeout_min: Duration::from_secs(300),
    timeout_default: Duration::from_secs(1800),
};
const OVERALL: Duration = Duration::from_secs(7200);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Site,
    SiteWithOwnJobId,
    /// Likewise, of an earlier run.
    PickedUp,
    Proxies,
}

/// A following with a clock that tests move.
struct Case {
    begun: Instant,
    now: Instant,
    following: Following,
    facts: Vec<Fact>,
}

impl Case {
    fn new(kind: Kind) -> Self {
        let begun = Instant::now();
        let rules = Rules {
            pool_file: matches!(kind, Kind::Proxies),
            picked_up: matches!(kind, Kind::PickedUp),
            own_job_id: matches!(kind, Kind::SiteWithOwnJobId | Kind::PickedUp).then(|| JobId::from("own")),
            pace: PACE,
            deadline: begun + OVERALL,
            allowance: None,
        };
        Self {
            begun,
            now: begun,
            following: Following::begin(rules, 8),
            facts: Vec::new(),
        }
    }

    fn see(mut self, input: Input) -> Self {
        let (following, facts) = self.following.step(input, self.now);
        self.following = following;
        self.facts.extend(facts);
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.now = self.begun + Duration::from_secs(seconds);
        self
    }

    fn stage(&self) -> FollowStageOrEnd {
        match self.following.stage() {
            Stage::Dispatch => At(FollowStage::Dispatch),
            Stage::Chord { .. } => At(FollowStage::Chord),
            Stage::ProgressKeys { .. } => At(FollowStage::ProgressKeys),
            Stage::FileTime => At(FollowStage::FileTime),
            Stage::TaskEvents => At(FollowStage::TaskEvents),
            Stage::Ended(Ok(())) => Complete,
            Stage::Ended(Err(Failure::Told(_))) => Told,
            Stage::Ended(Err(Failure::Lost(_))) => Lost,
            Stage::Ended(Err(Failure::Unknown(_))) => Unknown,
            Stage::Ended(Err(Failure::TimedOut(_))) => TimedOut,
            Stage::Ended(Err(Failure::Unhealthy { .. })) => unreachable!("health is judged elsewhere"),
        }
    }

    fn reason(&self) -> String {
        match self.following.stage() {
            Stage::Ended(Err(failure)) => failure.reason().to_owned(),
            stage => format!("{stage:?}"),
        }
    }

    fn stages_entered(&self) -> Vec<FollowStage> {
        let stage = |fact: &Fact| match fact {
            Fact::StageEntered { stage, .. } => Some(*stage),
            Fact::JobStarted { .. } | Fact::ChordCompleted { .. } | Fact::HeaderLost { .. } => None,
        };
        self.facts.iter().filter_map(stage).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum FollowStageOrEnd {
    At(FollowStage),
    Complete,
    Told,
    Lost,
    Unknown,
    TimedOut,
}
use FollowStageOrEnd::*;

/// A dispatch task's result which lists a header of so many tasks.
fn answered(result: Value, started: u64) -> Input {
    Input::DispatchEnded {
        end: TaskEnd::Succeeded(result),
        listed: header_of(started).into(),
    }
}

fn header_of(started: u64) -> Listed {
    if started == 0 {
        return Listed::default();
    }
    Listed {
        groups: vec!["header".to_owned()],
        members: chunks(started),
        tasks: vec![],
    }
}

fn chunks(count: u64) -> Vec<TaskId> {
    (0..count)
        .map(|number| TaskId::from(format!("chunk-{number}")))
        .collect()
}

fn chord_answer() -> Input {
    answered(
        json!({"job_id": "j", "chord_id": "c", "total_urls": 40, "total_chunks": 10}),
        1,
    )
}

/// No task of the job is known but its dispatch task, whose events were seen.
fn gone(worker_died: bool) -> Input {
    Input::Gone(Inventory { worker_died, ..known() })
}

/// An inventory that misses nothing.
fn known() -> Inventory {
    Inventory {
        sees_callbacks: true,
        no_end_is_proof: true,
        are_events_unbroken: true,
        ..Inventory::default()
    }
}

fn tallied(succeeded: u64, failed: u64, unended: u64) -> Input {
    Input::Gone(Inventory {
        succeeded,
        failed,
        unended: chunks(unended),
        ..known()
    })
}

fn keys(status: &str, completed: Option<u64>) -> Input {
    let status = match status {
        "" => None,
        "COMPLETE" => Some(KeysStatus::Complete),
        "FAILED" => Some(KeysStatus::Failed("FAILED".to_owned())),
        running => Some(KeysStatus::Running(running.to_owned())),
    };
    let counts = SiteCounts {
        completed_chunks: completed,
        total_chunks: Some(10),
        ..SiteCounts::default()
    };
    Input::KeysRead(Some(Keys { status, counts }))
}

fn failed(text: &str) -> TaskEnd {
    TaskEnd::Failed(text.to_owned())
}

#[test]
fn what_the_dispatch_task_answers_decides_the_way() {
    use FollowStage::*;
    use Kind::*;
    let unreadable = || Input::ResultsUnreadable("WRONGTYPE".to_owned());
    let ignored = |result: Value| Input::DispatchEndedUnrecorded(TaskEnd::Succeeded(result));
    let nothing = || answered(json!({"job_id": "j", "total_urls": 0, "status": "NO_URLS"}), 0);
    let no_chord = || answered(json!({"job_id": "j", "total_urls": 9}), 0);
    let raised = |end| Input::DispatchEnded {
        end,
        listed: Listed::default().into(),
    };
    let header = || answered(json!({"job_id": "j", "chord_id": "header", "total_chunks": 4}), 4);
    for (kind, input, stage) in [
        (Site, chord_answer(), At(Chord)),
        (Proxies, chord_answer(), At(Chord)),
        (Site, ignored(json!("{'job_id': 'j', 'chord_id': 'c'}")), At(Chord)),
        (Site, nothing(), Complete),
        (Proxies, nothing(), Complete),
        (
            Site,
            answered(json!({"job_id": "j", "status": "COMPLETE"}), 0),
            Complete,
        ),
        (Site, answered(json!({"job_id": "j", "error": "no"}), 0), Told),
        (Proxies, answered(json!({"job_id": "j", "error": "no"}), 0), Told),
        (Site, no_chord(), At(ProgressKeys)),
        (Site, header(), At(ProgressKeys)),
        (Proxies, no_chord(), At(ProgressKeys)),
        (Site, answered(json!(null), 0), Complete),
        (Site, answered(json!({"saved": 4}), 0), Complete),
        (Site, answered(json!(null), 3), At(TaskEvents)),
        (SiteWithOwnJobId, answered(json!(null), 3), At(ProgressKeys)),
        (SiteWithOwnJobId, answered(json!(null), 0), Complete),
        (Proxies, answered(json!(null), 0), At(FileTime)),
        (Proxies, answered(json!(null), 3), At(FileTime)),
        (Site, ignored(json!("None")), At(TaskEvents)),
        (SiteWithOwnJobId, ignored(json!("None")), At(ProgressKeys)),
        (Proxies, ignored(json!("None")), At(FileTime)),
        (Site, raised(failed("ValueError: x")), Told),
        (Proxies, raised(TaskEnd::Revoked("terminated".to_owned())), Told),
        (Site, Input::DispatchEndedUnrecorded(failed("ValueError: x")), Told),
        (Site, unreadable(), At(TaskEvents)),
        (SiteWithOwnJobId, unreadable(), At(ProgressKeys)),
        (Proxies, unreadable(), At(FileTime)),
        (Site, gone(true), Lost),
        (Site, gone(false), Lost),
        (SiteWithOwnJobId, gone(true), Lost),
        (SiteWithOwnJobId, gone(false), Lost),
        (Proxies, gone(true), Lost),
        (Proxies, gone(false), At(FileTime)),
        (Site, Input::FileChanged, At(Dispatch)),
        (Site, answered(json!(BODY), 3), At(Chord)),
        (Site, answered(json!([[BODY, null], null]), 3), At(Chord)),
        (Site, answered(json!(BODY), 0), Complete),
        (Site, answered(json!({"status": "COMPLETE"}), 3), At(TaskEvents)),
        (Site, answered(json!({"total_urls": 0}), 3), At(TaskEvents)),
        (Site, Input::CallbackEnded(failed("x")), At(Dispatch)),
        (Site, keys("COMPLETE", None), At(Dispatch)),
        (Site, Input::Tick, At(Dispatch)),
    ] {
        let case = Case::new(kind).see(input.clone());
        assert_eq!(case.stage(), stage, "{input:?}: {}", case.reason());
    }
}

const BODY: &str = "0f2d1a34-7a43-4b1c-9d0e-6f5a4b3c2d1e";

#[test]
fn a_chord_ends_by_what_is_known_of_it() {
    use FollowStage::*;
    let result = json!({"saved": 38, "errors": 2});
    for (input, stage) in [
        (Input::CallbackEnded(TaskEnd::Succeeded(result.clone())), Complete),
        (
            Input::CallbackEndedUnrecorded(TaskEnd::Succeeded(json!("None"))),
            Complete,
        ),
        (Input::CallbackEnded(failed("ChordError: Dependency x raised")), Told),
        (Input::CallbackEnded(TaskEnd::Revoked("revoked".to_owned())), Told),
        (Input::CallbackEndedUnrecorded(failed("ValueError")), Told),
        (keys("COMPLETE", Some(10)), At(Chord)),
        (keys("FAILED", Some(3)), At(Chord)),
        (Input::ResultsUnreadable("gone".to_owned()), At(ProgressKeys)),
        (gone(true), Lost),
        (gone(false), Lost),
        (Input::FileChanged, At(Chord)),
        (chord_answer(), At(Chord)),
        (Input::Tick, At(Chord)),
    ] {
        for kind in [Kind::Site, Kind::Proxies] {
            let case = Case::new(kind).see(chord_answer()).see(input.clone());
            let case = case.see(Input::HeaderChecked(HeaderCheck::Passed));
            assert_eq!(case.stage(), stage, "{input:?}: {}", case.reason());
        }
    }
    let case = Case::new(Kind::Site)
        .see(chord_answer())
        .see(Input::CallbackEnded(TaskEnd::Succeeded(result)))
        .see(Input::HeaderChecked(HeaderCheck::Passed));
    let counts = SiteCounts {
        total_urls: Some(40),
        total_chunks: Some(10),
        completed_chunks: Some(10),
        results: Some(38),
        errors: Some(2),
    };
    assert_eq!(case.following.counts(), counts);
    assert_eq!(
        case.facts.last(),
        Some(&Fact::ChordCompleted {
            chord_id: "c".to_owned()
        })
    );
}

#[test]
fn lost_chunks_are_named_and_counted_once() {
    let lost = |count: u64| {
        Input::Gone(Inventory {
            worker_died: true,
            unended: chunks(count),
            ..known()
        })
    };
    let case = Case::new(Kind::Site).see(chord_answer()).see(lost(7));
    assert_eq!(case.stage(), Lost);
    let reason = "7 of its 10 chunks are lost: chunk-0, chunk-1, chunk-2, chunk-3, chunk-4 and 2 more;";
    assert!(case.reason().contains(reason), "{}", case.reason());
    assert_eq!(case.following.lost_chunks(), 7);
    let case = case.see(lost(7));
    assert_eq!(case.following.lost_chunks(), 7);
    let one = Case::new(Kind::Site).see(chord_answer()).see(lost(1));
    assert!(
        one.reason().contains("1 of its 10 chunks is lost: chunk-0;"),
        "{}",
        one.reason()
    );
}

#[test]
fn a_callback_without_a_result_is_judged_by_the_keys_once_nothing_is_left() {
    for (status, ended) in [("COMPLETE", Complete), ("FAILED", Told), ("AGGREGATING", Lost)] {
        let case = Case::new(Kind::Site)
            .see(chord_answer())
            .see(keys(status, Some(10)))
            .see(gone(false));
        assert_eq!(case.stage(), ended, "{status}: {}", case.reason());
    }
    let case = Case::new(Kind::Site)
        .see(chord_answer())
        .see(keys("PROCESSING", Some(3)))
        .see(gone(true));
    assert!(
        case.reason()
            .contains("its worker died, 3 of 10 chunks done, status PROCESSING"),
        "{}",
        case.reason()
    );
}

#[test]
fn the_dynamic_timeout_of_a_chord_leads_to_the_keys_and_a_late_result_still_counts() {
    // 10 chunks on 8 slots: 2 rounds of 90 s, less than the minimum of 300 s.
    let case = Case::new(Kind::Site).see(chord_answer()).after(299).see(Input::Tick);
    assert_eq!(case.stage(), At(FollowStage::Chord));
    assert_eq!(case.following.next_tick(), Some(case.begun + Duration::from_secs(300)));
    let case = case.after(300).see(Input::Tick);
    assert_eq!(case.stage(), At(FollowStage::ProgressKeys));
    assert_eq!(case.following.next_tick(), Some(case.begun + OVERALL));
    let case = case
        .see(keys("PROCESSING", Some(9)))
        .see(Input::CallbackEnded(TaskEnd::Succeeded(json!(null))))
        .see(Input::HeaderChecked(HeaderCheck::Passed));
    assert_eq!(case.stage(), Complete);

    // Slots are live: with one of them left, 10 rounds of 90 s.
    let case = Case::new(Kind::Site)
        .see(chord_answer())
        .see(Input::SlotsCounted(1))
        .after(899)
        .see(Input::Tick);
    assert_eq!(case.stage(), At(FollowStage::Chord));
    assert_eq!(case.after(900).see(Input::Tick).stage(), At(FollowStage::ProgressKeys));
}

#[test]
fn keys_that_already_name_the_end_are_taken_when_the_chord_times_out() {
    let case = Case::new(Kind::Site)
        .see(chord_answer())
        .see(keys("COMPLETE", Some(10)))
        .after(300)
        .see(Input::Tick);
    assert_eq!(case.stage(), Complete);
    assert_eq!(case.stages_entered(), [FollowStage::Chord, FollowStage::ProgressKeys]);
}

#[test]
fn progress_keys_end_by_status_or_when_nothing_is_left() {
    use FollowStage::*;
    let no_chord = || answered(json!({"job_id": "j"}), 0);
    for (kind, input, last, stage) in [
        (Kind::Site, keys("COMPLETE", None), Input::Tick, Complete),
        (Kind::Site, keys("FAILED", None), Input::Tick, Told),
        (Kind::Site, keys("PROCESSING", Some(3)), Input::Tick, At(ProgressKeys)),
        (Kind::Site, keys("PROCESSING", Some(3)), gone(false), Lost),
        (Kind::Site, keys("PROCESSING", Some(10)), gone(false), Unknown),
        (Kind::Site, keys("", Some(10)), gone(false), Complete),
        (Kind::Site, keys("", Some(9)), gone(false), Lost),
        (Kind::Site, Input::KeysRead(None), gone(false), Complete),
        (Kind::Site, Input::KeysRead(None), tallied(3, 0, 0), Complete),
        (Kind::Site, Input::KeysRead(None), tallied(3, 1, 0), Told),
        (Kind::Site, keys("COMPLETE", Some(3)), tallied(3, 1, 0), Complete),
        (Kind::Site, keys("PROCESSING", Some(10)), tallied(3, 0, 0), Complete),
        (Kind::Site, keys("PROCESSING", Some(9)), tallied(3, 0, 0), Unknown),
        (Kind::Site, keys("", Some(10)), tallied(3, 1, 0), Told),
        (Kind::Site, Input::KeysRead(None), tallied(0, 2, 0), Told),
        (Kind::Site, Input::KeysRead(None), tallied(5, 0, 1), Lost),
        (Kind::Proxies, Input::KeysRead(None), gone(false), At(FileTime)),
        (Kind::Proxies, keys("PROCESSING", Some(3)), gone(true), Lost),
        (
            Kind::Proxies,
            Input::KeysRead(None),
            Input::FileChanged,
            At(ProgressKeys),
        ),
    ] {
        let case = Case::new(kind).see(no_chord()).see(input.clone()).see(last.clone());
        assert_eq!(case.stage(), stage, "{input:?}, {last:?}: {}", case.reason());
    }
}

#[test]
fn without_keys_the_pool_file_is_watched() {
    let case = Case::new(Kind::Proxies)
        .see(answered(json!({"job_id": "j"}), 0))
        .see(Input::KeysRead(None));
    assert_eq!(case.following.next_tick(), Some(case.begun + Duration::from_secs(30)));
    let case = case.after(30).see(Input::Tick);
    assert_eq!(case.stage(), At(FollowStage::FileTime));
    assert_eq!(case.see(Input::FileChanged).stage(), Complete);

    let case = Case::new(Kind::Proxies).see(answered(json!(null), 0)).see(gone(false));
    assert_eq!(case.stage(), Lost);
    let case = Case::new(Kind::Proxies).see(Input::DispatchEndedUnrecorded(TaskEnd::Succeeded(json!("None"))));
    assert_eq!(case.after(7200).see(Input::Tick).stage(), TimedOut);
}

#[test]
fn task_events_are_judged_once_nothing_is_left() {
    for (tally, stage, errors) in [
        (tallied(0, 0, 0), Complete, None),
        (tallied(3, 0, 0), Complete, Some(0)),
        (tallied(3, 2, 0), Told, Some(2)),
        (tallied(0, 2, 0), Told, Some(2)),
        (tallied(3, 0, 1), Lost, None),
    ] {
        let case = Case::new(Kind::Site).see(answered(json!(null), 3)).see(tally.clone());
        assert_eq!(case.stage(), stage, "{tally:?}: {}", case.reason());
        assert_eq!(case.following.counts().errors, errors, "{tally:?}");
    }
}

#[test]
fn a_late_dispatch_result_is_better_than_a_fall_back() {
    let case = Case::new(Kind::Proxies)
        .see(Input::ResultsUnreadable("x".to_owned()))
        .see(chord_answer());
    assert_eq!(case.stages_entered(), [FollowStage::FileTime, FollowStage::Chord]);
    let case = Case::new(Kind::Proxies).see(gone(false)).see(Input::DispatchEnded {
        end: failed("x"),
        listed: Listed::default().into(),
    });
    assert_eq!(case.stage(), Told);
}

fn any_end() -> impl Strategy<Value = TaskEnd> {
    let result = prop_oneof![
        Just(json!(null)),
        Just(json!({"job_id": "j"})),
        Just(json!({"job_id": "j", "chord_id": "c", "total_chunks": 10})),
        Just(json!({"chord_id": "c"})),
        Just(json!("{'job_id': 'j', 'total_urls': 0}")),
        Just(json!({"error": "e"})),
    ];
    prop_oneof![
        4 => result.prop_map(TaskEnd::Succeeded),
        1 => Just(failed("ValueError: x")),
        1 => Just(TaskEnd::Revoked("terminated".to_owned())),
    ]
}

fn any_inventory() -> impl Strategy<Value = Inventory> {
    let chord = OpenChord {
        group: "header".into(),
        size: Some(3),
        counted: 2,
    };
    let chords = prop_oneof![3 => Just(vec![]), 1 => Just(vec![chord])];
    let unlisted = prop_oneof![3 => Just(None), 1 => Just(Some("events were missed".to_owned()))];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (0u64..2, 0u64..2, 0u64..2, chords, unlisted, flags).prop_map(
        |(
            succeeded,
            failed,
            unended,
            open_chords,
            unlisted,
            (worker_died, sees_callbacks, no_end_is_proof, awaited_is_group),
        )| Inventory {
            succeeded,
            failed,
            first_failure: (failed > 0).then(|| "task a: ValueError".to_owned()),
            unended: chunks(unended),
            open_chords,
            awaited_is_group,
            has_unlisted: !awaited_is_group,
            unlisted,
            sees_callbacks,
            no_end_is_proof,
            are_events_unbroken: no_end_is_proof,
            worker_died,
        },
    )
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        (any_end(), 0u64..3).prop_map(|(end, started)| Input::DispatchEnded {
            end,
            listed: header_of(started).into(),
        }),
        any_end().prop_map(Input::DispatchEndedUnrecorded),
        any_end().prop_map(Input::CallbackEnded),
        any_end().prop_map(Input::CallbackEndedUnrecorded),
        Just(Input::ResultsUnreadable("lost".to_owned())),
        Just(Input::KeysRead(None)),
        (
            prop::sample::select(vec!["", "PROCESSING", "COMPLETE", "FAILED"]),
            prop::option::of(0u64..12)
        )
            .prop_map(|(status, completed)| keys(status, completed)),
        Just(Input::FileChanged),
        (0u64..20).prop_map(Input::SlotsCounted),
        any_inventory().prop_map(Input::Gone),
        prop_oneof![
            Just(HeaderCheck::Passed),
            Just(HeaderCheck::Pending),
            (1u64..3).prop_map(|count| HeaderCheck::Missing(chunks(count)))
        ]
        .prop_map(Input::HeaderChecked),
        Just(Input::Tick),
    ]
}

proptest! {
    #[test]
    fn every_sequence_is_handled(
        kind in prop::sample::select(vec![Kind::Site, Kind::SiteWithOwnJobId, Kind::Proxies]),
        inputs in prop::collection::vec((any_input(), 0u64..600), 0..30),
    ) {
        let mut case = Case::new(kind);
        let mut seconds = 0;
        for (input, pause) in inputs {
            seconds += pause;
            let before = case.stage();
            let told_before = case.facts.len();
            let knows_chord = case.following.job().chord_id.is_some();
            case = case.after(seconds).see(input.clone());

            // Ended is ended, and says nothing more.
            let ended = !matches!(before, At(_));
            if ended {
                prop_assert_eq!(case.stage(), before);
                prop_assert_eq!(case.facts.len(), told_before);
            }
            // A stage is left for another one only with a fact that tells why.
            if let (At(from), At(to)) = (before, case.stage()) && from != to {
                let told = |fact: &Fact| matches!(fact, Fact::StageEntered { stage, reason } if *stage == to && !reason.is_empty());
                prop_assert!(case.facts[told_before..].iter().any(told), "{:?} -> {:?}", from, to);
            }
            // A known failure of the callback is never followed by a fall-back.
            let known = matches!(&input, Input::CallbackEnded(TaskEnd::Failed(_) | TaskEnd::Revoked(_)));
            if known && knows_chord && !ended {
                prop_assert_eq!(case.stage(), Told);
            }
            // Watching the file is for pools only; the bound is the bound.
            prop_assert!(matches!(kind, Kind::Proxies) || case.stage() != At(FollowStage::FileTime));
            prop_assert!(case.following.next_tick().is_none_or(|tick| tick <= case.following.deadline()));
            if matches!(input, Input::Tick) && case.now >= case.following.deadline() {
                prop_assert!(!matches!(case.stage(), At(_)));
            }
            if let Stage::Ended(Err(failure)) = case.following.stage() {
                prop_assert!(!failure.reason().is_empty());
            }
        }
    }
}

#[test]
fn a_job_whose_dispatch_task_never_ended_is_lost_unless_the_app_says_otherwise() {
    for (kind, inputs, end) in [
        // Its dispatch task may have published a part of its tasks and died: that they succeeded says nothing.
        (Kind::SiteWithOwnJobId, vec![tallied(3, 0, 0)], Lost),
        (Kind::PickedUp, vec![gone(false)], Unknown),
        (Kind::PickedUp, vec![tallied(3, 0, 0)], Lost),
        (Kind::PickedUp, vec![keys("COMPLETE", Some(10)), gone(false)], Complete),
        (Kind::PickedUp, vec![keys("", Some(10)), gone(false)], Unknown),
        (Kind::PickedUp, vec![chord_answer(), gone(false)], Lost),
        (
            Kind::PickedUp,
            vec![
                chord_answer(),
                Input::CallbackEnded(TaskEnd::Succeeded(json!({"saved": 7}))),
                Input::HeaderChecked(HeaderCheck::Passed),
            ],
            Complete,
        ),
    ] {
        let shown = format!("{kind:?} {inputs:?}");
        let case = inputs.into_iter().fold(Case::new(kind), Case::see);
        assert_eq!(case.stage(), end, "{shown}: {}", case.reason());
    }
}

#[test]
fn a_callback_that_ran_without_a_part_of_its_header_is_no_success() {
    let check = |check| {
        Case::new(Kind::Site)
            .see(chord_answer())
            .see(Input::CallbackEnded(TaskEnd::Succeeded(json!({"saved": 38}))))
            .see(Input::HeaderChecked(check))
    };
    assert_eq!(check(HeaderCheck::Passed).stage(), Complete);
    assert_eq!(check(HeaderCheck::Pending).stage(), At(FollowStage::Chord));
    let case = check(HeaderCheck::Missing(chunks(2)));
    assert_eq!(case.stage(), Lost);
    assert_eq!(
        case.reason(),
        "the chord's callback ran without 2 of its tasks, so others were counted twice: chunk-0, chunk-1"
    );
    assert_eq!(case.following.lost_chunks(), 2);
    let unknown = Case::new(Kind::Site)
        .see(answered(json!({"job_id": "j", "chord_id": "c"}), 0))
        .see(Input::CallbackEnded(TaskEnd::Succeeded(json!(null))));
    assert_eq!(unknown.stage(), Complete, "there is no header to check");
}

#[test]
fn an_id_without_a_name_is_a_callback_only_where_all_else_fits() {
    let succeeded = || Input::CallbackEnded(TaskEnd::Succeeded(json!({"saved": 3})));
    let passed = || Input::HeaderChecked(HeaderCheck::Passed);
    let guessed = || Case::new(Kind::Site).see(answered(json!(BODY), 3));
    assert_eq!(guessed().see(succeeded()).see(passed()).stage(), Complete);
    assert_eq!(guessed().see(Input::CallbackEnded(failed("ChordError"))).stage(), Told);
    // It is nobody's: the tasks decide.
    assert_eq!(guessed().see(tallied(3, 0, 0)).stage(), Complete);
    assert_eq!(guessed().see(tallied(2, 1, 0)).stage(), Told);
    assert_eq!(guessed().see(tallied(2, 0, 1)).stage(), Lost);
    // Beside other tasks its success is not the end.
    let listed = Listed {
        tasks: chunks(2),
        ..Listed::default()
    };
    let several = Case::new(Kind::Site)
        .see(Input::DispatchEnded {
            end: TaskEnd::Succeeded(json!(BODY)),
            listed: listed.into(),
        })
        .see(succeeded());
    assert_eq!(several.stage(), At(FollowStage::TaskEvents));
    assert_eq!(several.see(tallied(2, 1, 0)).stage(), Told);
    // One of the tasks that were started, or the header's id, is no callback.
    for id in [
        "5c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11",
        "7c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11",
    ] {
        let listed = Listed {
            groups: vec!["7c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11".to_owned()],
            members: vec!["5c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11".into()],
            tasks: vec![],
        };
        let case = Case::new(Kind::Site).see(Input::DispatchEnded {
            end: TaskEnd::Succeeded(json!(id)),
            listed: listed.into(),
        });
        assert_eq!(case.stage(), At(FollowStage::TaskEvents));
    }
}
