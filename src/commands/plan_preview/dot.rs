//! The plan preview as a graph in the DOT language, for Graphviz.

use super::PlanPreview;
use orch_config::SiteDependencyKind;
use orch_scrape::schedule::SiteId;
use orch_views::span;

impl PlanPreview<'_> {
    /// Returns the graph: `after` is a solid line, `after_any` dashed, `after_finished` dotted; the critical path is
    /// bold.
    pub fn dot(&self) -> String {
        let mut lines = vec![
            "digraph sites {".to_owned(),
            "  rankdir=LR;".to_owned(),
            "  node [shape=box];".to_owned(),
        ];
        // Names of sites contain no character that would end a quoted text.
        for site in self.work.agenda().sites() {
            let expected = match self.work.known_durations()[site.place()] {
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
                    SiteDependencyKind::After => vec![],
                    SiteDependencyKind::AfterAny => vec!["style=dashed"],
                    SiteDependencyKind::AfterFinished => vec!["style=dotted"],
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

    /// Returns the dependencies of a site within this run.
    pub(crate) fn needs(&self, site: SiteId) -> impl Iterator<Item = (SiteDependencyKind, SiteId)> {
        let entry = self.work.agenda().entry(site);
        let lists = [
            (SiteDependencyKind::After, &entry.after),
            (SiteDependencyKind::AfterAny, &entry.after_any),
            (SiteDependencyKind::AfterFinished, &entry.after_finished),
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
