//! Ends of the dispatch task and of the callback, by their results and by their events.

use std::sync::Arc;

use serde_json::Value;

use super::job_follower::JobFollower;
use super::pending::PendingOperation;
use crate::jobs::event_end::{EventEnd, MAX_END_CHARS};
use crate::jobs::follow_request::JobUpdate;
use crate::jobs::inputs::{JobInput, ListedTasks, TaskEnd};
use crate::jobs::inventory::JobRemains;
use crate::jobs::progress::ProgressReading;
use crate::jobs::remains;
use orch_base::text::printable::shortened;
use orch_celery::{ResultStore, TaskChildren, TaskId, TaskResult, TaskState};

/// Last readings of a job of which nothing is left.
pub(super) struct FinalState {
    pub dispatch: Option<TaskResult>,
    pub callback: Option<TaskResult>,
    pub reading: ProgressReading,
    pub remains: JobRemains,
}

impl<'a> JobFollower<'a> {
    pub(super) fn take_result(
        &mut self,
        result: orch_celery::Result<TaskResult>,
        dispatch: bool,
        report: &mut (dyn FnMut(JobUpdate) + Send),
    ) {
        let input = match result {
            Err(error) => {
                self.are_results_unreadable = true;
                self.apply(JobInput::ResultsUnreadable(error.to_string()), report);
                return self.apply_unrecorded_ends(report);
            }
            Ok(result) => {
                let Some(end) = end_of(result.state) else { return };
                if dispatch {
                    let group = result.children.groups.first();
                    self.group = group.map(|group| group.id.clone());
                    let listed = Arc::new(listed(&result.children));
                    if let Some(header) = listed.header() {
                        self.subscription.set_header(header);
                    }
                    self.listed = Some(Arc::clone(&listed));
                    JobInput::DispatchEnded { end, listed }
                } else {
                    JobInput::CallbackEnded(end)
                }
            }
        };
        self.apply(input, report);
    }

    /// Applies the ends that events have reported, if results cannot be read.
    pub(super) fn apply_unrecorded_ends(&mut self, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        if !self.are_results_unreadable {
            return;
        }
        if let Some(end) = self.subscription.end_of(&self.request.dispatch) {
            self.apply(JobInput::DispatchEndedUnrecorded(end_from_event(end)), report);
        }
        if let Some(callback) = self.machine.job().callback() {
            self.subscription.watch(&callback);
            if let Some(end) = self.subscription.end_of(&callback) {
                self.apply(JobInput::CallbackEndedUnrecorded(end_from_event(end)), report);
            }
        }
    }

    /// Reads everything that could name the end, without relying on subscriptions; with `with_remains` also all tasks
    /// of the job.
    pub(super) fn read_final_state(&self, with_remains: bool) -> PendingOperation<'a, orch_celery::Result<FinalState>> {
        let reading = self.read_progress();
        let client = &self.context.celery;
        let results = client.results();
        let dispatch = self.dispatch.is_some().then(|| self.request.dispatch.clone());
        let callback = self.callback.as_ref().map(|watch| watch.id().clone());
        let (subscription, listed) = (Arc::clone(&self.subscription), self.listed.clone());
        Box::pin(async move {
            let dispatch = final_result(&results, dispatch).await?;
            let callback = final_result(&results, callback).await?;
            let remains = if with_remains {
                remains::read(client, &subscription, listed.as_deref()).await?
            } else {
                JobRemains::default()
            };
            let reading = match reading.await {
                // For example a key of another type: such a key can never be read, and the job ends without the keys.
                Err(error) if !error.is_transient() => {
                    tracing::warn!(%error, "could not read the progress keys");
                    ProgressReading::default()
                }
                reading => reading?,
            };
            Ok(FinalState {
                dispatch,
                callback,
                reading,
                remains,
            })
        })
    }

    /// Applies the ends of tasks: the results have had time to arrive after the event of the end.
    pub(super) fn apply_final_results(&mut self, last: FinalState, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        if let Some(result) = last.dispatch.filter(|_| self.dispatch.is_some()) {
            self.take_result(Ok(result), true, report);
        } else if self.dispatch.is_some()
            && let Some(end) = self.subscription.end_of(&self.request.dispatch)
        {
            self.dispatch = None;
            self.apply(JobInput::DispatchEndedUnrecorded(end_from_event(end)), report);
        }
        if let Some(result) = last.callback.filter(|_| self.callback.is_some()) {
            self.take_result(Ok(result), false, report);
        } else if self.callback.is_some()
            && let Some(chord_id) = self.machine.job().chord_id.clone()
            && let Some(end) = self.subscription.end_of(&TaskId::from(chord_id))
        {
            self.callback = None;
            self.apply(JobInput::CallbackEndedUnrecorded(end_from_event(end)), report);
        }
    }
}

fn end_of(state: TaskState) -> Option<TaskEnd> {
    match state {
        TaskState::Success(result) => Some(TaskEnd::Succeeded(result)),
        TaskState::Failure(failure) => Some(TaskEnd::Failed(shortened(&failure.to_string(), MAX_END_CHARS))),
        TaskState::Revoked(failure) => Some(TaskEnd::Revoked(shortened(&failure.to_string(), MAX_END_CHARS))),
        TaskState::Started { .. } | TaskState::Retry(_) | TaskState::Custom { .. } => None,
    }
}

fn listed(children: &TaskChildren) -> ListedTasks {
    let groups = children.groups.iter();
    ListedTasks {
        groups: groups.clone().map(|group| group.id.as_str().to_owned()).collect(),
        members: groups.flat_map(|group| group.tasks.iter().cloned()).collect(),
        tasks: children.tasks.iter().chain(&children.upstream_tasks).cloned().collect(),
    }
}

fn end_from_event(end: EventEnd) -> TaskEnd {
    match end {
        EventEnd::Succeeded(printed) => TaskEnd::Succeeded(Value::String(printed)),
        EventEnd::Failed(exception) => TaskEnd::Failed(exception),
        EventEnd::Revoked(message) => TaskEnd::Revoked(message),
        EventEnd::Rejected => TaskEnd::Failed("rejected".to_owned()),
    }
}

async fn final_result(results: &ResultStore, task: Option<TaskId>) -> orch_celery::Result<Option<TaskResult>> {
    let Some(task) = task else { return Ok(None) };
    Ok(results.get(&task).await?.filter(|result| result.state.is_final()))
}
