//! Searches for the job when no event has come for a while, and the inventory of a job of which nothing is left.

use std::sync::Arc;
use std::time::Instant;

use super::job_follower::{JobFollower, UNSURE_RETRY_DELAY};
use super::pending::PendingOperation;
use super::task_ends::FinalState;
use crate::jobs::follow_request::JobUpdate;
use crate::jobs::inputs::JobInput;
use crate::jobs::inventory::{JobInventory, JobRemains};
use crate::jobs::monitor::remaining_work::RemainingWork;

impl<'a> JobFollower<'a> {
    /// Searches for the job. Returns `Some` if nothing of the job is left, with the state that was read after that was
    /// found.
    pub(super) fn search(&self) -> PendingOperation<'a, Result<Option<FinalState>, RemainingWork>> {
        let subscription = Arc::clone(&self.subscription);
        let known = self.known_tasks();
        let final_state = self.read_final_state(true);
        Box::pin(async move {
            match subscription.remaining_work(&known).await {
                RemainingWork::Something => Ok(None),
                RemainingWork::Nothing => final_state
                    .await
                    .map(Some)
                    .map_err(|error| RemainingWork::Unsure(error.to_string())),
                left @ (RemainingWork::Unsure(_) | RemainingWork::Unconsumed(_)) => Err(left),
            }
        })
    }

    pub(super) fn take_search(
        &mut self,
        found: Result<Option<FinalState>, RemainingWork>,
        report: &mut (dyn FnMut(JobUpdate) + Send),
    ) {
        self.has_unsearched_death = false;
        self.search_at = self.next_search(Instant::now());
        match found {
            Err(RemainingWork::Unconsumed(reason)) => self.apply(JobInput::Unconsumed(reason), report),
            Err(left) => {
                tracing::debug!(?left, root = %self.request.root, "could not find out whether work of the job remains");
                self.search_at = Instant::now() + UNSURE_RETRY_DELAY;
            }
            Ok(None) => {}
            Ok(Some(mut last)) => {
                let before = self.machine.stage().clone();
                let reading = std::mem::take(&mut last.reading);
                let remains = std::mem::take(&mut last.remains);
                self.apply_final_results(last, report);
                self.take_reading(reading, report);
                self.check_file(report);
                // Facts that were learnt just now come first.
                if *self.machine.stage() == before {
                    let worker_died = *self.context.worker_exits.borrow() != self.worker_exits;
                    let found = JobInventory::of(JobRemains {
                        dispatch: vec![self.request.root.clone(), self.request.dispatch.clone()],
                        callback: self.machine.named_callback(),
                        worker_died,
                        ..remains
                    });
                    self.apply(JobInput::NothingLeft(found), report);
                }
            }
        }
    }
}
