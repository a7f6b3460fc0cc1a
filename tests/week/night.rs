//! One night of the project of `week_app`, and its output.

use serde_json::Value;

use crate::support::bookshop;
use crate::support::orch::{Ended, Project};

/// Returns a site with further keys, and with further arguments of its dispatch task.
pub fn site(name: &str, keys: &str, arguments: &str) -> String {
    let comma = if arguments.is_empty() { "" } else { ", " };
    format!(
        "[sites.{name}]\n{keys}\ndispatch = {{ task = \"week.dispatch\", kwargs = {{ site = \"{{site}}\", job_id = \
         \"{{job_id}}\"{comma}{arguments} }} }}\n"
    )
}

pub fn project(sections: &str, sites: &[String]) -> Project {
    // An idle worker takes seconds for its warm stop.
    let services = "[redis]\nport = 0\nmode = \"own\"\n[celery]\napp = \"week_app\"\nconcurrency = 2\ngrace = \"300ms\"\n\
                    quit_grace = \"300ms\"\n";
    bookshop::project_with("week_app", &[services, sections, &sites.concat()].concat())
}

pub fn end_of<'e>(ended: &'e Ended, site: &str) -> &'e Value {
    let ends = ended.events_of("site_finished");
    let end = ends.into_iter().find(|event| event["site"] == site);
    end.unwrap_or_else(|| panic!("{site} has no end\n{}", ended.stdout))
}

pub fn dispatches(ended: &Ended, site: &str) -> usize {
    let dispatched = ended.events_of("site_dispatched").into_iter();
    dispatched.filter(|event| event["site"] == site).count()
}

/// Returns the cells of a site's line in the summary: the last table of the output.
pub fn row(stdout: &str, site: &str) -> Vec<String> {
    let line = stdout.lines().rev().find(|line| line.split(' ').next() == Some(site));
    let line = line.unwrap_or_else(|| panic!("no line of {site}\n{stdout}"));
    line.split_whitespace().map(str::to_owned).collect()
}

/// Returns the line with the end of the run.
pub fn last_line(ended: &Ended) -> &str {
    let line = ended.stdout.lines().find(|line| line.contains("(exit code "));
    line.unwrap_or_else(|| panic!("no last line\n{}", ended.stdout))
}
