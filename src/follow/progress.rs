//! How far a job is: the tally of events, the app's progress keys, the chord's counters, whichever tell more.

use super::counts::merged;
use super::facts::Keys;
use super::facts::Tally;
use super::progress_keys;
use crate::celery::{self, ChordProgress, Client, GroupId};
use crate::run::{ProgressSource, SiteCounts};

/// One reading; `None` where there was nothing to ask for.
#[derive(Debug, Default)]
pub struct Reading {
    pub chord: Option<ChordProgress>,
    /// Values of the progress keys, in the order of [`progress_keys::SUFFIXES`].
    pub keys: Option<Vec<Option<String>>>,
}

/// Reads what there is to read.
pub async fn read(client: &Client, group: Option<&GroupId>, prefix: Option<&str>) -> celery::Result<Reading> {
    let mut reading = Reading::default();
    if let Some(group) = group {
        reading.chord = client.chord_progress(group).await?;
    }
    if let Some(prefix) = prefix {
        let mut get = redis::pipe();
        get.cmd("MGET").arg(progress_keys::names(prefix));
        let (values,): (Vec<Option<Vec<u8>>>,) = client.backend_query("read progress keys", &get).await?;
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        reading.keys = Some(values.into_iter().map(|value| value.map(text)).collect());
    }
    Ok(reading)
}

/// All that is known about the counts, the app's keys first, and what tells the finished chunks.
pub fn combined(
    keys: Option<&Keys>,
    known: SiteCounts,
    chord: Option<ChordProgress>,
    tally: Tally,
) -> (SiteCounts, ProgressSource) {
    let by_keys = keys.map(|keys| keys.counts).unwrap_or_default();
    let by_chord = chord.map_or_else(SiteCounts::default, |chord| SiteCounts {
        total_chunks: chord.total,
        completed_chunks: Some(chord.done),
        errors: (chord.failed > 0).then_some(chord.failed),
        ..SiteCounts::default()
    });
    let mut counts = merged(by_keys, merged(known, by_chord));
    // Events come at once, keys and counters when they are read. But events can be missed, and an app's chunks need not
    // be the tasks of its chord.
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
        // Every task of the job counts as a chunk, up to the number of chunks there are.
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

/// Fills in the chunks that have ended, once the callback of their chord has succeeded: then all have, though the events of
/// the last ones may come after that of the callback. The app's own count stays.
pub fn with_whole_header(counts: SiteCounts, keys: Option<&Keys>) -> SiteCounts {
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
        let keys = |completed| Keys {
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
        let tally = Tally {
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
            // Missed ones.
            (Some((3, 10)), Some(8), (Some(8), ProgressSource::Keys)),
            (Some((3, 10)), None, (Some(4), ProgressSource::Chord)),
            // None was seen: nobody sends any.
            (Some((0, 10)), None, (Some(4), ProgressSource::Chord)),
            // The app counts something else.
            (Some((9, 12)), Some(3), (Some(3), ProgressSource::Keys)),
        ] {
            let tally = Tally { header, ..tally };
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
        let keys = |done| Keys {
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
