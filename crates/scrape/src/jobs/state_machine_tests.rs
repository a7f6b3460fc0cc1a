//! Tests of the stages of following by tables, without Celery, Redis or a clock.

use std::time::Duration;

use serde_json::{Value, json};

use super::inputs::*;
use super::inventory::JobInventory;
use super::machine_case::*;
use super::outcome::HeaderCheck;
use orch_journal::{FollowStage, SiteCounts};

#[test]
fn the_dispatch_result_decides_the_stage() {
    use FollowStage::*;
    use JobKind::*;
    let unreadable = || JobInput::ResultsUnreadable("WRONGTYPE".to_owned());
    let ignored = |result: Value| JobInput::DispatchEndedUnrecorded(TaskEnd::Succeeded(result));
    let nothing = || answered(json!({"job_id": "j", "total_urls": 0, "status": "NO_URLS"}), 0);
    let no_chord = || answered(json!({"job_id": "j", "total_urls": 9}), 0);
    let raised = |end| JobInput::DispatchEnded {
        end,
        listed: ListedTasks::default().into(),
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
        (Site, answered(json!({"job_id": "j", "error": "no"}), 0), Reported),
        (Proxies, answered(json!({"job_id": "j", "error": "no"}), 0), Reported),
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
        (Site, raised(failed("ValueError: x")), Reported),
        (Proxies, raised(TaskEnd::Revoked("terminated".to_owned())), Reported),
        (
            Site,
            JobInput::DispatchEndedUnrecorded(failed("ValueError: x")),
            Reported,
        ),
        (Site, unreadable(), At(TaskEvents)),
        (SiteWithOwnJobId, unreadable(), At(ProgressKeys)),
        (Proxies, unreadable(), At(FileTime)),
        (Site, gone(true), Lost),
        (Site, gone(false), Lost),
        (SiteWithOwnJobId, gone(true), Lost),
        (SiteWithOwnJobId, gone(false), Lost),
        (Proxies, gone(true), Lost),
        (Proxies, gone(false), At(FileTime)),
        (Site, JobInput::FileChanged, At(Dispatch)),
        (Site, answered(json!(BODY), 3), At(Chord)),
        (Site, answered(json!([[BODY, null], null]), 3), At(Chord)),
        (Site, answered(json!(BODY), 0), Complete),
        (Site, answered(json!({"status": "COMPLETE"}), 3), At(TaskEvents)),
        (Site, answered(json!({"total_urls": 0}), 3), At(TaskEvents)),
        (Site, JobInput::CallbackEnded(failed("x")), At(Dispatch)),
        (Site, keys("COMPLETE", None), At(Dispatch)),
        (Site, JobInput::Tick, At(Dispatch)),
    ] {
        let case = MachineCase::new(kind).see(input.clone());
        assert_eq!(case.stage(), stage, "{input:?}: {}", case.reason());
    }
}

const BODY: &str = "0f2d1a34-7a43-4b1c-9d0e-6f5a4b3c2d1e";

#[test]
fn a_chord_ends_by_the_facts_that_are_known() {
    use FollowStage::*;
    let result = json!({"saved": 38, "errors": 2});
    for (input, stage) in [
        (JobInput::CallbackEnded(TaskEnd::Succeeded(result.clone())), Complete),
        (
            JobInput::CallbackEndedUnrecorded(TaskEnd::Succeeded(json!("None"))),
            Complete,
        ),
        (
            JobInput::CallbackEnded(failed("ChordError: Dependency x raised")),
            Reported,
        ),
        (
            JobInput::CallbackEnded(TaskEnd::Revoked("revoked".to_owned())),
            Reported,
        ),
        (JobInput::CallbackEndedUnrecorded(failed("ValueError")), Reported),
        (keys("COMPLETE", Some(10)), At(Chord)),
        (keys("FAILED", Some(3)), At(Chord)),
        (JobInput::ResultsUnreadable("gone".to_owned()), At(ProgressKeys)),
        (gone(true), Lost),
        (gone(false), Lost),
        (JobInput::FileChanged, At(Chord)),
        (chord_answer(), At(Chord)),
        (JobInput::Tick, At(Chord)),
    ] {
        for kind in [JobKind::Site, JobKind::Proxies] {
            let case = MachineCase::new(kind).see(chord_answer()).see(input.clone());
            let case = case.see(JobInput::HeaderChecked(HeaderCheck::Passed));
            assert_eq!(case.stage(), stage, "{input:?}: {}", case.reason());
        }
    }
    let case = MachineCase::new(JobKind::Site)
        .see(chord_answer())
        .see(JobInput::CallbackEnded(TaskEnd::Succeeded(result)))
        .see(JobInput::HeaderChecked(HeaderCheck::Passed));
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
        Some(&JobFact::ChordCompleted {
            chord_id: "c".to_owned()
        })
    );
}

#[test]
fn lost_chunks_are_named_and_counted_once() {
    let lost = |count: u64| {
        JobInput::NothingLeft(JobInventory {
            worker_died: true,
            unended: chunks(count),
            ..known()
        })
    };
    let case = MachineCase::new(JobKind::Site).see(chord_answer()).see(lost(7));
    assert_eq!(case.stage(), Lost);
    let reason = "7 of its 10 chunks are lost: chunk-0, chunk-1, chunk-2, chunk-3, chunk-4 and 2 more;";
    assert!(case.reason().contains(reason), "{}", case.reason());
    assert_eq!(case.following.lost_chunks(), 7);
    let case = case.see(lost(7));
    assert_eq!(case.following.lost_chunks(), 7);
    let one = MachineCase::new(JobKind::Site).see(chord_answer()).see(lost(1));
    assert!(
        one.reason().contains("1 of its 10 chunks is lost: chunk-0;"),
        "{}",
        one.reason()
    );
}

#[test]
fn a_callback_without_a_result_is_judged_by_the_keys_once_nothing_is_left() {
    for (status, ended) in [("COMPLETE", Complete), ("FAILED", Reported), ("AGGREGATING", Lost)] {
        let case = MachineCase::new(JobKind::Site)
            .see(chord_answer())
            .see(keys(status, Some(10)))
            .see(gone(false));
        assert_eq!(case.stage(), ended, "{status}: {}", case.reason());
    }
    let case = MachineCase::new(JobKind::Site)
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
    let case = MachineCase::new(JobKind::Site)
        .see(chord_answer())
        .after(299)
        .see(JobInput::Tick);
    assert_eq!(case.stage(), At(FollowStage::Chord));
    assert_eq!(case.following.next_tick(), Some(case.begun + Duration::from_secs(300)));
    let case = case.after(300).see(JobInput::Tick);
    assert_eq!(case.stage(), At(FollowStage::ProgressKeys));
    assert_eq!(case.following.next_tick(), Some(case.begun + JOB_TIMEOUT));
    let case = case
        .see(keys("PROCESSING", Some(9)))
        .see(JobInput::CallbackEnded(TaskEnd::Succeeded(json!(null))))
        .see(JobInput::HeaderChecked(HeaderCheck::Passed));
    assert_eq!(case.stage(), Complete);

    // The number of slots is current: with one slot left, 10 rounds of 90 s.
    let case = MachineCase::new(JobKind::Site)
        .see(chord_answer())
        .see(JobInput::SlotsCounted(1))
        .after(899)
        .see(JobInput::Tick);
    assert_eq!(case.stage(), At(FollowStage::Chord));
    assert_eq!(
        case.after(900).see(JobInput::Tick).stage(),
        At(FollowStage::ProgressKeys)
    );
}

#[test]
fn keys_that_already_name_the_end_are_taken_when_the_chord_times_out() {
    let case = MachineCase::new(JobKind::Site)
        .see(chord_answer())
        .see(keys("COMPLETE", Some(10)))
        .after(300)
        .see(JobInput::Tick);
    assert_eq!(case.stage(), Complete);
    assert_eq!(case.stages_entered(), [FollowStage::Chord, FollowStage::ProgressKeys]);
}

#[test]
fn progress_keys_end_by_status_or_when_nothing_is_left() {
    use FollowStage::*;
    let no_chord = || answered(json!({"job_id": "j"}), 0);
    for (kind, input, last, stage) in [
        (JobKind::Site, keys("COMPLETE", None), JobInput::Tick, Complete),
        (JobKind::Site, keys("FAILED", None), JobInput::Tick, Reported),
        (
            JobKind::Site,
            keys("PROCESSING", Some(3)),
            JobInput::Tick,
            At(ProgressKeys),
        ),
        (JobKind::Site, keys("PROCESSING", Some(3)), gone(false), Lost),
        (JobKind::Site, keys("PROCESSING", Some(10)), gone(false), Unknown),
        (JobKind::Site, keys("", Some(10)), gone(false), Complete),
        (JobKind::Site, keys("", Some(9)), gone(false), Lost),
        (JobKind::Site, JobInput::KeysRead(None), gone(false), Complete),
        (JobKind::Site, JobInput::KeysRead(None), tallied(3, 0, 0), Complete),
        (JobKind::Site, JobInput::KeysRead(None), tallied(3, 1, 0), Reported),
        (JobKind::Site, keys("COMPLETE", Some(3)), tallied(3, 1, 0), Complete),
        (JobKind::Site, keys("PROCESSING", Some(10)), tallied(3, 0, 0), Complete),
        (JobKind::Site, keys("PROCESSING", Some(9)), tallied(3, 0, 0), Unknown),
        (JobKind::Site, keys("", Some(10)), tallied(3, 1, 0), Reported),
        (JobKind::Site, JobInput::KeysRead(None), tallied(0, 2, 0), Reported),
        (JobKind::Site, JobInput::KeysRead(None), tallied(5, 0, 1), Lost),
        (JobKind::Proxies, JobInput::KeysRead(None), gone(false), At(FileTime)),
        (JobKind::Proxies, keys("PROCESSING", Some(3)), gone(true), Lost),
        (
            JobKind::Proxies,
            JobInput::KeysRead(None),
            JobInput::FileChanged,
            At(ProgressKeys),
        ),
    ] {
        let case = MachineCase::new(kind)
            .see(no_chord())
            .see(input.clone())
            .see(last.clone());
        assert_eq!(case.stage(), stage, "{input:?}, {last:?}: {}", case.reason());
    }
}

#[test]
fn without_keys_the_pool_file_is_watched() {
    let case = MachineCase::new(JobKind::Proxies)
        .see(answered(json!({"job_id": "j"}), 0))
        .see(JobInput::KeysRead(None));
    assert_eq!(case.following.next_tick(), Some(case.begun + Duration::from_secs(30)));
    let case = case.after(30).see(JobInput::Tick);
    assert_eq!(case.stage(), At(FollowStage::FileTime));
    assert_eq!(case.see(JobInput::FileChanged).stage(), Complete);

    let case = MachineCase::new(JobKind::Proxies)
        .see(answered(json!(null), 0))
        .see(gone(false));
    assert_eq!(case.stage(), Lost);
    let case =
        MachineCase::new(JobKind::Proxies).see(JobInput::DispatchEndedUnrecorded(TaskEnd::Succeeded(json!("None"))));
    assert_eq!(case.after(7200).see(JobInput::Tick).stage(), TimedOut);
}

#[test]
fn task_events_are_judged_once_nothing_is_left() {
    for (tally, stage, errors) in [
        (tallied(0, 0, 0), Complete, None),
        (tallied(3, 0, 0), Complete, Some(0)),
        (tallied(3, 2, 0), Reported, Some(2)),
        (tallied(0, 2, 0), Reported, Some(2)),
        (tallied(3, 0, 1), Lost, None),
    ] {
        let case = MachineCase::new(JobKind::Site)
            .see(answered(json!(null), 3))
            .see(tally.clone());
        assert_eq!(case.stage(), stage, "{tally:?}: {}", case.reason());
        assert_eq!(case.following.counts().errors, errors, "{tally:?}");
    }
}

#[test]
fn a_late_dispatch_result_is_better_than_a_fall_back() {
    let case = MachineCase::new(JobKind::Proxies)
        .see(JobInput::ResultsUnreadable("x".to_owned()))
        .see(chord_answer());
    assert_eq!(case.stages_entered(), [FollowStage::FileTime, FollowStage::Chord]);
    let case = MachineCase::new(JobKind::Proxies)
        .see(gone(false))
        .see(JobInput::DispatchEnded {
            end: failed("x"),
            listed: ListedTasks::default().into(),
        });
    assert_eq!(case.stage(), Reported);
}

#[test]
fn a_job_whose_dispatch_task_never_ended_is_lost_unless_the_app_says_otherwise() {
    for (kind, inputs, end) in [
        // The dispatch task may have published a part of its tasks and died: their success proves nothing.
        (JobKind::SiteWithOwnJobId, vec![tallied(3, 0, 0)], Lost),
        (JobKind::PickedUp, vec![gone(false)], Unknown),
        (JobKind::PickedUp, vec![tallied(3, 0, 0)], Lost),
        (
            JobKind::PickedUp,
            vec![keys("COMPLETE", Some(10)), gone(false)],
            Complete,
        ),
        (JobKind::PickedUp, vec![keys("", Some(10)), gone(false)], Unknown),
        (JobKind::PickedUp, vec![chord_answer(), gone(false)], Lost),
        (
            JobKind::PickedUp,
            vec![
                chord_answer(),
                JobInput::CallbackEnded(TaskEnd::Succeeded(json!({"saved": 7}))),
                JobInput::HeaderChecked(HeaderCheck::Passed),
            ],
            Complete,
        ),
    ] {
        let shown = format!("{kind:?} {inputs:?}");
        let case = inputs.into_iter().fold(MachineCase::new(kind), MachineCase::see);
        assert_eq!(case.stage(), end, "{shown}: {}", case.reason());
    }
}

#[test]
fn a_callback_that_ran_without_a_part_of_its_header_is_no_success() {
    let check = |check| {
        MachineCase::new(JobKind::Site)
            .see(chord_answer())
            .see(JobInput::CallbackEnded(TaskEnd::Succeeded(json!({"saved": 38}))))
            .see(JobInput::HeaderChecked(check))
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
    let unknown = MachineCase::new(JobKind::Site)
        .see(answered(json!({"job_id": "j", "chord_id": "c"}), 0))
        .see(JobInput::CallbackEnded(TaskEnd::Succeeded(json!(null))));
    assert_eq!(unknown.stage(), Complete, "without a header there is nothing to check");
}

#[test]
fn an_id_without_a_name_is_a_callback_only_where_all_else_fits() {
    let succeeded = || JobInput::CallbackEnded(TaskEnd::Succeeded(json!({"saved": 3})));
    let passed = || JobInput::HeaderChecked(HeaderCheck::Passed);
    let guessed = || MachineCase::new(JobKind::Site).see(answered(json!(BODY), 3));
    assert_eq!(guessed().see(succeeded()).see(passed()).stage(), Complete);
    assert_eq!(
        guessed().see(JobInput::CallbackEnded(failed("ChordError"))).stage(),
        Reported
    );
    // The id belongs to no callback: the tasks decide.
    assert_eq!(guessed().see(tallied(3, 0, 0)).stage(), Complete);
    assert_eq!(guessed().see(tallied(2, 1, 0)).stage(), Reported);
    assert_eq!(guessed().see(tallied(2, 0, 1)).stage(), Lost);
    // If there are other tasks, its success is not the end.
    let listed = ListedTasks {
        tasks: chunks(2),
        ..ListedTasks::default()
    };
    let several = MachineCase::new(JobKind::Site)
        .see(JobInput::DispatchEnded {
            end: TaskEnd::Succeeded(json!(BODY)),
            listed: listed.into(),
        })
        .see(succeeded());
    assert_eq!(several.stage(), At(FollowStage::TaskEvents));
    assert_eq!(several.see(tallied(2, 1, 0)).stage(), Reported);
    // The id of a started task, or of the header, is no callback.
    for id in [
        "5c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11",
        "7c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11",
    ] {
        let listed = ListedTasks {
            groups: vec!["7c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11".to_owned()],
            members: vec!["5c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11".into()],
            tasks: vec![],
        };
        let case = MachineCase::new(JobKind::Site).see(JobInput::DispatchEnded {
            end: TaskEnd::Succeeded(json!(id)),
            listed: listed.into(),
        });
        assert_eq!(case.stage(), At(FollowStage::TaskEvents));
    }
}
