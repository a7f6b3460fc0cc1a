//! Properties of the stages of following, for every sequence of inputs.

use proptest::prelude::*;
use serde_json::json;

use super::inputs::*;
use super::inventory::{JobInventory, OpenChord};
use super::machine_case::*;
use super::outcome::HeaderCheck;
use super::state_machine::*;
use orch_journal::FollowStage;

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

fn any_inventory() -> impl Strategy<Value = JobInventory> {
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
        )| JobInventory {
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

fn any_input() -> impl Strategy<Value = JobInput> {
    prop_oneof![
        (any_end(), 0u64..3).prop_map(|(end, started)| JobInput::DispatchEnded {
            end,
            listed: header_of(started).into(),
        }),
        any_end().prop_map(JobInput::DispatchEndedUnrecorded),
        any_end().prop_map(JobInput::CallbackEnded),
        any_end().prop_map(JobInput::CallbackEndedUnrecorded),
        Just(JobInput::ResultsUnreadable("lost".to_owned())),
        Just(JobInput::KeysRead(None)),
        (
            prop::sample::select(vec!["", "PROCESSING", "COMPLETE", "FAILED"]),
            prop::option::of(0u64..12)
        )
            .prop_map(|(status, completed)| keys(status, completed)),
        Just(JobInput::FileChanged),
        (0u64..20).prop_map(JobInput::SlotsCounted),
        any_inventory().prop_map(JobInput::NothingLeft),
        prop_oneof![
            Just(HeaderCheck::Passed),
            Just(HeaderCheck::Pending),
            (1u64..3).prop_map(|count| HeaderCheck::Missing(chunks(count)))
        ]
        .prop_map(JobInput::HeaderChecked),
        Just(JobInput::Tick),
    ]
}

proptest! {
    #[test]
    fn every_sequence_is_handled(
        kind in prop::sample::select(vec![JobKind::Site, JobKind::SiteWithOwnJobId, JobKind::Proxies]),
        inputs in prop::collection::vec((any_input(), 0u64..600), 0..30),
    ) {
        let mut case = MachineCase::new(kind);
        let mut seconds = 0;
        for (input, pause) in inputs {
            seconds += pause;
            let before = case.stage();
            let facts_before = case.facts.len();
            let knows_chord = case.following.job().chord_id.is_some();
            case = case.after(seconds).see(input.clone());

            // An ended job stays as it is and reports nothing more.
            let ended = !matches!(before, At(_));
            if ended {
                prop_assert_eq!(case.stage(), before);
                prop_assert_eq!(case.facts.len(), facts_before);
            }
            // A change of the stage always comes with a fact that has a reason.
            if let (At(from), At(to)) = (before, case.stage()) && from != to {
                let has_reason = |fact: &JobFact| matches!(fact, JobFact::StageEntered { stage, reason } if *stage == to && !reason.is_empty());
                prop_assert!(case.facts[facts_before..].iter().any(has_reason), "{:?} -> {:?}", from, to);
            }
            // A known failure of the callback is never followed by a fall-back.
            let known = matches!(&input, JobInput::CallbackEnded(TaskEnd::Failed(_) | TaskEnd::Revoked(_)));
            if known && knows_chord && !ended {
                prop_assert_eq!(case.stage(), Reported);
            }
            // Only proxy pools have a file to watch, and no tick is later than the deadline.
            prop_assert!(matches!(kind, JobKind::Proxies) || case.stage() != At(FollowStage::FileTime));
            prop_assert!(case.following.next_tick().is_none_or(|tick| tick <= case.following.deadline()));
            if matches!(input, JobInput::Tick) && case.now >= case.following.deadline() {
                prop_assert!(!matches!(case.stage(), At(_)));
            }
            if let JobStage::Ended(Err(failure)) = case.following.stage() {
                prop_assert!(!failure.reason().is_empty());
            }
        }
    }
}
