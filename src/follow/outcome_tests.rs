//! The table of outcomes in `docs/outcomes.md` is that of the code, and each of its rules decides something.

use std::fmt::Write as _;
use std::path::Path;

use super::facts::{Keys, KeysStatus};
use super::inventory::{Inventory, OpenChord};
use super::outcome::*;
use crate::celery::TaskId;
use crate::run::SiteCounts;

const BEGIN: &str = "<!-- rules: begin -->\n";
const END: &str = "<!-- rules: end -->\n";

fn table() -> String {
    let mut text = "| | known | verdict | evidence |\n|---|---|---|---|\n".to_owned();
    for (number, rule) in Rule::ALL.iter().enumerate() {
        let [known, verdict, evidence] = rule.row();
        writeln!(text, "| {} | {known} | {verdict} | {evidence} |", number + 1).expect("a text takes all");
    }
    text
}

#[test]
fn the_document_has_the_rules_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/outcomes.md");
    let text = std::fs::read_to_string(&path).expect("docs/outcomes.md");
    let (before, rest) = text.split_once(BEGIN).expect("the begin of the table");
    let (_, after) = rest.split_once(END).expect("the end of the table");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("ORCH_BLESS").is_some() {
        std::fs::write(&path, wanted).expect("docs/outcomes.md is writable");
        return;
    }
    assert_eq!(
        text, wanted,
        "ORCH_BLESS=1 cargo test --lib outcome writes the table anew"
    );
}

/// What is known of a job whose tasks have all succeeded.
fn evidence<'a>(inventory: Option<&'a Inventory>, keys: Option<&'a Keys>) -> Evidence<'a> {
    Evidence {
        dispatch: DispatchEnd::Succeeded(Answer::Other),
        children: Some(3),
        callback: Callback::Unnamed,
        loss: None,
        picked_up: false,
        keys,
        keys_decide: false,
        pool_file: PoolFile::None,
        inventory,
        unconsumed: None,
        nowhere: "not queued, reserved or active",
        how_far: "",
        chunks: None,
    }
}

#[test]
fn each_rule_decides_what_its_row_says() {
    let all_well = Inventory {
        succeeded: 3,
        sees_callbacks: true,
        no_end_is_proof: true,
        ..Inventory::default()
    };
    let nothing = Inventory {
        succeeded: 0,
        ..all_well.clone()
    };
    let unsure = Inventory {
        sees_callbacks: false,
        no_end_is_proof: false,
        ..all_well.clone()
    };
    let lost = Inventory {
        unended: vec!["a".into()],
        ..all_well.clone()
    };
    let lost_unsure = Inventory {
        unended: vec!["a".into()],
        ..unsure.clone()
    };
    let failed = Inventory {
        failed: 1,
        ..all_well.clone()
    };
    let open_chord = Inventory {
        open_chords: vec![OpenChord {
            group: "g".into(),
            size: Some(3),
            counted: 2,
        }],
        ..all_well.clone()
    };
    let unlisted = Inventory {
        unlisted: Some("events were missed".to_owned()),
        ..all_well.clone()
    };
    let keys = |status, completed| Keys {
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
    let why = || "x".to_owned();
    let cases = [
        (Rule::DispatchFailed, dispatch(DispatchEnd::Failed(why()))),
        (Rule::DispatchRevoked, dispatch(DispatchEnd::Revoked(why()))),
        (
            Rule::AnswerIsError,
            dispatch(DispatchEnd::Succeeded(Answer::Error(why()))),
        ),
        (Rule::CallbackFailed, callback(Callback::Failed(why()), None)),
        (Rule::CallbackRevoked, callback(Callback::Revoked(why()), None)),
        (
            Rule::HeaderIncomplete,
            callback(Callback::Succeeded(HeaderCheck::Missing(vec!["a".into()])), None),
        ),
        (
            Rule::HeaderUnchecked,
            callback(Callback::Succeeded(HeaderCheck::Pending), None),
        ),
        (
            Rule::CallbackSucceeded,
            callback(Callback::Succeeded(HeaderCheck::Passed), None),
        ),
        (
            Rule::HeaderLost,
            Evidence {
                loss: Some(&lost_chunks),
                ..callback(Callback::Named, None)
            },
        ),
        (
            Rule::HeaderFailed,
            Evidence {
                loss: Some(&failed_chunks),
                ..callback(Callback::Named, None)
            },
        ),
        (
            Rule::KeysFailed,
            Evidence {
                keys_decide: true,
                ..evidence(None, Some(&failed_keys))
            },
        ),
        (Rule::KeysComplete, evidence(Some(&failed), Some(&complete))),
        (
            Rule::PoolFileChanged,
            Evidence {
                pool_file: PoolFile::Changed,
                ..base(None)
            },
        ),
        (
            Rule::AnswerIsDone,
            Evidence {
                children: Some(0),
                ..dispatch(DispatchEnd::Succeeded(Answer::Done))
            },
        ),
        (
            Rule::AnswerIsDone,
            Evidence {
                children: None,
                dispatch: DispatchEnd::Succeeded(Answer::Done),
                ..base(Some(&unlisted))
            },
        ),
        (
            Rule::NothingStarted,
            Evidence {
                children: Some(0),
                ..base(None)
            },
        ),
        (
            Rule::Unconsumed,
            Evidence {
                unconsumed: Some("queue `slow` has no consumer"),
                ..base(None)
            },
        ),
        (Rule::StillRunning, base(None)),
        (Rule::StillRunning, evidence(None, Some(&complete))),
        (
            Rule::DispatchUnknown,
            Evidence {
                dispatch: DispatchEnd::Open,
                ..base(Some(&unsure))
            },
        ),
        (
            Rule::DispatchUnknown,
            Evidence {
                dispatch: DispatchEnd::Open,
                picked_up: true,
                ..base(Some(&nothing))
            },
        ),
        (
            Rule::DispatchLost,
            Evidence {
                dispatch: DispatchEnd::Open,
                ..evidence(Some(&all_well), Some(&all_chunks))
            },
        ),
        (Rule::CallbackUnknown, callback(Callback::Named, Some(&unsure))),
        (Rule::CallbackLost, callback(Callback::Named, Some(&all_well))),
        (Rule::CallbackLost, callback(Callback::Named, Some(&lost))),
        (Rule::TasksUnknown, base(Some(&lost_unsure))),
        (Rule::TasksLost, base(Some(&lost))),
        (Rule::TasksLost, callback(Callback::Guessed, Some(&lost))),
        (Rule::TasksFailed, base(Some(&failed))),
        (Rule::ChordOpen, base(Some(&open_chord))),
        (
            Rule::PoolFileUnchanged,
            Evidence {
                pool_file: PoolFile::Unchanged,
                ..base(Some(&all_well))
            },
        ),
        (Rule::KeysBehind, evidence(Some(&nothing), Some(&behind))),
        (Rule::KeysContradict, evidence(Some(&all_well), Some(&behind))),
        (Rule::KeysOpen, evidence(Some(&nothing), Some(&running))),
        (Rule::TasksUnlisted, base(Some(&unlisted))),
        (Rule::AllSucceeded, base(Some(&all_well))),
        (Rule::AllSucceeded, evidence(Some(&all_well), Some(&running))),
        (Rule::AllSucceeded, evidence(Some(&unlisted), Some(&all_chunks))),
    ];
    for (rule, evidence) in &cases {
        let judgement = judge(evidence);
        assert_eq!(judgement.rule, *rule, "{evidence:?}");
        let word = match judgement.verdict {
            Verdict::Open => "none yet",
            Verdict::Complete => "COMPLETE",
            Verdict::Failed(_) => "FAILED",
            Verdict::Lost(_) => "FAILED (lost)",
            Verdict::Unknown(_) => "UNKNOWN",
        };
        let [_, verdict, _] = rule.row();
        assert!(verdict.starts_with(word), "{rule:?}: {word}, {verdict}");
        let is_failed = matches!(judgement.verdict, Verdict::Failed(_));
        assert!(!is_failed || !verdict.starts_with("FAILED (lost)"), "{rule:?}");
    }
    for rule in Rule::ALL {
        assert!(cases.iter().any(|(of, _)| *of == rule), "{rule:?} is not tried");
    }
    let is_sorted = Rule::ALL.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(is_sorted, "the rules are listed in their order");
}

#[test]
fn a_loss_is_said_with_what_is_lost_and_what_failed() {
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
