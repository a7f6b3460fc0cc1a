//! A request that the run has received and not answered yet.
//!
//! Each method that answers consumes the value, and a dropped value is answered as refused: every request has exactly
//! one answer, whatever becomes of the code that holds it.

use crate::event::EventKind;
use crate::facts::request::{RequestAnswer, RequestReceipt, RequestResult};
use crate::ids::RequestId;
use crate::recorder::Recorder;

/// Reason for the answer to a request that the run can no longer handle.
const RUN_ENDS: &str = "the run is being stopped";

/// Received request without an answer.
#[must_use]
pub struct PendingRequest {
    recorder: Recorder,
    /// `None` after the answer.
    id: Option<RequestId>,
}

impl PendingRequest {
    /// Records the receipt of a request.
    pub fn receive(recorder: &Recorder, receipt: RequestReceipt) -> Self {
        let id = Some(receipt.id.clone());
        recorder.emit(EventKind::RequestReceived(receipt));
        Self {
            recorder: recorder.clone(),
            id,
        }
    }

    /// Answers that the run does as asked.
    pub fn done(self, detail: impl Into<String>) {
        self.answer(RequestResult::Done, detail);
    }

    /// Answers that there is nothing to do, for this reason.
    pub fn nothing_to_do(self, reason: impl Into<String>) {
        self.answer(RequestResult::NothingToDo, reason);
    }

    /// Answers that the run does not do as asked, for this reason.
    pub fn refuse(self, reason: impl Into<String>) {
        self.answer(RequestResult::Refused, reason);
    }

    /// Answers with this result.
    pub fn answer(mut self, result: RequestResult, detail: impl Into<String>) {
        self.give(result, detail.into());
    }

    fn give(&mut self, result: RequestResult, detail: String) {
        if let Some(id) = self.id.take() {
            self.recorder.emit(EventKind::RequestAnswered(RequestAnswer {
                id: Some(id),
                result,
                detail,
            }));
        }
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.give(RequestResult::Refused, RUN_ENDS.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::request::{RequestSender, RequestVerb};
    use crate::journal_file::read_journal;

    #[test]
    fn each_request_has_one_answer_also_if_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal.jsonl");
        let recorder = Recorder::create(&journal).unwrap();
        let request = |id: &str| {
            let receipt = RequestReceipt {
                id: id.into(),
                by: RequestSender {
                    pid: 1,
                    user: "u".to_owned(),
                },
                verb: RequestVerb::Stop { service: "web".into() },
            };
            PendingRequest::receive(&recorder, receipt)
        };
        request("done").done("web is being stopped");
        request("nothing").nothing_to_do("web is stopped");
        request("refused").refuse("no");
        drop(request("dropped"));
        let events = read_journal(&journal).unwrap().events;
        let answers: Vec<(String, RequestResult)> = events
            .into_iter()
            .filter_map(|event| match event.kind {
                EventKind::RequestAnswered(answer) => Some((answer.id?.to_string(), answer.result)),
                _ => None,
            })
            .collect();
        let expected = [
            ("done", RequestResult::Done),
            ("nothing", RequestResult::NothingToDo),
            ("refused", RequestResult::Refused),
            ("dropped", RequestResult::Refused),
        ];
        assert_eq!(answers, expected.map(|(id, result)| (id.to_owned(), result)));
    }
}
