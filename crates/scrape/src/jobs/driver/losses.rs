//! Losses in the header of the job's chord: the signs of them, the searches, and the inputs that follow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job_follower::{JobFollower, UNSURE_RETRY_DELAY};
use super::pending::PendingOperation;
use crate::jobs::follow_request::JobUpdate;
use crate::jobs::inputs::JobInput;
use crate::jobs::monitor::loss_search::LossSearch;
use crate::jobs::outcome::HeaderLoss;
use orch_celery::TaskId;

/// Longest time by which a search for lost chunks that could not look everywhere is put off.
const MAX_LOSS_SEARCH_DELAY: Duration = Duration::from_secs(30);

impl<'a> JobFollower<'a> {
    /// Evaluates the signs of losses that the events of the header's tasks give.
    pub(super) fn check_loss_signs(&mut self, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        let signs = self.subscription.loss_signs();
        if signs == self.loss_signs || !self.has_named_header() {
            return;
        }
        if signs.gaps != self.loss_signs.gaps || signs.rejected > self.loss_signs.rejected {
            self.loss_search_at = Some(Instant::now());
        }
        self.loss_signs = signs;
        // For a header that has ended Celery itself stores the failure.
        let is_over = |(ended, size): (u64, u64)| ended == size;
        if signs.failed > 0 && !self.subscription.tally().header.is_some_and(is_over) {
            self.apply_losses(&[], report);
        }
    }

    /// Searches for lost tasks of the header if the callback is named.
    pub(super) fn search_losses(&mut self) -> Option<PendingOperation<'a, LossSearch>> {
        let group = self.group.clone().filter(|_| self.has_named_header())?;
        self.loss_search_at = None;
        let subscription = Arc::clone(&self.subscription);
        Some(Box::pin(async move { subscription.losses(&group).await }))
    }

    pub(super) fn take_losses(&mut self, found: LossSearch, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        match found {
            LossSearch::Found(lost) => {
                self.loss_search_delay = UNSURE_RETRY_DELAY;
                self.apply_losses(&lost, report);
            }
            LossSearch::Unsure(reason) => {
                tracing::debug!(reason, root = %self.request.root, "could not find out whether chunks are lost");
                self.loss_search_at = Some(Instant::now() + self.loss_search_delay);
                self.loss_search_delay = (self.loss_search_delay * 2).min(MAX_LOSS_SEARCH_DELAY);
            }
        }
    }

    /// Applies losses of the header if they are new: each further lost task, and the first failed task.
    fn apply_losses(&mut self, found: &[TaskId], report: &mut (dyn FnMut(JobUpdate) + Send)) {
        let failed = self.subscription.failed_chunks();
        let new: Vec<&TaskId> = found.iter().filter(|task| !self.loss.lost.contains(task)).collect();
        let is_first_failure = failed.count > 0 && self.loss.failed == 0;
        if new.is_empty() && !is_first_failure {
            return;
        }
        let mut lost = self.loss.lost.clone();
        lost.extend(new.into_iter().cloned());
        lost.sort();
        self.loss = HeaderLoss {
            lost,
            failed: failed.count,
            first_failure: failed.first,
            size: u64::try_from(self.header().len()).unwrap_or(u64::MAX),
        };
        let until = self.request.ends_at_loss_until;
        let is_loss = self.request.ends_at_failure || !self.loss.lost.is_empty();
        let ends_job = is_loss && until.is_some_and(|until| Instant::now() < until);
        let loss = self.loss.clone();
        self.apply(JobInput::HeaderLost { loss, ends_job }, report);
    }
}
