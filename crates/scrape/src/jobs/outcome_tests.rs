//! Tests that the table in `docs/outcomes.md` agrees with the code, and that each of its rules decides a case.

use std::fmt::Write as _;
use std::path::Path;

use super::inventory::{JobInventory, OpenChord};
use super::outcome::*;
use super::progress_keys::{KeysStatus, ProgressKeyValues};
use orch_celery::TaskId;
use orch_journal::SiteCounts;

const BEGIN: &str = "<!-- rules: begin -->\n";
const END: &str = "<!-- rules: end -->\n";

fn table() -> String {
    let mut text = "| | known | verdict | evidence |\n|---|---|---|---|\n".to_owned();
    for (number, rule) in OutcomeRule::ALL.iter().enumerate() {
        let [known, verdict, evidence] = rule.row();
        writeln!(text, "| {} | {known} | {verdict} | {evidence} |", number + 1)
            .expect("writing to a string cannot fail");
    }
    text
}

#[test]
fn the_document_has_the_rules_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/outcomes.md");
    let text = std::fs::read_to_string(&path).expect("could not read docs/outcomes.md");
    let (before, rest) = text.split_once(BEGIN).expect("docs/outcomes.md has no begin marker");
    let (_, after) = rest.split_once(END).expect("docs/outcomes.md has no end marker");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("ORCH_BLESS").is_some() {
        std::fs::write(&path, wanted).expect("could not write docs/outcomes.md");
        return;
    }
    assert_eq!(
        text, wanted,
        "the table is out of date; `ORCH_BLESS=1 cargo test -p orch-scrape --lib outcome` rewrites it"
    );
}

/// Returns the evidence of a job whose tasks have all succeeded.
fn evidence<'a>(inventory: Option<&'a JobInventory>, keys: Option<&'a ProgressKeyValues>) -> Evidence<'a> {
    Evidence {
        dispatch: DispatchEnd::Succeeded(DispatchMeaning::Other),
        children: Some(3),
        callback: CallbackState::Unnamed,
        loss: None,
        picked_up: false,
        keys,
        keys_decide: false,
        pool_file: PoolFile::None,
        inventory,
        unconsumed: None,
        search_text: "not queued, reserved or active",
        progress_text: "",
        chunks: None,
    }
}

#[test]
fn each_rule_decides_as_its_row_says() {
    let all_well = JobInventory {
        succeeded: 3,
        sees_callbacks: true,
        no_end_is_proof: true,
        ..JobInventory::default()
    };
    let nothing = JobInventory {
        succeeded: 0,
        ..all_well.clone()
    };
    let unsure = JobInventory {
        sees_callbacks: false,
        no_end_is_proof: false,
        ..all_well.clone()
    };
    let lost = JobInventory {
        unended: vec!["a".into()],
        ..all_well.clone()
    };
    let lost_unsure = JobInventory {
        unended: vec!["a".into()],
        ..unsure.clone()
    };
    let failed = JobInventory {
        failed: 1,
        ..all_well.clone()
    };
    let open_chord = JobInventory {
        open_chords: vec![OpenChord {
            group: "g".into(),
            size: Some(3),
            counted: 2,
        }],
        ..all_well.clone()
    };
    let unlisted = JobInventory {
        unlisted: Some("events were missed".to_owned()),
        ..all_well.clone()
    };
    let keys = |status, completed| ProgressKeyValues {
        status,
        counts: SiteCounts {
            completed_chunks: completed,
            total_chunks: Some(10),
            ..SiteCounts::default()
        },
    };
    let complete = keys(Some(KeysStatus::Complete), None);
    let failed_keys = keys(Some(KeysStatus::Failed("FAILED".to_owned())), None);
    let behind = keys(None, Some(4));
    let running = keys(Some(KeysStatus::Running("PROCESSING".to_owned())), None);
    let all_chunks = keys(None, Some(10));
    let lost_chunks = HeaderLoss {
        lost: vec!["a".into()],
        failed: 1,
        first_failure: None,
        size: 3,
    };
    let failed_chunks = HeaderLoss {
        lost: vec![],
        ..lost_chunks.clone()
    };
    let base = |inventory| evidence(inventory, None);
    let dispatch = |dispatch| Evidence { dispatch, ..base(None) };
    let callback = |callback, inventory| Evidence {
        callback,
        ..base(inventory)
    };
    let reason_text = || "x".to_owned();
    let cases = [
        (
            OutcomeRule::DispatchFailed,
            dispatch(DispatchEnd::Failed(reason_text())),
        ),
        (
            OutcomeRule::DispatchRevoked,
            dispatch(DispatchEnd::Revoked(reason_text())),
        ),
        (
            OutcomeRule::AnswerIsError,
            dispatch(DispatchEnd::Succeeded(DispatchMeaning::Error(reason_text()))),
        ),
        (
            OutcomeRule::CallbackFailed,
            callback(CallbackState::Failed(reason_text()), None),
        ),
        (
            OutcomeRule::CallbackRevoked,
            callback(CallbackState::Revoked(reason_text()), None),
        ),
        (
            OutcomeRule::HeaderIncomplete,
            callback(CallbackState::Succeeded(HeaderCheck::Missing(vec!["a".into()])), None),
        ),
        (
            OutcomeRule::HeaderUnchecked,
            callback(CallbackState::Succeeded(HeaderCheck::Pending), None),
        ),
        (
            OutcomeRule::CallbackSucceeded,
            callback(CallbackState::Succeeded(HeaderCheck::Passed), None),
        ),
        (
            OutcomeRule::HeaderLost,
            Evidence {
                loss: Some(&lost_chunks),
                ..callback(CallbackState::Named, None)
            },
        ),
        (
            OutcomeRule::HeaderFailed,
            Evidence {
                loss: Some(&failed_chunks),
                ..callback(CallbackState::Named, None)
            },
        ),
        (
            OutcomeRule::KeysFailed,
            Evidence {
                keys_decide: true,
                ..evidence(None, Some(&failed_keys))
            },
        ),
        (OutcomeRule::KeysComplete, evidence(Some(&failed), Some(&complete))),
        (
            OutcomeRule::PoolFileChanged,
            Evidence {
                pool_file: PoolFile::Changed,
                ..base(None)
            },
        ),
        (
            OutcomeRule::AnswerIsDone,
            Evidence {
                children: Some(0),
                ..dispatch(DispatchEnd::Succeeded(DispatchMeaning::Done))
            },
        ),
        (
            OutcomeRule::AnswerIsDone,
            Evidence {
                children: None,
                dispatch: DispatchEnd::Succeeded(DispatchMeaning::Done),
                ..base(Some(&unlisted))
            },
        ),
        (
            OutcomeRule::NothingStarted,
            Evidence {
                children: Some(0),
                ..base(None)
            },
        ),
        (
            OutcomeRule::Unconsumed,
            Evidence {
                unconsumed: Some("queue `slow` has no consumer"),
                ..base(None)
            },
        ),
        (OutcomeRule::StillRunning, base(None)),
        (OutcomeRule::StillRunning, evidence(None, Some(&complete))),
        (
            OutcomeRule::DispatchUnknown,
            Evidence {
                dispatch: DispatchEnd::Open,
                ..base(Some(&unsure))
            },
        ),
        (
            OutcomeRule::DispatchUnknown,
            Evidence {
                dispatch: DispatchEnd::Open,
                picked_up: true,
                ..base(Some(&nothing))
            },
        ),
        (
            OutcomeRule::DispatchLost,
            Evidence {
                dispatch: DispatchEnd::Open,
                ..evidence(Some(&all_well), Some(&all_chunks))
            },
        ),
        (
            OutcomeRule::CallbackUnknown,
            callback(CallbackState::Named, Some(&unsure)),
        ),
        (
            OutcomeRule::CallbackLost,
            callback(CallbackState::Named, Some(&all_well)),
        ),
        (OutcomeRule::CallbackLost, callback(CallbackState::Named, Some(&lost))),
        (OutcomeRule::TasksUnknown, base(Some(&lost_unsure))),
        (OutcomeRule::TasksLost, base(Some(&lost))),
        (OutcomeRule::TasksLost, callback(CallbackState::Guessed, Some(&lost))),
        (OutcomeRule::TasksFailed, base(Some(&failed))),
        (OutcomeRule::ChordOpen, base(Some(&open_chord))),
        (
            OutcomeRule::PoolFileUnchanged,
            Evidence {
                pool_file: PoolFile::Unchanged,
                ..base(Some(&all_well))
            },
        ),
        (OutcomeRule::KeysBehind, evidence(Some(&nothing), Some(&behind))),
        (OutcomeRule::KeysContradict, evidence(Some(&all_well), Some(&behind))),
        (OutcomeRule::KeysOpen, evidence(Some(&nothing), Some(&running))),
        (OutcomeRule::TasksUnlisted, base(Some(&unlisted))),
        (OutcomeRule::AllSucceeded, base(Some(&all_well))),
        (OutcomeRule::AllSucceeded, evidence(Some(&all_well), Some(&running))),
        (OutcomeRule::AllSucceeded, evidence(Some(&unlisted), Some(&all_chunks))),
    ];
    for (rule, evidence) in &cases {
        let judgement = judge(evidence);
        assert_eq!(judgement.rule, *rule, "{evidence:?}");
        let word = match judgement.verdict {
            JobVerdict::Open => "none yet",
            JobVerdict::Complete => "COMPLETE",
            JobVerdict::Failed(_) => "FAILED",
            JobVerdict::Lost(_) => "FAILED (lost)",
            JobVerdict::Unknown(_) => "UNKNOWN",
        };
        let [_, verdict, _] = rule.row();
        assert!(verdict.starts_with(word), "{rule:?}: {word}, {verdict}");
        let is_failed = matches!(judgement.verdict, JobVerdict::Failed(_));
        assert!(!is_failed || !verdict.starts_with("FAILED (lost)"), "{rule:?}");
    }
    for rule in OutcomeRule::ALL {
        assert!(cases.iter().any(|(of, _)| *of == rule), "no case tests {rule:?}");
    }
    let is_sorted = OutcomeRule::ALL.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(
        is_sorted,
        "the list of rules must keep the order in which they are tried"
    );
}

#[test]
fn the_reason_of_a_loss_names_lost_and_failed_chunks() {
    let loss = |lost: &[&str], failed, first: Option<&str>| HeaderLoss {
        lost: lost.iter().map(|id| TaskId::from(*id)).collect(),
        failed,
        first_failure: first.map(str::to_owned),
        size: 10,
    };
    let first = Some("task c: ValueError('no')");
    for (loss, reason) in [
        (
            loss(&["a"], 0, None),
            "1 of its 10 chunks is lost, so its callback cannot run: a",
        ),
        (
            loss(&["a", "b"], 0, None),
            "2 of its 10 chunks are lost, so its callback cannot run: a, b",
        ),
        (
            loss(&[], 3, first),
            "3 of its 10 chunks failed, so its callback cannot run; the first failure: task c: ValueError('no')",
        ),
        (
            loss(&["a"], 1, first),
            "1 of its 10 chunks is lost and 1 failed, so its callback cannot run: a; the first failure: task c: ValueError('no')",
        ),
    ] {
        assert_eq!(loss.reason(), reason);
    }
}
