//! Tests that `docs/contract.md` agrees with the code.

use serde_json::Value;

use super::dispatch_result::DispatchAnswer;
use super::progress_keys::SUFFIXES;

const PAGE: &str = include_str!("../../../../docs/contract.md");

/// Returns the rows of the table that begins with this line, as their cells.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let rows = PAGE.lines().skip_while(|line| *line != head).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

#[test]
fn results_are_understood_as_the_page_says() {
    let rows = table("| result | understood as |");
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let [text, meaning] = row.as_slice() else {
            panic!("{row:?}")
        };
        let result: Value = serde_json::from_str(text.trim_matches('`')).expect(text);
        let understood = match DispatchAnswer::read(&result) {
            DispatchAnswer::Job(job) if job.chord_id.is_some() => "a chord",
            DispatchAnswer::Job(_) => "a job without a chord",
            DispatchAnswer::NothingToDo(_) => "nothing to do",
            DispatchAnswer::Complete(_) => "all is done",
            DispatchAnswer::Failed { .. } => "an error",
            _ if meaning.starts_with("the id") => "the id of a task or group",
            DispatchAnswer::Unknown(counts) if counts == Default::default() => "nothing",
            _ => "counts alone",
        };
        assert_eq!(understood, *meaning, "{text}");
    }
}

#[test]
fn every_progress_key_is_on_the_page() {
    let cells: Vec<&str> = table("| suffix | value | what orch does with it |")
        .into_iter()
        .filter_map(|row| row.first().copied())
        .collect();
    let names = cells.join(" ");
    for suffix in SUFFIXES {
        assert!(names.contains(&format!("`{suffix}`")), "{suffix} is not in {names}");
    }
}
