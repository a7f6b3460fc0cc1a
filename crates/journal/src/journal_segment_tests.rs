//! Tests of segments through the recorder, the readers, and a crash after each step.

use super::*;
use crate::event::{EventKind, JOURNAL_FORMAT};
use crate::event_values::{NoticeLevel, PlannedService, RunCommand};
use crate::facts::run_start::RunStart;
use crate::ids::{RunId, ServiceName};
use crate::journal_file::{is_being_written, read_journal};
use crate::journal_head;
use crate::journal_tail::JournalTail;
use crate::recorder::Recorder;
use crate::state::model::RunState;

fn started(command: RunCommand) -> EventKind {
    let service = PlannedService {
        name: ServiceName::new("web"),
        oneshot: false,
    };
    EventKind::RunStarted(RunStart {
        format: JOURNAL_FORMAT,
        run_id: RunId::new("abc"),
        command,
        version: String::new(),
        instance: String::new(),
        config: "orch.toml".into(),
        directory: "d".into(),
        pid: 1,
        guard_pid: 2,
        services: vec![service],
        sites: Vec::new(),
        resumes: None,
    })
}

/// Emits events of about this many bytes: restarts of a service, with long reasons.
fn fill(recorder: &Recorder, bytes: u64) {
    for attempt in 0..(bytes / 8192) as u32 {
        recorder.emit(EventKind::ServiceRestarting {
            service: ServiceName::new("web"),
            attempt,
            backoff_ms: 1,
            reason: "x".repeat(8100),
        });
        if attempt % 10 == 0 {
            let (level, message) = (NoticeLevel::Warning, "y".to_owned());
            recorder.emit(EventKind::Noticed { level, message });
        }
    }
}

fn folded(journal: &Path) -> RunState {
    let read = read_journal(journal).expect("readable");
    assert!(!read.torn && read.unknown == 0);
    let mut state = RunState::default();
    read.events.iter().for_each(|event| state.apply(event));
    state
}

#[test]
fn the_journal_of_an_up_has_two_segments_at_most_and_adds_up_to_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.jsonl");
    let recorder = Recorder::create(&journal).unwrap();
    recorder.emit(started(RunCommand::Up));
    let mut tail = JournalTail::open(&journal).unwrap();
    let mut slow = JournalTail::open(&journal).unwrap();
    let (mut followed, mut events) = (RunState::default(), 0);
    for _ in 0..6 {
        fill(&recorder, SEGMENT_SIZE / 2);
        while let Some(event) = tail.next_event().unwrap() {
            events += 1;
            assert_eq!(event.seq, events, "each event once");
            followed.apply(&event);
        }
        let state = recorder.with_state(RunState::clone);
        assert_eq!(folded(&journal), state);
        assert_eq!(followed, state);
        assert!(is_being_written(&journal));
    }
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&journal) < SEGMENT_SIZE + 20_000);
    assert!(size(&earlier_segment(&journal)) < SEGMENT_SIZE + 20_000);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    // A reader that has slept through a segment continues from a snapshot.
    let mut late = RunState::default();
    while let Some(event) = slow.next_event().unwrap() {
        late.apply(&event);
    }
    assert_eq!(late, followed);
    let head = journal_head::JournalHead::read(&journal).expect("the start of the run");
    assert_eq!((head.run_id, head.command), (RunId::new("abc"), RunCommand::Up));
    drop(recorder);
    assert!(!is_being_written(&journal));
}

#[test]
fn the_journal_of_a_night_has_all_events() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.jsonl");
    let recorder = Recorder::create(&journal).unwrap();
    recorder.emit(started(RunCommand::Run));
    fill(&recorder, SEGMENT_SIZE * 2);
    assert!(!earlier_segment(&journal).exists());
    assert_eq!(
        read_journal(&journal).unwrap().events.len() as u64,
        folded(&journal).seq
    );
}

#[test]
fn a_crash_after_each_step_leaves_a_usable_journal() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.jsonl");
    let recorder = Recorder::create(&journal).unwrap();
    recorder.emit(started(RunCommand::Up));
    fill(&recorder, 100_000);
    let state = recorder.with_state(RunState::clone);
    drop(recorder);
    fs::write(earlier_segment(&journal), "older\n").unwrap();
    let fresh = with_suffix(&journal, ".new");
    let snapshot = "{\"seq\":9,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}";
    // A torn head of a segment, from an earlier crash.
    fs::write(&fresh, "{\"seq\":1,").unwrap();
    assert_eq!(folded(&journal), state);
    write_head(&journal, &fresh, snapshot).unwrap();
    assert_eq!(folded(&journal), state);
    remove_if_there(&earlier_segment(&journal)).unwrap();
    assert_eq!(folded(&journal), state);
    keep_segment(&journal).unwrap();
    assert_eq!(
        (folded(&journal), folded(&earlier_segment(&journal))),
        (state.clone(), state.clone())
    );
    fs::rename(&fresh, &journal).unwrap();
    assert_eq!(folded(&journal).seq, 9);
    assert_eq!(folded(&earlier_segment(&journal)), state);
}

#[test]
fn a_failed_change_leaves_the_journal_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.jsonl");
    let recorder = Recorder::create(&journal).unwrap();
    recorder.emit(started(RunCommand::Up));
    // The name of the next segment is taken by a directory.
    fs::create_dir(with_suffix(&journal, ".new")).unwrap();
    fill(&recorder, SEGMENT_SIZE * 3);
    assert!(!earlier_segment(&journal).exists());
    assert_eq!(folded(&journal), recorder.with_state(RunState::clone));
    fs::remove_dir(with_suffix(&journal, ".new")).unwrap();
    fill(&recorder, SEGMENT_SIZE * 2);
    assert!(earlier_segment(&journal).exists());
    assert_eq!(folded(&journal), recorder.with_state(RunState::clone));
}
