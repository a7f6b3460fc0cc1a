//! Readings of the job's progress: when one is due, and the counts that follow from it.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::job_follower::JobFollower;
use super::pending::PendingOperation;
use crate::jobs::follow_request::JobUpdate;
use crate::jobs::inputs::JobInput;
use crate::jobs::progress::{self, ProgressReading};
use crate::jobs::progress_keys;
use crate::jobs::shared_tick::TICK_INTERVAL;
use crate::jobs::signals::JobSignal;
use crate::jobs::state_machine::JobStage;
use orch_journal::{ProgressSource, SiteCounts};

/// Time between two readings of the progress when no event asks for one: a change of a key is not announced. After an event
/// the progress is read at the next moment that all jobs share.
const PROGRESS_POLL_INTERVAL: Duration = Duration::from_secs(5);

impl<'a> JobFollower<'a> {
    pub(super) fn take_reading(&mut self, reading: ProgressReading, report: &mut (dyn FnMut(JobUpdate) + Send)) {
        let keys_were_read = reading.keys.is_some();
        self.store_reading(&reading);
        if let Some(chord) = reading.chord {
            report(JobUpdate::Signal(JobSignal::ChordRead(chord)));
        }
        if keys_were_read {
            self.apply(JobInput::KeysRead(self.keys.clone()), report);
        }
        let (mut counts, source) = self.counts();
        // Sources report the same chunks with different delays: the number of completed chunks never decreases.
        if let Some((reported, _)) = self.reported {
            counts.completed_chunks = counts.completed_chunks.max(reported.completed_chunks);
        }
        if counts != SiteCounts::default() && self.reported.is_none_or(|reported| reported.0 != counts) {
            self.reported = Some((counts, source));
            self.postpone_query();
            report(JobUpdate::Progressed { counts, source });
        }
    }

    pub(super) fn store_reading(&mut self, reading: &ProgressReading) {
        // Celery removes the counters of a chord when the chord is complete; the last values still hold.
        self.chord = reading.chord.or(self.chord);
        if let Some(values) = &reading.keys {
            let own_values = self
                .request
                .own_key_values
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.keys = progress_keys::read(values, &own_values);
        }
    }

    pub(super) fn counts(&self) -> (SiteCounts, ProgressSource) {
        let (mut counts, source) = progress::combined(
            self.keys.as_ref(),
            self.machine.counts(),
            self.chord,
            self.subscription.tally(),
        );
        if self.machine.is_header_complete() {
            counts = progress::with_whole_header(counts, self.keys.as_ref());
        }
        // An app that counts each execution counts a chunk that ran twice as two chunks.
        counts.completed_chunks = match (counts.completed_chunks, counts.total_chunks) {
            (Some(done), Some(total)) => Some(done.min(total)),
            (done, _) => done,
        };
        let lost = self.machine.lost_chunks();
        if lost > 0 {
            counts.errors = Some(counts.errors.unwrap_or(0).saturating_add(lost));
            // A worker may have reported the end of a lost chunk: a chunk is lost if the chord does not count it.
            let not_lost = counts.total_chunks.map(|total| total.saturating_sub(lost));
            counts.completed_chunks = counts.completed_chunks.map(|done| done.min(not_lost.unwrap_or(done)));
        }
        (counts, source)
    }

    pub(super) fn read_progress(&self) -> PendingOperation<'a, orch_celery::Result<ProgressReading>> {
        let (client, group, prefix) = (&self.context.celery, self.group.clone(), self.prefix());
        Box::pin(async move { progress::read(client, group.as_ref(), prefix.as_deref()).await })
    }

    pub(super) fn progress_due(&self) -> Option<Instant> {
        if self.group.is_none() && self.machine.job().job_id.is_none() {
            return None;
        }
        let by_keys_alone = matches!(self.machine.stage(), JobStage::ProgressKeys { .. });
        // Progress that was never read is due now.
        let Some(read_at) = self.progress_read_at else {
            return Some(self.begun);
        };
        let tick = self.context.tick;
        let poll_interval = if by_keys_alone {
            TICK_INTERVAL
        } else {
            PROGRESS_POLL_INTERVAL
        };
        let by_poll = tick.about(poll_interval, read_at);
        let by_change = self
            .changed_at
            .map(|at| tick.about(TICK_INTERVAL, read_at).max(tick.at_or_after(at)));
        Some(by_change.map_or(by_poll, |due| due.min(by_poll)))
    }
}
