//! Fold of the failed tasks of a site into the snapshot.

use super::error_view::ErrorView;
use super::views::SiteView;
use crate::facts::failed_task::FailedTask;
use crate::facts::site_errors::SiteErrors;
use orch_base::text::printable::shortened;

/// Number of signatures of one site in the snapshot.
const MAX_SIGNATURES: usize = 20;
/// Number of characters of an exception in the snapshot; the journal has more.
const MAX_EXCEPTION: usize = 300;

impl SiteView {
    pub(crate) fn add_failed_task(&mut self, failed: &FailedTask) {
        let is_known = self.errors.iter().any(|error| error.signature == failed.signature);
        if is_known || self.errors.len() == MAX_SIGNATURES {
            return;
        }
        self.errors.push(ErrorView {
            signature: failed.signature.clone(),
            count: None,
            exception: shortened(&failed.exception, MAX_EXCEPTION),
            task_id: Some(failed.task_id.clone()),
            log: failed.log.as_ref().map(|log| log.file.clone()),
        });
    }

    /// Sets the counts of all signatures, the most frequent one first.
    pub(crate) fn set_error_counts(&mut self, counted: &SiteErrors) {
        let mut first: Vec<ErrorView> = std::mem::take(&mut self.errors);
        for error in counted.errors.iter().take(MAX_SIGNATURES) {
            let place = first.iter().position(|known| known.signature == error.signature);
            let view = match place {
                Some(place) => first.swap_remove(place),
                None => ErrorView {
                    signature: error.signature.clone(),
                    count: None,
                    exception: error.signature.clone(),
                    task_id: None,
                    log: None,
                },
            };
            self.errors.push(ErrorView {
                count: Some(error.count),
                ..view
            });
        }
    }
}
