//! Meaning of the result of a dispatch task, and of a chord's callback.
//!
//! Apps return a dict, or a text that holds a dict as Python prints it or as JSON. Not here: what happens next
//! ([`super::state_machine`]).

use serde_json::{Map, Value};

use super::python_literal;
use orch_base::text::large_integer;
use orch_celery::TaskId;
use orch_journal::{JobId, SiteCounts};

/// Job as the dispatch task described it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Id under which the app keeps the progress keys.
    pub job_id: Option<JobId>,
    /// Id of the chord's callback; the result of the callback is the end of the job.
    pub chord_id: Option<String>,
    /// `total_urls` and `total_chunks`, if the dispatch task returned them.
    pub counts: SiteCounts,
}

impl Job {
    /// Returns the chord's callback.
    pub fn callback(&self) -> Option<TaskId> {
        self.chord_id.as_deref().map(TaskId::from)
    }
}

/// Meaning of a dispatch task's result.
#[derive(Clone, Debug, PartialEq)]
pub enum DispatchAnswer {
    /// The job goes on in other tasks.
    Job(Job),
    /// There is nothing to do: `{job_id, total_urls: 0, status: "NO_URLS"}`, or no chunk at all.
    NothingToDo(Job),
    /// The task succeeded and reports a failure: `{job_id, error}`.
    Failed { job: Job, error: String },
    /// The task reports that all is done: `{status: "COMPLETE"}` without a chord.
    Complete(Job),
    /// Id of a task or of a group, as Celery's own results give it, with the counts that were understood.
    Id { id: String, counts: SiteCounts },
    /// A result without a known meaning, with the counts that were understood.
    Unknown(SiteCounts),
}

/// Keys in which an app may return the id of a task or group that was started.
const ID_KEYS: [&str; 3] = ["task_id", "group_id", "result_id"];

impl DispatchAnswer {
    /// Reads a result; every value has a meaning.
    pub fn read(result: &Value) -> Self {
        let Some(answer) = dict(result) else {
            let counts = SiteCounts::default();
            return match celery_id(result) {
                Some(id) => Self::Id { id, counts },
                None => Self::Unknown(counts),
            };
        };
        let job = Job {
            job_id: answer.get("job_id").and_then(id).map(JobId::new),
            chord_id: answer.get("chord_id").and_then(id),
            counts: outcome_counts(&answer),
        };
        let status = answer
            .get("status")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_ascii_uppercase();
        if let Some(error) = answer.get("error").and_then(error_text) {
            return Self::Failed { job, error };
        }
        if status == "FAILED" {
            let message = ["message", "reason"]
                .iter()
                .find_map(|key| answer.get(*key).and_then(error_text));
            return Self::Failed {
                job,
                error: message.unwrap_or_else(|| "its status is FAILED".to_owned()),
            };
        }
        let empty = job.counts.total_urls == Some(0) || job.counts.total_chunks == Some(0);
        match (&job.chord_id, &job.job_id) {
            (Some(_), _) => Self::Job(job),
            (None, _) if status == "NO_URLS" || empty => Self::NothingToDo(job),
            (None, _) if status == "COMPLETE" => Self::Complete(job),
            (None, Some(_)) => Self::Job(job),
            (None, None) => {
                let named = ID_KEYS.iter().find_map(|key| answer.get(*key).and_then(uuid));
                match named {
                    Some(id) => Self::Id { id, counts: job.counts },
                    None => Self::Unknown(job.counts),
                }
            }
        }
    }
}

/// Reads the counts in the result of a callback: `{saved, errors, total_processed, ...}`.
pub fn callback_counts(result: &Value) -> SiteCounts {
    dict(result).map(|result| outcome_counts(&result)).unwrap_or_default()
}

/// Returns the id in `result.id` or in `result.as_tuple()`, which is `[[id, parent], members]`.
fn celery_id(result: &Value) -> Option<String> {
    let id = match result {
        Value::Array(parts) => match parts.as_slice() {
            [Value::Array(head), Value::Null | Value::Array(_)] if head.len() == 2 => head.first()?,
            _ => return None,
        },
        other => other,
    };
    uuid(id)
}

/// Returns a text that is a UUID as Celery writes one.
fn uuid(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let is_uuid = text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
    is_uuid.then(|| text.to_owned())
}

fn outcome_counts(result: &Map<String, Value>) -> SiteCounts {
    let first = |keys: &[&str]| keys.iter().find_map(|key| result.get(*key).and_then(count));
    SiteCounts {
        total_urls: first(&["total_urls", "total_processed"]),
        total_chunks: first(&["total_chunks"]),
        completed_chunks: None,
        results: first(&["saved", "result_count"]),
        errors: first(&["errors", "error_count"]),
    }
}

/// Returns the dict of a result: the result itself, or a dict in the text of the result.
fn dict(result: &Value) -> Option<Map<String, Value>> {
    match result {
        Value::Object(entries) => Some(entries.clone()),
        Value::String(text) => match read_text(text)? {
            Value::Object(entries) => Some(entries),
            // `json.dumps` of a text that holds a dict already.
            Value::String(inner) => read_text(&inner)?.as_object().cloned(),
            _ => None,
        },
        _ => None,
    }
}

fn read_text(text: &str) -> Option<Value> {
    if text.len() > python_literal::MAX_LENGTH {
        return None;
    }
    large_integer::from_slice(text.as_bytes())
        .ok()
        .or_else(|| python_literal::parse(text))
}

fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        other => large_integer::digits(other).map(str::to_owned),
    }
}

/// Reads a count in any notation; a list counts as the number of items (`errors: [...]`).
fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => {
            let real = || {
                number
                    .as_f64()
                    .filter(|real| real.fract() == 0.0 && (0.0..9e15).contains(real))
            };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole and within 0..9e15"
            )]
            number.as_u64().or_else(|| real().map(|real| real as u64))
        }
        Value::String(text) => text.trim().parse().ok(),
        Value::Array(items) => u64::try_from(items.len()).ok(),
        _ => None,
    }
}

/// Returns the text of an error. Python code writes `None`, `""`, `False` and `[]` for "no error".
fn error_text(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Bool(false) => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => None,
        Value::Object(entries) if entries.is_empty() => None,
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const BODY: &str = "0f2d1a34-7a43-4b1c-9d0e-6f5a4b3c2d1e";

    fn job(job_id: Option<&str>, chord_id: Option<&str>, total_urls: Option<u64>, total_chunks: Option<u64>) -> Job {
        Job {
            job_id: job_id.map(JobId::from),
            chord_id: chord_id.map(str::to_owned),
            counts: SiteCounts {
                total_urls,
                total_chunks,
                ..SiteCounts::default()
            },
        }
    }

    #[test]
    fn answers_and_their_meaning() {
        use DispatchAnswer::*;
        let full = || job(Some("j"), Some("c"), Some(12), Some(3));
        for (result, meaning) in [
            (
                json!({"job_id": "j", "chord_id": "c", "total_urls": 12, "total_chunks": 3}),
                Job(full()),
            ),
            (
                json!("{'job_id': 'j', 'chord_id': 'c', 'total_urls': 12, 'total_chunks': 3, 'error': None}"),
                Job(full()),
            ),
            (
                json!(r#"{"job_id": "j", "chord_id": "c", "total_urls": 12, "total_chunks": 3}"#),
                Job(full()),
            ),
            (
                json!(r#""{'job_id': 'j', 'chord_id': 'c', 'total_urls': 12, 'total_chunks': 3}""#),
                Job(full()),
            ),
            (
                json!({"job_id": 7, "chord_id": "c", "total_urls": "12", "total_chunks": 3.0, "status": "DISPATCHED"}),
                Job(job(Some("7"), Some("c"), Some(12), Some(3))),
            ),
            (
                json!({"job_id": "j", "total_urls": 0, "status": "NO_URLS"}),
                NothingToDo(job(Some("j"), None, Some(0), None)),
            ),
            (
                json!({"job_id": "j", "status": "no_urls"}),
                NothingToDo(job(Some("j"), None, None, None)),
            ),
            (
                json!("{'job_id': 'j', 'total_urls': 0, 'status': 'NO_URLS'}"),
                NothingToDo(job(Some("j"), None, Some(0), None)),
            ),
            (
                json!({"total_chunks": 0, "chord_id": null}),
                NothingToDo(job(None, None, None, Some(0))),
            ),
            (
                json!({"job_id": "j", "error": "no route"}),
                Failed {
                    job: job(Some("j"), None, None, None),
                    error: "no route".into(),
                },
            ),
            (
                json!({"job_id": "j", "error": {"code": 4}}),
                Failed {
                    job: job(Some("j"), None, None, None),
                    error: r#"{"code":4}"#.into(),
                },
            ),
            (
                json!({"status": "FAILED", "message": "no"}),
                Failed {
                    job: job(None, None, None, None),
                    error: "no".into(),
                },
            ),
            (
                json!({"status": "failed"}),
                Failed {
                    job: job(None, None, None, None),
                    error: "its status is FAILED".into(),
                },
            ),
            (
                json!({"job_id": "j", "chord_id": "c", "error": ""}),
                Job(job(Some("j"), Some("c"), None, None)),
            ),
            (json!({"job_id": "j"}), Job(job(Some("j"), None, None, None))),
            (
                json!({"chord_id": "c", "total_urls": 0}),
                Job(job(None, Some("c"), Some(0), None)),
            ),
            (
                json!({"job_id": "j", "status": "COMPLETE"}),
                Complete(job(Some("j"), None, None, None)),
            ),
            (
                json!({"saved": 3, "errors": ["a", "b"]}),
                Unknown(SiteCounts {
                    results: Some(3),
                    errors: Some(2),
                    ..SiteCounts::default()
                }),
            ),
            (
                json!(BODY),
                Id {
                    id: BODY.to_owned(),
                    counts: SiteCounts::default(),
                },
            ),
            (
                json!([[BODY, [["5c4b6d57-3f5e-4c3d-8a0f-2a1d0d7f2b11", null], []]], null]),
                Id {
                    id: BODY.to_owned(),
                    counts: SiteCounts::default(),
                },
            ),
            (
                json!({"task_id": BODY, "total_urls": 5}),
                Id {
                    id: BODY.to_owned(),
                    counts: SiteCounts {
                        total_urls: Some(5),
                        ..SiteCounts::default()
                    },
                },
            ),
            (json!([BODY, BODY]), Unknown(SiteCounts::default())),
            (json!([[BODY], null]), Unknown(SiteCounts::default())),
            (json!({"task_id": "mine"}), Unknown(SiteCounts::default())),
            (json!(null), Unknown(SiteCounts::default())),
            (json!(5), Unknown(SiteCounts::default())),
            (json!("done"), Unknown(SiteCounts::default())),
            (json!("['a']"), Unknown(SiteCounts::default())),
            (json!([{"job_id": "j"}]), Unknown(SiteCounts::default())),
            (
                json!({"total_urls": -1, "total_chunks": 1.5}),
                Unknown(SiteCounts::default()),
            ),
        ] {
            assert_eq!(DispatchAnswer::read(&result), meaning, "{result}");
        }
    }

    #[test]
    fn callback_results_fill_counts() {
        for (result, results, errors, urls) in [
            (
                json!({"saved": 40, "errors": 2, "total_processed": 42}),
                Some(40),
                Some(2),
                Some(42),
            ),
            (json!("{'saved': 40, 'errors': []}"), Some(40), Some(0), None),
            (
                json!({"result_count": 4, "error_count": 0, "total_urls": 9}),
                Some(4),
                Some(0),
                Some(9),
            ),
            (json!(null), None, None, None),
        ] {
            let counts = SiteCounts {
                results,
                errors,
                total_urls: urls,
                ..SiteCounts::default()
            };
            assert_eq!(callback_counts(&result), counts, "{result}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[{}'\"a-z_:, 0-9]{0,60}") {
            DispatchAnswer::read(&Value::String(text));
        }
    }
}
