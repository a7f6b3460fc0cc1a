//! Lines of worker logs that concern one site: lines that name the site, its job, or one of its tasks. The journal names
//! the job and some tasks; a line of the site that names a further task makes the later lines of that task known.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde_json::Value;

use orch_journal::{JournalTail, SiteName};

/// Length in bytes of the shortest id that is searched for: a shorter one would be found within ordinary words.
const SHORTEST_ID: usize = 8;
/// Number of ids that are known at most.
const MAX_IDS: usize = 100_000;

/// Words that make a line one of the site.
#[derive(Debug)]
pub struct SiteLines {
    site: SiteName,
    journal: Option<JournalTail>,
    ids: BTreeSet<String>,
    /// The run has this site.
    is_known: bool,
    /// Sites of the run.
    others: Vec<String>,
}

impl SiteLines {
    /// Opens the journal of a run.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn open(site: SiteName, journal: &Path) -> io::Result<Self> {
        let mut lines = Self {
            site,
            journal: Some(JournalTail::open(journal)?),
            ids: BTreeSet::new(),
            is_known: false,
            others: Vec::new(),
        };
        lines.read_journal()?;
        Ok(lines)
    }

    /// Creates the lines of a site with these ids.
    #[cfg(test)]
    pub fn of_ids(site: &str, ids: &[&str]) -> Self {
        Self {
            site: site.into(),
            journal: None,
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            is_known: true,
            others: Vec::new(),
        }
    }

    pub fn site(&self) -> &SiteName {
        &self.site
    }

    /// Returns the sites of the run if this site is not among them.
    pub fn others(&self) -> Option<&[String]> {
        (!self.is_known).then_some(&self.others)
    }

    /// Reads the new events.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn read_journal(&mut self) -> io::Result<()> {
        while let Some(line) = self.journal.as_mut().map(JournalTail::next_line).transpose()?.flatten() {
            let text = line.text();
            // Most events of a large night concern other sites.
            if line.kind() != Some("run_started") && !text.contains(self.site.as_str()) {
                continue;
            }
            if let Ok(event) = serde_json::from_str::<Value>(&text) {
                self.note(&event);
            }
        }
        Ok(())
    }

    fn note(&mut self, event: &Value) {
        if event["event"] == "run_started" {
            let names = event["sites"].as_array().into_iter().flatten();
            self.others = names.filter_map(Value::as_str).map(str::to_owned).collect();
        }
        let is_of_site = event["site"].as_str() == Some(self.site.as_str());
        self.is_known |= is_of_site || self.others.iter().any(|name| name == self.site.as_str());
        if !is_of_site {
            return;
        }
        let fields = event.as_object().into_iter().flatten();
        for (name, value) in fields {
            let is_id = name.ends_with("_id") || name == "task";
            if let Some(id) = value.as_str().filter(|_| is_id) {
                self.learn(id);
            }
        }
    }

    fn learn(&mut self, id: &str) {
        if id.len() >= SHORTEST_ID && self.ids.len() < MAX_IDS {
            self.ids.insert(id.to_owned());
        }
    }

    /// Decides whether a line names the site, its job or one of its tasks.
    pub fn concerns(&mut self, line: &str) -> bool {
        let is_named = has_word(line, self.site.as_str())
            || words(line).any(|word| self.ids.contains(word))
            || self.ids.iter().any(|id| !is_one_word(id) && line.contains(id.as_str()));
        if is_named {
            let tasks: Vec<String> = tasks(line).map(str::to_owned).collect();
            for task in tasks {
                self.learn(&task);
            }
        }
        is_named
    }
}

fn is_part_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '-' || letter == '_'
}

fn is_one_word(text: &str) -> bool {
    text.chars().all(is_part_of_word)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !is_part_of_word(letter))
}

/// Searches for a whole word, which may contain any letters.
fn has_word(line: &str, word: &str) -> bool {
    !word.is_empty()
        && line.match_indices(word).any(|(start, _)| {
            let before = line[..start].chars().next_back();
            let after = line[start + word.len()..].chars().next();
            !before.is_some_and(is_part_of_word) && !after.is_some_and(is_part_of_word)
        })
}

/// Returns the ids of tasks in a line: `app.fetch[3f6c...]`.
fn tasks(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices('[').filter_map(|(start, _)| {
        // A name comes directly before the bracket.
        line[..start]
            .chars()
            .next_back()
            .filter(|letter| is_part_of_word(*letter))?;
        let rest = &line[start + 1..];
        let id = &rest[..rest.find(']')?];
        // The ids that Celery makes are UUIDs of 36 letters.
        (id.len() == 36 && is_one_word(id)).then_some(id)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_with_the_name_or_an_id_belong_to_the_site() {
        let mut lines = SiteLines::of_ids("books", &["3f6c0c0e-0000-4000-8000-000000000001", "job:2026-11"]);
        for (line, concerns) in [
            ("Task a[3f6c0c0e-0000-4000-8000-000000000001] received", true),
            ("Task a[3f6c0c0e-0000-4000-8000-000000000002] received", false),
            ("crawl of books: 404", true),
            ("crawl of books-old: 404", false),
            ("notebooks", false),
            ("keys of job:2026-11 expire", true),
            ("", false),
        ] {
            assert_eq!(lines.concerns(line), concerns, "{line}");
        }
    }

    #[test]
    fn a_task_that_a_line_of_the_site_names_is_known_from_then_on() {
        let mut lines = SiteLines::of_ids("books", &[]);
        let id = "3f6c0c0e-0000-4000-8000-000000000003";
        let raised = format!("Task a[{id}] raised unexpected");
        assert!(!lines.concerns(&raised));
        assert!(lines.concerns(&format!("a[{id}]: books: 404")));
        assert!(lines.concerns(&raised));
    }

    #[test]
    fn events_of_the_site_name_its_tasks() {
        let mut lines = SiteLines::of_ids("books", &[]);
        lines.is_known = false;
        lines.note(&json!({"event": "run_started", "sites": ["toys"]}));
        assert_eq!(lines.others(), Some(&["toys".to_owned()][..]));
        lines.note(&json!({"event": "site_dispatched", "site": "toys", "task_id": "another-task"}));
        lines.note(&json!({"event": "site_dispatched", "site": "books", "task_id": "task-number-1", "job_id": "7"}));
        assert!(lines.others().is_none());
        assert!(lines.concerns("a[task-number-1]") && !lines.concerns("a[another-task]") && !lines.concerns("7"));
    }
}
