//! Pace of the reads of the event stream. Pure: the time goes in with each read.
//!
//! Most of the cost of a single event is the wake-up of two threads. At a steady rate of few events, those of a tenth of a
//! second are read together. A burst, such as the deaths of a task that kills its process, is read at once: the first
//! reads after a quiet time are not put off.

use std::time::{Duration, Instant};

/// Minimum time between two reads while events arrive continuously. New bytes wait in the socket, and Redis buffers
/// megabytes.
const READ_INTERVAL: Duration = Duration::from_millis(8);
/// Minimum time between two reads at a steady rate of few events.
const STEADY_READ_INTERVAL: Duration = Duration::from_millis(100);
/// Number of reads after a quiet time until the reads are put off; one more for each steady interval without a read.
const PROMPT_READS: u32 = 16;
/// Number of bytes up to which a read counts as few events; these bytes fit into the smallest buffer of a socket.
const FEW_BYTES: usize = 32 * 1024;

/// Pace of the reads of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadPacer {
    /// Size of a read that has filled the buffer.
    buffer_size: usize,
    /// Number of reads until the reads are put off.
    prompt_reads: u32,
    /// Time up to which prompt reads have been added.
    refilled_at: Instant,
}

impl ReadPacer {
    pub fn new(buffer_size: usize, now: Instant) -> Self {
        Self {
            buffer_size,
            prompt_reads: PROMPT_READS,
            refilled_at: now,
        }
    }

    /// Returns the time of the next read after a read of this many bytes; `None`: at once, because a full buffer means
    /// that more bytes wait.
    pub fn next_read(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        if bytes >= self.buffer_size {
            return None;
        }
        if bytes > FEW_BYTES {
            return Some(now + READ_INTERVAL);
        }
        self.refill(now);
        self.prompt_reads = self.prompt_reads.saturating_sub(1);
        let interval = match self.prompt_reads {
            0 => STEADY_READ_INTERVAL,
            _ => READ_INTERVAL,
        };
        Some(now + interval)
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled_at);
        // An overflow needs thirteen years.
        let more = u32::try_from(since.as_millis() / STEADY_READ_INTERVAL.as_millis()).unwrap_or(u32::MAX);
        self.prompt_reads = self.prompt_reads.saturating_add(more).min(PROMPT_READS);
        self.refilled_at += STEADY_READ_INTERVAL.saturating_mul(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = 256 * 1024;

    /// Returns the number of reads in a minute of events of this size that come all the time.
    fn reads_in_a_minute(bytes: usize) -> u32 {
        let start = Instant::now();
        let mut pacer = ReadPacer::new(FULL, start);
        let (mut now, mut reads) = (start, 0);
        while now < start + Duration::from_secs(60) {
            reads += 1;
            now = pacer.next_read(bytes, now).expect("a wait");
        }
        reads
    }

    #[test]
    fn a_steady_rate_of_few_events_is_read_ten_times_a_second_and_many_events_sooner() {
        let few = reads_in_a_minute(500);
        assert!((600..=620).contains(&few), "{few}");
        assert_eq!(reads_in_a_minute(FEW_BYTES + 1), 7_500);
    }

    #[test]
    fn a_burst_after_a_quiet_time_is_read_at_once() {
        let start = Instant::now();
        let mut pacer = ReadPacer::new(FULL, start);
        let mut now = start;
        for _ in 0..2 {
            for _ in 1..PROMPT_READS {
                let next = pacer.next_read(500, now).unwrap();
                assert_eq!(next, now + READ_INTERVAL);
                now = next;
            }
            now += Duration::from_secs(2);
        }
        assert_eq!(pacer.next_read(FULL, now), None);
    }
}
