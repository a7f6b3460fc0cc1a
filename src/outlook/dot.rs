//! The outlook as a graph in the DOT language, for Graphviz.

use super::Outlook;
use crate::config::Need;
use crate::sites::schedule::SiteId;
use crate::ui::span;

impl Outlook<'_> {
    /// `after` as a line, `after_any` dashed, `after_finished` dotted; what is on the critical path is bold.
    pub fn dot(&self) -> String {
        let mut lines = vec![
            "digraph sites {".to_owned(),
            "  rankdir=LR;".to_owned(),
            "  node [shape=box];".to_owned(),
        ];
        // Names have no character that would end a quoted text.
        for site in self.work.agenda().sites() {
            let expected = match self.work.known()[site.place()] {
                Some(known) => span(known.as_secs_f64()),
                None => "?".to_owned(),
            };
            let bold = if self.critical.contains(&site) {
                " penwidth=2"
            } else {
                ""
            };
            lines.push(format!(
                "  \"{0}\" [label=\"{0}\\n{expected}\"{bold}];",
                self.name(site)
            ));
        }
        for site in self.work.agenda().sites() {
            for (need, needed) in self.needs(site) {
                let mut style = match need {
                    Need::After => vec![],
                    Need::AfterAny => vec!["style=dashed"],
                    Need::AfterFinished => vec!["style=dotted"],
                };
                if self.follows_on_the_critical_path(needed, site) {
                    style.push("penwidth=2");
                }
                let style = match style.as_slice() {
                    [] => String::new(),
                    style => format!(" [{}]", style.join(" ")),
                };
                lines.push(format!(
                    "  \"{}\" -> \"{}\"{style};",
                    self.name(needed),
                    self.name(site)
                ));
            }
        }
        lines.push("}".to_owned());
        lines.join("\n")
    }

    /// What a site depends on within this run.
    pub(super) fn needs(&self, site: SiteId) -> impl Iterator<Item = (Need, SiteId)> {
        let entry = self.work.agenda().entry(site);
        let lists = [
            (Need::After, &entry.after),
            (Need::AfterAny, &entry.after_any),
            (Need::AfterFinished, &entry.after_finished),
        ];
        lists
            .into_iter()
            .flat_map(|(need, sites)| sites.iter().map(move |needed| (need, *needed)))
    }

    fn follows_on_the_critical_path(&self, earlier: SiteId, later: SiteId) -> bool {
        let is_both = self.critical.contains(&earlier) && self.critical.contains(&later);
        is_both && self.critical_path.windows(2).any(|two| two == [earlier, later])
    }
}
