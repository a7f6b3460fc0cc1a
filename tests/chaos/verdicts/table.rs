//! Counts of verdicts by the truth about their jobs.

use std::collections::BTreeMap;

use crate::ledger::Truth;
use crate::report::Results;

/// Numbers of verdicts by the truth about their jobs.
#[derive(Debug, Default)]
pub struct VerdictTable {
    pub jobs: u32,
    /// Ends of sites, by truth and reported status.
    pub cells: BTreeMap<(Truth, String), u32>,
    /// Executions of chunks beyond the first.
    pub again: u32,
}

impl VerdictTable {
    /// Writes the counts into the figures of the results.
    pub fn finish(self, results: &mut Results) {
        let count = |wanted: &dyn Fn(Truth, &str) -> bool| -> u32 {
            let cells = self.cells.iter();
            cells
                .filter(|((truth, status), _)| wanted(*truth, status))
                .map(|(_, times)| times)
                .sum()
        };
        let judged = count(&|_, status| !status.starts_with("retried") && status != "cancelled");
        let unknown = count(&|_, status| status == "unknown");
        let violations = |kind: &str| results.violations.iter().filter(|text| text.contains(kind)).count();
        let figures = [
            ("jobs (sites of all rounds)", self.jobs.to_string()),
            ("ends of sites that were judged", judged.to_string()),
            ("false COMPLETE", violations("FALSE COMPLETE").to_string()),
            ("false FAILED", violations("FALSE FAILED").to_string()),
            (
                "other violations",
                (results.violations.len() - violations("FALSE ")).to_string(),
            ),
            (
                "UNKNOWN",
                format!(
                    "{unknown} ({:.1} %)",
                    f64::from(unknown) * 100.0 / f64::from(judged.max(1))
                ),
            ),
            ("executions of chunks beyond the first", self.again.to_string()),
        ];
        for (name, figure) in figures {
            results.figures.insert(name.to_owned(), figure);
        }
        for ((truth, status), times) in self.cells {
            let name = format!("verdict {} where the job was: {truth}", status.to_uppercase());
            results.figures.insert(name, times.to_string());
        }
    }
}
