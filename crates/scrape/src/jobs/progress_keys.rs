//! Progress keys of a job: `<prefix><suffix>` in Redis, as apps and orch write them, and the meaning of their values.
//!
//! Not here: reading and writing them over a connection ([`super::progress`], [`crate::sites`]).

use orch_journal::SiteCounts;

/// Suffixes, in the order in which they are read.
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

/// Value of the app's `status` key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysStatus {
    /// COLLECTING, DISPATCHED, PROCESSING, AGGREGATING, or any other value that is no end.
    Running(String),
    Complete,
    /// FAILED or CANCELLED, as written.
    Failed(String),
}

/// Progress keys of the app at one moment; values that orch wrote itself do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressKeyValues {
    pub status: Option<KeysStatus>,
    pub counts: SiteCounts,
}

impl ProgressKeyValues {
    /// Returns whether the app's status key names an end.
    pub fn ended(&self) -> bool {
        matches!(self.status, Some(KeysStatus::Complete | KeysStatus::Failed(_)))
    }

    /// Returns whether the completed chunks are fewer than all chunks.
    pub fn is_behind(&self) -> bool {
        match (self.counts.completed_chunks, self.counts.total_chunks) {
            (Some(done), Some(total)) => done < total,
            _ => false,
        }
    }

    /// Returns whether every chunk is counted as completed and there is no status.
    pub fn all_chunks_done(&self) -> bool {
        match (self.counts.completed_chunks, self.counts.total_chunks) {
            (Some(done), Some(total)) => self.status.is_none() && done >= total,
            _ => false,
        }
    }
}

/// Returns the full names of all keys under a prefix, in the order of [`SUFFIXES`].
pub fn names(prefix: &str) -> Vec<String> {
    SUFFIXES.iter().map(|suffix| format!("{prefix}{suffix}")).collect()
}

/// Interprets the values, in the order of [`SUFFIXES`]; returns `None` if the app has written none of them.
///
/// `own_values` are the values that orch wrote under the same names: an unchanged one does not come from the app.
pub fn read(values: &[Option<String>], own_values: &[Option<String>]) -> Option<ProgressKeyValues> {
    let app_value = |at: usize| -> Option<&str> {
        let value = values.get(at)?.as_deref()?;
        (own_values.get(at).and_then(|own_values| own_values.as_deref()) != Some(value)).then_some(value)
    };
    if (0..SUFFIXES.len()).all(|at| app_value(at).is_none()) {
        return None;
    }
    let count = |at: usize| app_value(at).and_then(count);
    let status = app_value(0).map(|status| match status.trim().to_ascii_uppercase().as_str() {
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
    Some(ProgressKeyValues { status, counts })
}

/// Parses a counter: `12`, or `12.0` from an app that adds floats.
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
        assert_eq!(read(&found, &[]), Some(ProgressKeyValues { status, counts }));
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
                Some(ProgressKeyValues {
                    status: Some(meaning),
                    counts: SiteCounts::default()
                })
            );
        }
    }

    #[test]
    fn values_that_orch_wrote_are_not_taken_for_the_app_s() {
        let own_values = values(["DISPATCHED", "10", "", "40", "", "", "1.5", ""]);
        assert_eq!(read(&own_values, &own_values), None);
        let found = values(["DISPATCHED", "10", "4", "40", "", "", "1.5", ""]);
        let counts = SiteCounts {
            completed_chunks: Some(4),
            ..SiteCounts::default()
        };
        assert_eq!(
            read(&found, &own_values),
            Some(ProgressKeyValues { status: None, counts })
        );
    }
}
