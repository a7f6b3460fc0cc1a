//! Test of the outcome against a model of Celery that knows the truth: random canvases with random faults, the traces
//! that they leave in Redis and in events, and the verdict that orch gives on these traces.
//!
//! The property: never complete if a task failed, was lost, was not run or was counted twice, unless the app's callback
//! ran or the app says so; never failed if all tasks succeeded. `ORCH_MODEL_CASES` sets the number of cases,
//! `ORCH_MODEL_SEED` the first seed; a failure prints the seed of its case.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::celery_model::{CeleryModel, EventVisibility, ResultStorage};
use super::inputs::{JobFailure, JobInput, ListedTasks, TaskEnd};
use super::inventory::{EventTasks, JobInventory, JobRemains};
use super::model_canvas::{Canvas, canvas, planned};
use super::outcome::HeaderCheck;
use super::progress_keys::{KeysStatus, ProgressKeyValues};
use super::state_machine::{FollowRules, JobStage, JobStateMachine};
use orch_celery::{GroupId, TaskDescendants, TaskId};
use orch_config::DynamicTimeout;
use orch_journal::{JobId, SiteCounts};

/// Form of the result that the dispatch task returns.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ResultForm {
    None,
    Number,
    JobId,
    JobAndCallback,
    CallbackId,
    CallbackTuple,
    HeaderAsChord,
    FirstTask,
    ListOfIds,
    SaysComplete,
    ForeignId,
}

/// Progress keys that the app writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum AppKeys {
    None,
    /// A status that the app's callback changes to COMPLETE.
    Status,
    /// Only a counter of chunks.
    Counters,
}

/// Runs one job in the model and compares orch's verdict with the truth.
fn case(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let trouble = [0, 0, 5, 15, 40][random.usize(..5)];
    let pick_stored = [
        ResultStorage::All,
        ResultStorage::All,
        ResultStorage::All,
        ResultStorage::Nothing,
        ResultStorage::Unreadable,
    ];
    let stored = pick_stored[random.usize(..5)];
    // Without results and events nothing can be known; orch switches events on.
    let seen = [
        EventVisibility::All,
        EventVisibility::All,
        EventVisibility::All,
        EventVisibility::Some,
        EventVisibility::Nothing,
    ][random.usize(..5)];
    let app_keys = [AppKeys::None, AppKeys::None, AppKeys::Status, AppKeys::Counters][random.usize(..4)];
    let shape = [
        ResultForm::None,
        ResultForm::Number,
        ResultForm::JobId,
        ResultForm::JobAndCallback,
        ResultForm::JobAndCallback,
        ResultForm::CallbackId,
        ResultForm::CallbackTuple,
        ResultForm::HeaderAsChord,
        ResultForm::FirstTask,
        ResultForm::ListOfIds,
        ResultForm::SaysComplete,
        ResultForm::ForeignId,
    ][random.usize(..12)];
    let picked_up = random.u8(..8) == 0;
    let count = random.usize(..3);
    let canvases: Vec<Canvas> = (0..count).map(|_| canvas(&mut random, trouble, 2)).collect();
    let mut celery = CeleryModel {
        random,
        next_id: 0,
        stored,
        seen,
        tasks: BTreeMap::new(),
        groups: vec![],
        open_chords: vec![],
        events: EventTasks::default(),
        seen_waiting: vec![],
        worker_died: false,
        results: HashMap::new(),
        missing: HashMap::new(),
        has_failure: false,
        succeeded: 0,
        log: String::new(),
    };
    let root = celery.id();
    // A dispatch task that dies half-way has published a part of its canvases.
    let dispatch_dies = trouble > 0 && celery.random.u8(..10) == 0;
    let part = if dispatch_dies { count / 2 } else { count };
    let mut listed = ListedTasks::default();
    let mut last = None;
    for canvas in &canvases[..part] {
        let started = celery.start(canvas);
        listed.groups.extend(started.listed.groups.iter().cloned());
        listed.members.extend(started.listed.members.iter().cloned());
        listed.tasks.extend(started.listed.tasks.iter().cloned());
        last = Some(started);
    }
    celery.list(&listed);

    let callback = last.as_ref().map(|started| started.id.clone()).unwrap_or_default();
    let first = listed
        .members
        .first()
        .or(listed.tasks.first())
        .map(|id| id.as_str().to_owned());
    let answer = match shape {
        ResultForm::None => Value::Null,
        ResultForm::Number => json!(7),
        ResultForm::JobId => json!({"job_id": "j"}),
        _ if count == 0 => json!({"job_id": "j", "total_urls": 0, "status": "NO_URLS"}),
        ResultForm::JobAndCallback => json!({"job_id": "j", "chord_id": callback}),
        ResultForm::CallbackId => json!(callback),
        ResultForm::CallbackTuple => json!([[callback, null], null]),
        ResultForm::HeaderAsChord => json!({"job_id": "j", "chord_id": listed.groups.first()}),
        ResultForm::FirstTask => json!(first),
        ResultForm::ListOfIds => json!([first, callback]),
        ResultForm::SaysComplete => json!({"status": "COMPLETE"}),
        ResultForm::ForeignId => json!("99999999-0000-4000-8000-000000000000"),
    };
    let named = TaskId::from(callback.as_str());
    // A plain id is as good as a named one if the chord is all that the dispatch task started.
    let is_only = listed.groups.len() == 1 && listed.tasks.is_empty();
    let names_callback = count > 0
        && !listed.names_group(&callback)
        && match shape {
            ResultForm::JobAndCallback => true,
            ResultForm::CallbackId | ResultForm::CallbackTuple => is_only,
            _ => false,
        };
    let callback_ran = matches!(celery.results.get(&named), Some(TaskEnd::Succeeded(_)));
    // The app's statement holds: its named callback ran, and received all results of its header.
    let is_complete = stored != ResultStorage::All || !celery.missing.contains_key(&named);
    let is_handled = names_callback && callback_ran && is_complete;
    // If no result is stored the header is not known, and a member that is counted twice leaves no trace.
    let is_counted_twice = names_callback && stored == ResultStorage::All && celery.missing.contains_key(&named);
    let truth_all_ok = !celery.has_failure && !dispatch_dies && !is_counted_twice;
    let says_complete = (app_keys == AppKeys::Status && callback_ran && !celery.missing.contains_key(&named))
        // The children are not known: nothing but the app's statement is evidence.
        || (stored != ResultStorage::All && !dispatch_dies && (shape == ResultForm::SaysComplete || answer.get("status").is_some()));
    let status_says_complete = app_keys == AppKeys::Status && callback_ran && !celery.missing.contains_key(&named);

    let verdict = verdict_of(
        &mut celery,
        ModelJob {
            root,
            answer,
            listed,
            app_keys,
            picked_up,
            dispatch_dies,
            says_complete: status_says_complete,
            planned: canvases.iter().map(planned).sum(),
        },
    );
    let case_text = || {
        format!(
            "seed {seed}: {verdict:?}\n  shape {shape:?}, stored {stored:?}, events {seen:?}, keys {app_keys:?}, picked up {picked_up}, dispatch dies {dispatch_dies}\n  \
             truth: all ok {truth_all_ok}, handled {is_handled}, app says complete {says_complete}\n  tasks:{}\n  {canvases:?}",
            celery.log
        )
    };
    match &verdict {
        None => Err(format!("no verdict: {}", case_text())),
        Some(Ok(())) if !(truth_all_ok || is_handled || says_complete) => {
            Err(format!("false COMPLETE: {}", case_text()))
        }
        Some(Err(JobFailure::Reported(_) | JobFailure::Lost(_))) if truth_all_ok => {
            Err(format!("false FAILED: {}", case_text()))
        }
        Some(Err(JobFailure::Unknown(_)))
            if truth_all_ok
                && stored == ResultStorage::All
                && seen == EventVisibility::All
                && !picked_up
                && !celery.worker_died
                && app_keys == AppKeys::None =>
        {
            Err(format!("UNKNOWN where everything was seen: {}", case_text()))
        }
        Some(_) => Ok(()),
    }
}

struct ModelJob {
    root: TaskId,
    answer: Value,
    listed: ListedTasks,
    app_keys: AppKeys,
    picked_up: bool,
    dispatch_dies: bool,
    says_complete: bool,
    /// Number of tasks that the app counts as its chunks.
    planned: u64,
}

/// Passes all traces of the model to the state machine, in the order in which orch learns of them. Returns the verdict.
fn verdict_of(celery: &mut CeleryModel, job: ModelJob) -> Option<Result<(), JobFailure>> {
    let now = Instant::now();
    let rules = FollowRules {
        pool_file: false,
        picked_up: job.picked_up,
        own_job_id: (job.app_keys != AppKeys::None).then(|| JobId::from("own")),
        pace: DynamicTimeout {
            time_per_chunk: Duration::from_secs(60),
            buffer: 1.5,
            timeout_min: Duration::from_secs(300),
            timeout_default: Duration::from_secs(1800),
        },
        deadline: now + Duration::from_secs(7200),
        auto_timeout: None,
    };
    let mut following = JobStateMachine::begin(rules, 8);
    let see = |following: &mut JobStateMachine, input: JobInput| {
        *following = following.clone().step(input, now).0;
    };
    if celery.stored == ResultStorage::Unreadable {
        see(
            &mut following,
            JobInput::ResultsUnreadable("the result is not JSON".to_owned()),
        );
    }
    let dispatch_is_seen =
        celery.seen != EventVisibility::Nothing && !(celery.seen == EventVisibility::Some && celery.random.bool());
    let is_recorded = celery.stored == ResultStorage::All && !job.dispatch_dies;
    if job.dispatch_dies {
        celery.worker_died = true;
    } else if is_recorded {
        let input = JobInput::DispatchEnded {
            end: TaskEnd::Succeeded(job.answer.clone()),
            listed: job.listed.clone().into(),
        };
        see(&mut following, input);
    } else if dispatch_is_seen {
        let printed = match &job.answer {
            Value::Object(entries) => {
                let entry = |(key, value): (&String, &Value)| format!("'{key}': {}", python(value));
                Value::String(format!(
                    "{{{}}}",
                    entries.iter().map(entry).collect::<Vec<_>>().join(", ")
                ))
            }
            other => Value::String(python(other)),
        };
        see(
            &mut following,
            JobInput::DispatchEndedUnrecorded(TaskEnd::Succeeded(printed)),
        );
    }
    // End of the callback, by its result or by its event.
    if let Some(callback) = following.job().callback()
        && let Some(end) = celery.results.get(&callback).cloned()
    {
        let by_event = celery.events.ended.contains_key(&callback);
        if celery.stored == ResultStorage::All {
            see(&mut following, JobInput::CallbackEnded(end));
        } else if by_event {
            see(&mut following, JobInput::CallbackEndedUnrecorded(end));
        }
        if following.wants_header_check() {
            let check = match celery.missing.get(&callback) {
                Some(missing) => HeaderCheck::Missing(missing.clone()),
                None => HeaderCheck::Passed,
            };
            see(&mut following, JobInput::HeaderChecked(check));
        }
    }
    let total = SiteCounts {
        total_chunks: Some(job.planned),
        completed_chunks: Some(celery.succeeded),
        ..SiteCounts::default()
    };
    let keys = match job.app_keys {
        AppKeys::None => None,
        AppKeys::Status => Some(ProgressKeyValues {
            status: Some(if job.says_complete {
                KeysStatus::Complete
            } else {
                KeysStatus::Running("PROCESSING".to_owned())
            }),
            counts: SiteCounts::default(),
        }),
        AppKeys::Counters => Some(ProgressKeyValues {
            status: None,
            counts: total,
        }),
    };
    for _ in 0..3 {
        if let JobStage::Ended(end) = following.stage() {
            return Some(end.clone());
        }
        see(&mut following, JobInput::KeysRead(keys.clone()));
        let mut seen_groups: HashSet<GroupId> = celery.groups.iter().cloned().collect();
        if is_recorded {
            seen_groups.extend(job.listed.groups.iter().map(|group| GroupId::from(group.as_str())));
        }
        let stored = TaskDescendants {
            // Only tasks that a list of children or an event names are looked up.
            tasks: celery.tasks.clone(),
            groups: seen_groups.into_iter().collect(),
            first_failure: None,
            incomplete_reason: (celery.stored == ResultStorage::Unreadable)
                .then(|| "results cannot be read".to_owned()),
        };
        let open_chords = if celery.stored == ResultStorage::All {
            celery.open_chords.clone()
        } else {
            vec![]
        };
        let found = JobInventory::of(JobRemains {
            dispatch: vec![job.root.clone()],
            callback: following.named_callback(),
            is_recorded,
            events: EventTasks {
                is_incomplete: celery.seen == EventVisibility::Some || job.picked_up,
                has_no_event: celery.seen == EventVisibility::Nothing
                    || (celery.events.ended.is_empty() && celery.events.unfinished.is_empty() && !dispatch_is_seen),
                seen_waiting: celery.seen_waiting.clone(),
                ..celery.events.clone()
            },
            stored,
            open_chords,
            worker_died: celery.worker_died,
        });
        see(&mut following, JobInput::NothingLeft(found));
    }
    match following.stage() {
        JobStage::Ended(end) => Some(end.clone()),
        _ => None,
    }
}

/// Prints a value as Python does.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => format!("[{}]", items.iter().map(python).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[test]
fn the_verdict_agrees_with_the_truth() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let cases = number("ORCH_MODEL_CASES").unwrap_or(20_000);
    let first = number("ORCH_MODEL_SEED").unwrap_or(1);
    let mut wrong = Vec::new();
    for seed in first..first.saturating_add(cases) {
        if let Err(reason) = case(seed) {
            wrong.push(reason);
        }
    }
    let count = wrong.len();
    let case_text = wrong.into_iter().take(5).collect::<Vec<_>>().join("\n\n");
    assert!(count == 0, "{count} of {cases} verdicts are wrong:\n{case_text}");
    println!("{cases} canvases from seed {first}: every verdict agrees with the truth");
}
