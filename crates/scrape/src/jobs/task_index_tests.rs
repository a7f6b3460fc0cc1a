//! Tests of the index of tasks: joining, counting, and the limits of what is remembered.

use std::time::Duration;

use super::event_end::EventEnd;
use super::failures::failure_log::FailureLog;
use super::inputs::TaskTally;
use super::task_index::*;
use orch_celery::TaskId;

fn id(text: &str) -> TaskId {
    TaskId::from(text)
}

#[test]
fn tasks_are_joined_to_their_job_by_the_root_they_were_received_with() {
    let mut index = TaskIndex::default();
    index.open(&id("root"), FailureLog::default());
    index.watch(&id("root"), &id("root"));
    index.watch(&id("root"), &id("callback"));
    index.add_foreign([id("old")]);
    assert_eq!(index.note_received(id("root"), id("root"), None), Some(id("root")));
    assert_eq!(index.note_received(id("a"), id("root"), None), Some(id("root")));
    assert_eq!(index.note_received(id("b"), id("root"), None), Some(id("root")));
    assert_eq!(index.note_received(id("x"), id("stranger"), None), None);
    assert_eq!(index.note_event(&id("a")), Some(id("root")));
    assert_eq!(index.note_event(&id("x")), None);
    assert_eq!(
        index.note_ended(&id("root"), EventEnd::Succeeded("None")),
        Some(id("root"))
    );
    assert_eq!(
        index.note_ended(&id("a"), EventEnd::Failed("ValueError()")),
        Some(id("root"))
    );
    assert_eq!(
        index.tally(&id("root")),
        TaskTally {
            succeeded: 0,
            failed: 1,
            unfinished: 1,
            header: None
        }
    );
    assert_eq!(index.owner(&id("b")), TaskOwner::Job(id("root")));
    assert_eq!(index.owner(&id("x")), TaskOwner::Job(id("stranger")));
    assert_eq!(index.owner(&id("old")), TaskOwner::Foreign);
    assert_eq!(index.owner(&id("new")), TaskOwner::Unknown);
    assert_eq!(
        index.end_of(&id("root"), &id("root")),
        Some(EventEnd::Succeeded("None".into()))
    );
    assert_eq!(index.end_of(&id("root"), &id("callback")), None);
    assert_eq!(index.end_of(&id("root"), &id("a")), None, "not watched");
    index.watch(&id("root"), &id("a"));
    assert_eq!(
        index.end_of(&id("root"), &id("a")),
        Some(EventEnd::Failed("ValueError()".into()))
    );
    assert_eq!(index.changes(&id("root")), 6);
    assert_eq!(index.unfinished(&id("root")), [id("b")]);
}

#[test]
fn unfinished_tasks_are_counted_as_they_come_and_go() {
    let mut index = TaskIndex::default();
    let held = |index: &TaskIndex| index.tally(&id("root")).unfinished;
    index.note_received(id("before"), id("root"), None);
    index.open(&id("root"), FailureLog::default());
    index.open(&id("root"), FailureLog::default());
    assert_eq!(held(&index), 1, "the task of a job that is picked up");
    index.note_received(id("root"), id("root"), None);
    index.note_received(id("a"), id("root"), None);
    index.note_received(id("a"), id("root"), None);
    assert_eq!(held(&index), 2, "a task that is delivered again counts once");
    index.note_ended(&id("root"), EventEnd::Succeeded("None"));
    index.note_ended(&id("a"), EventEnd::Succeeded("1"));
    index.note_ended(&id("a"), EventEnd::Succeeded("1"));
    assert_eq!(held(&index), 1);
    index.forget_unfinished();
    index.note_ended(&id("before"), EventEnd::Succeeded("1"));
    assert_eq!(held(&index), 0);
}

#[test]
fn a_flood_of_tasks_is_not_remembered_without_end() {
    let mut index = TaskIndex::default();
    index.open(&id("root"), FailureLog::default());
    for number in 0..MAX_UNFINISHED + 1000 {
        index.note_received(TaskId::from(format!("stranger-{number}")), id("strangers"), None);
    }
    assert_eq!(index.unfinished.len(), MAX_UNFINISHED);
    assert_eq!(index.note_received(id("ours"), id("root"), None), Some(id("root")));
    assert_eq!(index.owner(&id("ours")), TaskOwner::Unknown);
    index.forget_unfinished();
    index.note_received(id("ours"), id("root"), None);
    assert_eq!(index.owner(&id("ours")), TaskOwner::Job(id("root")));
}

#[test]
fn an_end_is_counted_once_and_only_after_its_task_was_received() {
    let mut index = TaskIndex::default();
    index.open(&id("root"), FailureLog::default());
    assert_eq!(index.note_ended(&id("a"), EventEnd::Succeeded("1")), None);
    index.note_received(id("a"), id("root"), None);
    index.note_ended(&id("a"), EventEnd::Succeeded("1"));
    index.note_ended(&id("a"), EventEnd::Succeeded("1"));
    assert_eq!(
        index.tally(&id("root")),
        TaskTally {
            succeeded: 1,
            failed: 0,
            unfinished: 0,
            header: None
        }
    );
    index.note_received(id("b"), id("root"), None);
    index.set_header(&id("root"), &[id("a"), id("b"), id("c")]);
    assert_eq!(
        index.tally(&id("root")).header,
        Some((1, 3)),
        "one task ended before the header was known"
    );
    index.note_ended(&id("b"), EventEnd::Failed("no"));
    assert_eq!(index.tally(&id("root")).header, Some((2, 3)));
    index.close(&id("root"));
    assert_eq!(index.tally(&id("root")), TaskTally::default());
}

#[test]
fn ends_of_chunks_are_handed_out_once_and_of_a_flood_the_latest() {
    let mut index = TaskIndex::default();
    index.open(&id("root"), FailureLog::default());
    index.watch(&id("root"), &id("callback"));
    let mut end = |task: &str, end, seconds: Option<u64>| {
        index.note_received(id(task), id("root"), None);
        index.note_ended_after(&id(task), end, seconds.map(Duration::from_secs));
    };
    // Neither the dispatch task nor the callback is a chunk.
    end("root", EventEnd::Succeeded("None"), Some(1));
    end("callback", EventEnd::Succeeded("None"), Some(1));
    end("a", EventEnd::Succeeded("1"), Some(2));
    end("b", EventEnd::Failed("no"), None);
    end("c", EventEnd::Revoked("expired"), None);
    let ends = index.take_ends(&id("root"));
    let handed_out: Vec<_> = ends.iter().map(|end| (end.succeeded, end.runtime)).collect();
    let two = Some(Duration::from_secs(2));
    assert_eq!(handed_out, [(true, two), (false, None), (false, None)]);
    assert!(index.take_ends(&id("root")).is_empty(), "ends are handed out once");
    for number in 0..1000 {
        let task = TaskId::from(format!("flood-{number}"));
        index.note_received(task.clone(), id("root"), None);
        index.note_ended_after(&task, EventEnd::Succeeded("1"), Some(Duration::from_secs(number)));
    }
    let ends = index.take_ends(&id("root"));
    assert_eq!(ends.len(), MAX_RECENT_ENDS);
    assert_eq!(ends.back().and_then(|end| end.runtime), Some(Duration::from_secs(999)));
}
