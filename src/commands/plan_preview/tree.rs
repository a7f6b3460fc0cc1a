//! The plan preview for people: a tree in which each site is listed once, below the dependency that it waits for
//! longest.

use super::PlanPreview;
use orch_base::text::counted::plural;
use orch_config::SiteDependencyKind;
use orch_scrape::schedule::SiteId;
use orch_scrape::sites::BreakerState;
use orch_views::span;

/// Depth from which sites are no longer indented further: a chain may have as many sites as the configuration.
const DEEPEST: usize = 12;
/// Number of sites of the longest path that the head names.
const MOST_OF_PATH: usize = 12;

/// Cells of one site, one for each column.
pub type PreviewRow = [String; 4];

impl PlanPreview<'_> {
    /// Returns the lines above the tree.
    pub fn head(&self) -> Vec<String> {
        let sites = self.work.sites().len() as u64;
        let mut lines = vec![format!(
            "{}, {} at a time: about {}, no less than {}",
            plural(sites, "site"),
            self.config.orch.max_parallel_sites,
            span(self.length.as_secs_f64()),
            span(self.work.agenda().lower_bound().as_secs_f64())
        )];
        if self.critical_path.len() > 1 {
            let path = span(self.critical_length().as_secs_f64());
            lines.push(format!("longest path: {}, {path}", self.path()));
        }
        if !self.config.resources.is_empty() {
            let resources = self
                .config
                .resources
                .iter()
                .map(|(name, count)| format!("{count} {name}"));
            lines.push(format!("resources: {}", resources.collect::<Vec<_>>().join(", ")));
        }
        let unknown = self
            .work
            .known_durations()
            .iter()
            .filter(|known| known.is_none())
            .count() as u64;
        if unknown > 0 {
            let assumed = span(self.work.assumed_duration().as_secs_f64());
            lines.push(format!(
                "{} without a complete run so far, assumed to take {assumed} each",
                plural(unknown, "site")
            ));
        }
        lines
    }

    fn path(&self) -> String {
        let names: Vec<&str> = self.critical_path.iter().map(|site| self.name(*site)).collect();
        match names.len() {
            ..=MOST_OF_PATH => names.join(" -> "),
            count => {
                let (first, last) = names.split_at(MOST_OF_PATH / 2);
                let last = &last[last.len() - MOST_OF_PATH / 2..];
                let between = count - MOST_OF_PATH;
                format!("{} -> {between} more -> {}", first.join(" -> "), last.join(" -> "))
            }
        }
    }

    /// Headings of the columns: site, expected time, expected begin, notes.
    pub const HEADINGS: [&'static str; 4] = ["SITE", "TAKES", "BEGINS", "NOTES"];

    /// Returns one row for each site.
    pub fn rows(&self) -> Vec<PreviewRow> {
        let parents: Vec<Option<(SiteDependencyKind, SiteId)>> =
            self.work.agenda().sites().map(|site| self.parent(site)).collect();
        let mut children: Vec<Vec<SiteId>> = vec![Vec::new(); parents.len()];
        let mut open: Vec<TreeBranch> = Vec::new();
        for site in self.in_order() {
            match parents[site.place()] {
                Some((_, parent)) => children[parent.place()].push(site),
                None => open.push(TreeBranch::root(site)),
            }
        }
        open.reverse();
        let mut rows = Vec::with_capacity(parents.len());
        while let Some(branch) = open.pop() {
            let parent = parents[branch.site.place()];
            rows.push(self.row(&branch, parent));
            let below = &children[branch.site.place()];
            for (index, site) in below.iter().enumerate().rev() {
                open.push(branch.child(*site, index + 1 == below.len()));
            }
        }
        rows
    }

    /// Returns the dependency that a site waits for longest. Of the `after_any` dependencies only the first to end
    /// counts.
    fn parent(&self, site: SiteId) -> Option<(SiteDependencyKind, SiteId)> {
        let end =
            |(_, needed): &(SiteDependencyKind, SiteId)| (self.spans[needed.place()].1, std::cmp::Reverse(*needed));
        let (any, all): (Vec<_>, Vec<_>) = self
            .needs(site)
            .partition(|(need, _)| *need == SiteDependencyKind::AfterAny);
        let first = any
            .into_iter()
            .min_by_key(|(_, needed)| (self.spans[needed.place()].1, *needed));
        all.into_iter().chain(first).max_by_key(end)
    }

    fn row(&self, branch: &TreeBranch, parent: Option<(SiteDependencyKind, SiteId)>) -> PreviewRow {
        let site = branch.site;
        let star = if self.critical.contains(&site) && self.critical_path.len() > 1 {
            " *"
        } else {
            ""
        };
        let (takes, begins) = if self.skip_reason(site).is_some() {
            ("-".to_owned(), "-".to_owned())
        } else {
            let known = self.work.known_durations()[site.place()];
            let takes = known.map_or_else(|| "?".to_owned(), |known| span(known.as_secs_f64()));
            (takes, span(self.spans[site.place()].0.as_secs_f64()))
        };
        [
            format!("{}{}{star}", branch.stem(), self.name(site)),
            takes,
            begins,
            self.notes(site, parent, branch.depth),
        ]
    }

    /// Returns the facts that the tree itself does not show.
    fn notes(&self, site: SiteId, parent: Option<(SiteDependencyKind, SiteId)>, depth: usize) -> String {
        let named = |wanted: SiteDependencyKind| -> Vec<&str> {
            // The position below the parent already shows an `after` dependency.
            let is_shown =
                |need: &(SiteDependencyKind, SiteId)| wanted == SiteDependencyKind::After && Some(*need) == parent;
            let needs = self.needs(site).filter(|need| need.0 == wanted && !is_shown(need));
            needs.map(|(_, needed)| self.name(needed)).collect()
        };
        let mut notes = Vec::new();
        if let Some(why) = self.skip_reason(site) {
            notes.push(format!("skipped: {why}"));
        }
        if self.work.standings()[site.place()].breaker == BreakerState::HalfOpen {
            notes.push("only one attempt, because it failed in its last runs".to_owned());
        }
        for (need, words) in [
            (SiteDependencyKind::After, "after"),
            (SiteDependencyKind::AfterAny, "after any of"),
            (SiteDependencyKind::AfterFinished, "after the end of"),
        ] {
            let named = named(need);
            if !named.is_empty() {
                notes.push(format!("{words} {}", named.join(", ")));
            }
        }
        let uses = self
            .site(site)
            .uses
            .iter()
            .map(|(name, units)| format!("uses {units} {name}"));
        notes.extend(uses);
        if depth > DEEPEST {
            notes.push(format!("level {depth}"));
        }
        notes.join("; ")
    }
}

/// One site with the lines that are drawn in front of its name.
struct TreeBranch {
    site: SiteId,
    depth: usize,
    /// Text in front of the sites below this site.
    indent: String,
    is_last: bool,
}

impl TreeBranch {
    fn root(site: SiteId) -> Self {
        Self {
            site,
            depth: 0,
            indent: String::new(),
            is_last: true,
        }
    }

    fn child(&self, site: SiteId, is_last: bool) -> Self {
        let depth = self.depth + 1;
        let indent = match (self.depth, self.is_last) {
            (0, _) => String::new(),
            (deep, _) if deep >= DEEPEST => self.indent.clone(),
            (_, true) => format!("{}   ", self.indent),
            (_, false) => format!("{}│  ", self.indent),
        };
        Self {
            site,
            depth,
            indent,
            is_last,
        }
    }

    fn stem(&self) -> String {
        match (self.depth, self.is_last) {
            (0, _) => String::new(),
            (_, true) => format!("{}└─ ", self.indent),
            (_, false) => format!("{}├─ ", self.indent),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::commands::plan_preview::PlanPreview;
    use orch_config::{Config, LoadOptions};
    use orch_journal::{History, PastSite, SiteCounts, SiteName, SiteStatus};

    fn config(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("redis.mode = 'external'\n{text}");
        std::fs::write(directory.path().join("orch.toml"), text).unwrap();
        let options = LoadOptions {
            directory: directory.path().to_owned(),
            ..LoadOptions::default()
        };
        Config::load(options).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Creates the history of one run; the numbers are the seconds that each site took.
    fn history(ended: &[(&str, SiteStatus, u64)]) -> History {
        let result = |(site, status, seconds): &(&str, SiteStatus, u64)| {
            let result = PastSite {
                run_id: "r".into(),
                at: 0.0,
                status: *status,
                elapsed: Duration::from_secs(*seconds),
                attempt: Some(Duration::from_secs(*seconds)),
                counts: SiteCounts::default(),
                reason: Some("it is closed".to_owned()),
                cause: None,
            };
            (SiteName::from(*site), result)
        };
        History::of_results(ended.iter().map(result))
    }

    fn outlook<'c>(config: &'c Config, expected: &[(&str, u64)]) -> PlanPreview<'c> {
        let ended: Vec<_> = expected
            .iter()
            .map(|(site, seconds)| (*site, SiteStatus::Complete, *seconds))
            .collect();
        let sites: Vec<_> = config.sites.iter().collect();
        PlanPreview::new(config, &sites, &history(&ended)).unwrap()
    }

    #[test]
    fn a_skipped_site_is_shown_and_its_dependents_are_skipped_too() {
        let config = config(
            "sites.defaults.dispatch = 't'\nsites.defaults.skip_after_failures = 1\n[sites.a]\n[sites.b]\nafter = ['a']\n[sites.c]\n",
        );
        let failed = |site| (site, SiteStatus::Failed, 10);
        let history = history(&[failed("a"), failed("a"), failed("c"), ("b", SiteStatus::Complete, 30)]);
        let sites: Vec<_> = config.sites.iter().collect();
        let outlook = PlanPreview::new(&config, &sites, &history).unwrap();
        let lines: Vec<String> = outlook.rows().iter().map(|row| row.join("|")).collect();
        let why = "it failed in its last 2 runs (`skip_after_failures` is 1), the last time: it is closed; \
                   it is tried again in the next run, or with --force";
        assert_eq!(
            lines,
            [
                format!("a|-|-|skipped: {why}"),
                "└─ b|-|-|skipped: a is skipped".to_owned(),
                "c|?|0s|only one attempt, because it failed in its last runs".to_owned(),
            ]
        );
        let json = outlook.json();
        assert_eq!(
            (&json["sites"][0]["skipped"], &json["expected_seconds"]),
            (&why.into(), &30.0.into())
        );
        let tries = ["a", "b", "c"].map(|name| {
            let mut sites = json["sites"].as_array().unwrap().iter();
            sites.find(|site| site["site"] == name).unwrap()["tries"].clone()
        });
        assert_eq!(tries, ["skipped", "as_configured", "once"]);
    }

    const SHOP: &str = "orch.max_parallel_sites = 2\nresources.browsers = 1\nsites.defaults.dispatch = 't'\n\
        [sites.prices]\nafter = ['catalogue', 'login']\nuses.browsers = 1\n[sites.login]\n[sites.catalogue]\nafter = ['login']\n\
        [sites.either]\nafter_any = ['books', 'catalogue']\n[sites.books]\nuses.browsers = 1\n\
        [sites.report]\nafter_finished = ['prices', 'books']\n";

    #[test]
    fn each_site_is_listed_once_below_the_dependency_it_waits_for_longest() {
        let config = config(SHOP);
        let outlook = outlook(
            &config,
            &[
                ("login", 10),
                ("catalogue", 100),
                ("prices", 60),
                ("books", 30),
                ("report", 5),
            ],
        );
        assert_eq!(
            outlook.head(),
            [
                "6 sites, 2 at a time: about 2m55s, no less than 2m55s",
                "longest path: login -> catalogue -> prices -> report, 2m55s",
                "resources: 1 browsers",
                "1 site without a complete run so far, assumed to take 30s each",
            ]
        );
        let lines: Vec<String> = outlook.rows().iter().map(|row| row.join("|")).collect();
        assert_eq!(
            lines,
            [
                "login *|10s|0s|",
                "└─ catalogue *|1m40s|10s|",
                "   └─ prices *|1m|1m50s|after login; uses 1 browsers",
                "      └─ report *|5s|2m50s|after the end of prices, books",
                "books|30s|0s|uses 1 browsers",
                "└─ either|?|30s|after any of catalogue, books",
            ]
        );
    }

    #[test]
    fn graph_and_json_have_the_same_content() {
        let config = config(SHOP);
        let outlook = outlook(&config, &[("login", 10), ("catalogue", 100)]);
        let dot = outlook.dot();
        for line in [
            "  \"login\" [label=\"login\\n10s\" penwidth=2];",
            "  \"either\" [label=\"either\\n?\"];",
            "  \"login\" -> \"catalogue\" [penwidth=2];",
            "  \"login\" -> \"prices\";",
            "  \"books\" -> \"either\" [style=dashed];",
            "  \"books\" -> \"report\" [style=dotted];",
        ] {
            assert!(dot.lines().any(|found| found == line), "{line}\n{dot}");
        }
        let json = outlook.json();
        assert_eq!(
            json["critical_path"],
            serde_json::json!(["login", "catalogue", "prices", "report"])
        );
        let sites = json["sites"].as_array().unwrap();
        let site = |name: &str| sites.iter().find(|site| site["site"] == name).unwrap();
        assert_eq!(site("catalogue")["begins_seconds"], 10.0);
        assert_eq!(site("either")["expected_seconds"], serde_json::Value::Null);
        assert_eq!((sites.len(), &json["assumed_seconds"]), (6, &serde_json::json!(100.0)));
    }

    #[test]
    fn a_chain_of_all_sites_is_no_wider_than_a_screen() {
        let mut text = "sites.defaults.dispatch = 't'\nsites.s0 = {}\n".to_owned();
        for number in 1..2_000 {
            text.push_str(&format!("sites.s{number}.after = ['s{}']\n", number - 1));
        }
        let config = config(&text);
        let outlook = outlook(&config, &[]);
        let rows = outlook.rows();
        assert_eq!(rows.len(), 2_000);
        assert!(rows.iter().all(|row| row[0].chars().count() < 60), "{:?}", rows.last());
        assert_eq!(rows[1_999][3], "level 1999");
        assert!(
            outlook.head()[1].contains("s5 -> 1988 more -> s1994"),
            "{:?}",
            outlook.head()
        );
    }
}
