//! The progress keys of a job: `<prefix><suffix>` in Redis, as apps write them and as orch writes them.
//!
//! Not here: reading and writing them over a connection (`driver`, `sites::registry`).

use super::facts::{Keys, KeysStatus};
use crate::run::SiteCounts;

/// The suffixes, in the order in which they are read.
pub const SUFFIXES: [&str; 8] = [
    "status",
    "total_chunks",
    "completed_chunks",
    "total_urls",
    "result_count",
    "error_count",
    "started_at",
    "completed_at",
];

/// Full names of all keys under a prefix, in the order of [`SUFFIXES`].
pub fn names(prefix: &str) -> Vec<String> {
    SUFFIXES.iter().map(|suffix| format!("{prefix}{suffix}")).collect()
}

/// Makes sense of the values, in the order of [`SUFFIXES`]; `None` when the app has written none of them.
///
/// `ours` are the values that orch wrote under the same names: what still stands there unchanged is not the app's word.
pub fn read(values: &[Option<String>], ours: &[Option<String>]) -> Option<Keys> {
    let theirs = |at: usize| -> Option<&str> {
        let value = values.get(at)?.as_deref()?;
        (ours.get(at).and_then(|ours| ours.as_deref()) != Some(value)).then_some(value)
    };
    if (0..SUFFIXES.len()).all(|at| theirs(at).is_none()) {
        return None;
    }
    let count = |at: usize| theirs(at).and_then(count);
    let status = theirs(0).map(|status| match status.trim().to_ascii_uppercase().as_str() {
        "COMPLETE" => KeysStatus::Complete,
        "FAILED" | "CANCELLED" => KeysStatus::Failed(status.trim().to_owned()),
        _ => KeysStatus::Running(status.trim().to_owned()),
    });
    let counts = SiteCounts {
        total_chunks: count(1),
        completed_chunks: count(2),
        total_urls: count(3),
        results: count(4),
        errors: count(5),
    };
    Some(Keys { status, counts })
}

/// A counter as text: `12`, or `12.0` from an app that adds floats.
fn count(text: &str) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let (whole, fraction) = text.split_once('.')?;
        fraction
            .bytes()
            .all(|digit| digit == b'0')
            .then(|| whole.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(texts: [&str; 8]) -> Vec<Option<String>> {
        texts
            .iter()
            .map(|text| (!text.is_empty()).then(|| (*text).to_owned()))
            .collect()
    }

    #[test]
    fn values_are_read_in_order() {
        let found = values(["PROCESSING", "10", "3", "40", "25.0", " 2 ", "2026-01-01", ""]);
        let counts = SiteCounts {
            total_urls: Some(40),
            total_chunks: Some(10),
            completed_chunks: Some(3),
            results: Some(25),
            errors: Some(2),
        };
        let status = Some(KeysStatus::Running("PROCESSING".to_owned()));
        assert_eq!(read(&found, &[]), Some(Keys { status, counts }));
        assert_eq!(read(&values([""; 8]), &[]), None);
        assert_eq!(read(&[], &[]), None);
    }

    #[test]
    fn an_end_is_recognised_and_nonsense_is_not_a_count() {
        let status = |text| read(&values([text, "x", "-1", "1.5", "1e3", "", "", ""]), &[]);
        for (text, meaning) in [
            ("COMPLETE", KeysStatus::Complete),
            ("complete", KeysStatus::Complete),
            ("FAILED", KeysStatus::Failed("FAILED".into())),
            ("CANCELLED", KeysStatus::Failed("CANCELLED".into())),
            ("AGGREGATING", KeysStatus::Running("AGGREGATING".into())),
        ] {
            assert_eq!(
                status(text),
                Some(Keys {
                    status: Some(meaning),
                    counts: SiteCounts::default()
                })
            );
        }
    }

    #[test]
    fn what_orch_wrote_is_not_the_word_of_the_app() {
        let ours = values(["DISPATCHED", "10", "", "40", "", "", "1.5", ""]);
        assert_eq!(read(&ours, &ours), None);
        let found = values(["DISPATCHED", "10", "4", "40", "", "", "1.5", ""]);
        let counts = SiteCounts {
            completed_chunks: Some(4),
            ..SiteCounts::default()
        };
        assert_eq!(read(&found, &ours), Some(Keys { status: None, counts }));
    }
}
