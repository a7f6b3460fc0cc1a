//! Progress of a job: from the counts of events, the app's progress keys and the chord's counters, whichever know more.

use super::counts::merge_counts;
use super::inputs::TaskTally;
use super::progress_keys;
use super::progress_keys::ProgressKeyValues;
use orch_celery::{ChordProgress, Client, GroupId};
use orch_journal::{ProgressSource, SiteCounts};

/// One reading; a part is `None` if there was nothing to read.
#[derive(Debug, Default)]
pub struct ProgressReading {
    pub chord: Option<ChordProgress>,
    /// Values of the progress keys, in the order of [`progress_keys::SUFFIXES`].
    pub keys: Option<Vec<Option<String>>>,
}

/// Reads the chord's counters and the progress keys that exist, in one round trip.
pub async fn read(
    client: &Client,
    group: Option<&GroupId>,
    prefix: Option<&str>,
) -> orch_celery::Result<ProgressReading> {
    let chord = async {
        match group {
            Some(group) => client.chord_progress(group).await,
            None => Ok(None),
        }
    };
    let keys = async {
        let Some(prefix) = prefix else { return Ok(None) };
        let mut get = redis::pipe();
        get.cmd("MGET").arg(progress_keys::names(prefix));
        let (values,): (Vec<Option<Vec<u8>>>,) = client.backend_query("read progress keys", &get).await?;
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        Ok(Some(values.into_iter().map(|value| value.map(text)).collect()))
    };
    let (chord, keys) = tokio::try_join!(chord, keys)?;
    Ok(ProgressReading { chord, keys })
}

/// Combines all sources of counts, the app's keys first. Returns also the source of the number of completed chunks.
pub fn combined(
    keys: Option<&ProgressKeyValues>,
    known: SiteCounts,
    chord: Option<ChordProgress>,
    tally: TaskTally,
) -> (SiteCounts, ProgressSource) {
    let by_keys = keys.map(|keys| keys.counts).unwrap_or_default();
    let by_chord = chord.map_or_else(SiteCounts::default, |chord| SiteCounts {
        total_chunks: chord.total,
        completed_chunks: Some(chord.done),
        errors: (chord.failed > 0).then_some(chord.failed),
        ..SiteCounts::default()
    });
    let mut counts = merge_counts(by_keys, merge_counts(known, by_chord));
    // Events arrive at once, keys and counters only when they are read. But events can be missed, and the chunks of an
    // app need not be the tasks of the chord.
    if let Some((ended, size)) = tally.header
        && ended > 0
        && ended >= counts.completed_chunks.unwrap_or(0)
        && counts.total_chunks.is_none_or(|total| total == size)
    {
        counts.completed_chunks = Some(ended);
        counts.total_chunks = Some(size);
        return (counts, ProgressSource::Events);
    }
    let source = match (by_keys.completed_chunks, counts.completed_chunks) {
        (Some(_), _) => ProgressSource::Keys,
        (None, Some(_)) => ProgressSource::Chord,
        (None, None) => ProgressSource::Events,
    };
    if source == ProgressSource::Events {
        // Every task of the job counts as a chunk, up to the number of chunks.
        let ended = tally.succeeded + tally.failed;
        let completed = counts.total_chunks.map(|total| ended.min(total));
        return (
            SiteCounts {
                completed_chunks: completed.filter(|completed| *completed > 0),
                ..counts
            },
            source,
        );
    }
    (counts, source)
}

/// Sets the completed chunks once the callback of their chord has succeeded: then all chunks have ended, although the
/// events of the last ones may arrive after the event of the callback. The app's own count stays.
pub fn with_whole_header(counts: SiteCounts, keys: Option<&ProgressKeyValues>) -> SiteCounts {
    let by_app = keys.and_then(|keys| keys.counts.completed_chunks);
    SiteCounts {
        completed_chunks: by_app.or(counts.total_chunks).or(counts.completed_chunks),
        ..counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_app_win_and_the_rest_fills_in() {
        let keys = |completed| ProgressKeyValues {
            status: None,
            counts: SiteCounts {
                completed_chunks: completed,
                results: Some(30),
                ..SiteCounts::default()
            },
        };
        let known = SiteCounts {
            total_chunks: Some(10),
            total_urls: Some(40),
            ..SiteCounts::default()
        };
        let chord = ChordProgress {
            done: 4,
            total: Some(10),
            failed: 1,
        };
        let tally = TaskTally {
            succeeded: 20,
            failed: 0,
            unfinished: 0,
            header: None,
        };

        let (counts, source) = combined(Some(&keys(Some(3))), known, Some(chord), tally);
        assert_eq!(
            (counts.completed_chunks, counts.results, counts.errors),
            (Some(3), Some(30), Some(1))
        );
        assert_eq!((counts.total_urls, source), (Some(40), ProgressSource::Keys));

        let (counts, source) = combined(Some(&keys(None)), known, Some(chord), tally);
        assert_eq!((counts.completed_chunks, source), (Some(4), ProgressSource::Chord));

        for (header, keyed, expected) in [
            (Some((5, 10)), Some(3), (Some(5), ProgressSource::Events)),
            (Some((3, 10)), Some(3), (Some(3), ProgressSource::Events)),
            // Events were missed.
            (Some((3, 10)), Some(8), (Some(8), ProgressSource::Keys)),
            (Some((3, 10)), None, (Some(4), ProgressSource::Chord)),
            // No event was seen: workers send none.
            (Some((0, 10)), None, (Some(4), ProgressSource::Chord)),
            // The app counts other units.
            (Some((9, 12)), Some(3), (Some(3), ProgressSource::Keys)),
        ] {
            let tally = TaskTally { header, ..tally };
            let (counts, source) = combined(Some(&keys(keyed)), known, Some(chord), tally);
            assert_eq!((counts.completed_chunks, source), expected, "{header:?} {keyed:?}");
        }

        let (counts, source) = combined(None, known, None, tally);
        assert_eq!((counts.completed_chunks, source), (Some(10), ProgressSource::Events));
        let (counts, _) = combined(None, SiteCounts::default(), None, tally);
        assert_eq!(counts.completed_chunks, None, "without a total, tasks are no chunks");
    }

    #[test]
    fn all_chunks_have_ended_when_the_callback_has_succeeded() {
        let counts = |done, total| SiteCounts {
            completed_chunks: done,
            total_chunks: total,
            ..SiteCounts::default()
        };
        let keys = |done| ProgressKeyValues {
            status: None,
            counts: counts(done, None),
        };
        for (before, keys, expected) in [
            (counts(Some(5), Some(6)), None, counts(Some(6), Some(6))),
            (counts(None, Some(6)), None, counts(Some(6), Some(6))),
            (counts(Some(5), Some(6)), Some(keys(None)), counts(Some(6), Some(6))),
            (counts(Some(5), Some(6)), Some(keys(Some(5))), counts(Some(5), Some(6))),
            (counts(Some(5), None), None, counts(Some(5), None)),
            (counts(None, None), None, counts(None, None)),
        ] {
            assert_eq!(with_whole_header(before, keys.as_ref()), expected, "{before:?}");
        }
    }
}
