//! The stages of following, by tables and properties; no Celery, no Redis, no clock.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::facts::*;
use super::machine::*;
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
            Fact::JobStarted { .. } | Fact::ChordCompleted { .. } => None,
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
    TimedOut,
}
use FollowStageOrEnd::*;

fn answered(result: Value, spawned: u64) -> Input {
    Input::DispatchEnded {
        end: TaskEnd::Succeeded(result),
        spawned,
        groups: vec!["header".to_owned()],
    }
}

fn chord_answer() -> Input {
    answered(
        json!({"job_id": "j", "chord_id": "c", "total_urls": 40, "total_chunks": 10}),
        1,
    )
}

fn gone(worker_died: bool) -> Input {
    Input::Gone {
        worker_died,
        tally: Tally::default(),
        lost: Vec::new(),
    }
}

fn tallied(succeeded: u64, failed: u64, unfinished: u64) -> Input {
    Input::Gone {
        worker_died: false,
        tally: Tally {
            succeeded,
            failed,
            unfinished,
            header: None,
        },
        lost: Vec::new(),
    }
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
        spawned: 0,
        groups: vec![],
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
        (SiteWithOwnJobId, gone(false), At(ProgressKeys)),
        (Proxies, gone(true), Lost),
        (Proxies, gone(false), At(FileTime)),
        (Site, Input::FileChanged, At(Dispatch)),
        (Site, Input::CallbackEnded(failed("x")), At(Dispatch)),
        (Site, keys("COMPLETE", None), At(Dispatch)),
        (Site, Input::Tick, At(Dispatch)),
    ] {
        let case = Case::new(kind).see(input.clone());
        assert_eq!(case.stage(), stage, "{input:?}: {}", case.reason());
    }
}

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
            assert_eq!(case.stage(), stage, "{input:?}: {}", case.reason());
        }
    }
    let case = Case::new(Kind::Site)
        .see(chord_answer())
        .see(Input::CallbackEnded(TaskEnd::Succeeded(result)));
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
    let lost = |count: usize| Input::Gone {
        worker_died: true,
        tally: Tally::default(),
        lost: (0..count)
            .map(|number| TaskId::from(format!("chunk-{number}")))
            .collect(),
    };
    let case = Case::new(Kind::Site).see(chord_answer()).see(lost(7));
    assert_eq!(case.stage(), Lost);
    let reason = "7 of its 10 chunks are lost: chunk-0, chunk-1, chunk-2, chunk-3, chunk-4 and 2 more";
    assert!(case.reason().contains(reason), "{}", case.reason());
    assert_eq!(case.following.lost_chunks(), 7);
    let case = case.see(lost(7));
    assert_eq!(case.following.lost_chunks(), 7);
    let one = Case::new(Kind::Site).see(chord_answer()).see(lost(1));
    assert!(
        one.reason().contains("1 of its 10 chunks are lost: chunk-0;"),
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
        .see(Input::CallbackEnded(TaskEnd::Succeeded(json!(null))));
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
        (Kind::Site, keys("PROCESSING", Some(10)), gone(false), Lost),
        (Kind::Site, keys("", Some(10)), gone(false), Complete),
        (Kind::Site, keys("", Some(9)), gone(false), Lost),
        (Kind::Site, Input::KeysRead(None), gone(false), Complete),
        (Kind::Site, Input::KeysRead(None), tallied(3, 1, 0), Complete),
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
        (tallied(3, 2, 0), Complete, Some(2)),
        (tallied(0, 2, 0), Told, None),
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
        spawned: 0,
        groups: vec![],
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

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        (any_end(), 0u64..3).prop_map(|(end, spawned)| Input::DispatchEnded {
            end,
            spawned,
            groups: vec![]
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
        (any::<bool>(), 0u64..2, 0u64..2, 0u64..2).prop_map(|(worker_died, succeeded, failed, unfinished)| {
            Input::Gone {
                worker_died,
                tally: Tally {
                    succeeded,
                    failed,
                    unfinished,
                    header: None,
                },
                lost: vec!["a".into(); usize::try_from(unfinished).unwrap_or(0)],
            }
        }),
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

/// A job of this run that nobody heard of may be an app's way to work; one of an earlier run is gone.
#[test]
fn an_earlier_runs_job_of_which_nothing_is_seen_is_lost() {
    for (kind, inputs, end) in [
        (Kind::SiteWithOwnJobId, vec![gone(false), gone(false)], Complete),
        (Kind::PickedUp, vec![gone(false), gone(false)], Lost),
        (Kind::PickedUp, vec![gone(false), keys("COMPLETE", Some(10))], Complete),
        (Kind::PickedUp, vec![gone(false), tallied(3, 0, 0)], Complete),
        (Kind::PickedUp, vec![chord_answer(), gone(false)], Lost),
        (
            Kind::PickedUp,
            vec![
                chord_answer(),
                Input::CallbackEnded(TaskEnd::Succeeded(json!({"saved": 7}))),
            ],
            Complete,
        ),
    ] {
        let shown = format!("{kind:?} {inputs:?}");
        let case = inputs.into_iter().fold(Case::new(kind), Case::see);
        assert_eq!(case.stage(), end, "{shown}: {}", case.reason());
    }
}
