//! After events were lost: ends that nobody told are read from the stored results.

use std::time::Instant;

use super::tracker::JobTracker;
use crate::celery::{Client, Result};

impl Client {
    /// Settles the tasks of all jobs whose end is stored and was not seen; how many. Tasks that store no result stay open
    /// until the tracker gives them up.
    ///
    /// # Errors
    /// The result backend does not answer within the deadline; what was settled before stays so.
    pub async fn reconcile(&self, tracker: &mut JobTracker) -> Result<u64> {
        let open = tracker.all_open_tasks();
        let outcomes = self.results().outcomes(&open).await?;
        let now = Instant::now();
        let mut settled = 0;
        for (id, outcome) in open.iter().zip(outcomes) {
            if let Some(outcome) = outcome {
                tracker.settle(id, outcome, now);
                settled += 1;
            }
        }
        Ok(settled)
    }
}
