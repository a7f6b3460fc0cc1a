//! Window over the last chunks of a site: how many failed, at which rate they end, and how long one takes. Memory use
//! is the same for three chunks and for three million.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::jobs::ChunkEnd;

/// Number of chunks in the window.
pub const WINDOW: usize = 20;

/// Window over the last chunks of a site.
#[derive(Clone, Debug, Default)]
pub struct ChunkWindow {
    /// Ends of chunks, the latest last.
    ends: VecDeque<(Instant, ChunkEnd)>,
    failed: usize,
    failed_in_a_row: u64,
}

impl ChunkWindow {
    pub fn push(&mut self, end: ChunkEnd, now: Instant) {
        if self.ends.len() == WINDOW
            && let Some((_, oldest)) = self.ends.pop_front()
        {
            self.failed -= usize::from(!oldest.succeeded);
        }
        self.ends.push_back((now, end));
        self.failed += usize::from(!end.succeeded);
        self.failed_in_a_row = if end.succeeded { 0 } else { self.failed_in_a_row + 1 };
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the number of failed chunks in the window.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Returns the number of latest chunks that failed in a row, also beyond the window.
    pub fn failed_in_a_row(&self) -> u64 {
        self.failed_in_a_row
    }

    /// Returns the share of failed chunks in the window; 0 if the window is empty.
    pub fn error_rate(&self) -> f64 {
        self.failed as f64 / self.ends.len().max(1) as f64
    }

    /// Returns whether the last chunks, as many as `latest`, have all succeeded.
    pub fn is_clean(&self, latest: usize) -> bool {
        self.ends.len() >= latest && self.ends.iter().rev().take(latest).all(|(_, end)| end.succeeded)
    }

    /// Returns the number of chunks per minute, from the first in the window until now.
    pub fn per_minute(&self, now: Instant) -> Option<f64> {
        let (first, _) = self.ends.front()?;
        let minutes = now.saturating_duration_since(*first).as_secs_f64() / 60.0;
        (self.ends.len() > 1 && minutes > 0.0).then(|| (self.ends.len() - 1) as f64 / minutes)
    }

    /// Returns the longest runtime of the fastest `share` of the chunks with a known runtime.
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let mut times: Vec<Duration> = self.ends.iter().filter_map(|(_, end)| end.runtime).collect();
        times.sort_unstable();
        let rank = (times.len() as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(succeeded: bool, seconds: Option<u64>) -> ChunkEnd {
        ChunkEnd {
            succeeded,
            runtime: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn figures_are_those_of_the_last_chunks() {
        let begun = Instant::now();
        let mut window = ChunkWindow::default();
        assert_eq!((window.percentile(0.5), window.per_minute(begun)), (None, None));
        for second in 1..=30 {
            window.push(end(second % 3 != 0, Some(second)), begun + Duration::from_secs(second));
        }
        // The window holds the chunks of 11 to 30 s; those of 12, 15, ... 30 s failed.
        assert_eq!((window.len(), window.failed(), window.failed_in_a_row()), (20, 7, 1));
        assert_eq!(window.percentile(0.5), Some(Duration::from_secs(20)));
        assert_eq!(window.percentile(0.95), Some(Duration::from_secs(29)));
        assert_eq!(window.percentile(0.0), Some(Duration::from_secs(11)));
        assert_eq!(window.percentile(1.0), Some(Duration::from_secs(30)));
        assert_eq!(window.per_minute(begun + Duration::from_secs(30)), Some(60.0));
        assert!(window.is_clean(0) && !window.is_clean(1));
    }

    proptest! {
        #[test]
        fn the_window_counts_what_a_list_of_all_chunks_counts(chunks in proptest::collection::vec((any::<bool>(), proptest::option::of(0u64..100)), 0..200)) {
            let now = Instant::now();
            let mut window = ChunkWindow::default();
            for (index, (succeeded, seconds)) in chunks.iter().enumerate() {
                window.push(end(*succeeded, *seconds), now);
                let last = &chunks[(index + 1).saturating_sub(WINDOW)..=index];
                prop_assert_eq!(window.len(), last.len());
                prop_assert_eq!(window.failed(), last.iter().filter(|(succeeded, _)| !succeeded).count());
                let in_a_row = chunks[..=index].iter().rev().take_while(|(succeeded, _)| !succeeded).count();
                prop_assert_eq!(window.failed_in_a_row(), in_a_row as u64);
                let (middle, high) = (window.percentile(0.5), window.percentile(0.95));
                prop_assert!(middle <= high);
            }
        }
    }
}
