//! Hint at sites without results: the setting that allows no results, and the file to change.

use std::collections::BTreeMap;
use std::path::Path;

use super::report::SiteReport;
use orch_config::{Config, SiteConfig};
use orch_journal::{EndCause, SiteStatus};

/// Number of sites that are named for each file; further ones are only counted.
const MOST_NAMED: usize = 5;

/// Returns the settings and files for sites that may have no results; `None` if every site had results or usually has
/// some.
pub fn hint_at_empty_sites(config: &Config, reports: &[SiteReport]) -> Option<String> {
    let mut by_file: BTreeMap<&Path, Vec<&SiteConfig>> = BTreeMap::new();
    for report in reports {
        let is_empty = report.status == SiteStatus::Degraded && report.counts.has_no_results();
        // A site that usually has results is not empty by nature.
        let is_usual = matches!(report.cause, Some(EndCause::TooFewResults { median: None, .. }));
        if is_empty
            && is_usual
            && let Some(site) = config.sites.iter().find(|site| site.name == report.site)
        {
            let file = site.sites_file.as_deref().unwrap_or(&config.file);
            by_file.entry(file).or_default().push(site);
        }
    }
    let lines: Vec<String> = by_file.iter().map(|(file, sites)| line(file, sites)).collect();
    let mut lines = lines.into_iter();
    let first = lines.next()?;
    Some(
        lines.fold(format!("if a site may have no results, set {first}"), |text, line| {
            format!("{text}; {line}")
        }),
    )
}

/// Returns the setting to write into one file.
fn line(file: &Path, sites: &[&SiteConfig]) -> String {
    let extension = file.extension().and_then(|extension| extension.to_str());
    let is_sites_file = sites.first().is_some_and(|site| site.sites_file.is_some());
    let extension = extension.unwrap_or_default().to_lowercase();
    let (setting, is_toml) = match extension.as_str() {
        "yaml" | "yml" if is_sites_file => ("min_results: 0", false),
        "json" if is_sites_file => ("\"min_results\": 0", false),
        _ => ("min_results = 0", true),
    };
    let section = |site: &&SiteConfig| {
        let name = key(site.name.as_str());
        match (is_toml, is_sites_file) {
            (true, true) => format!("[{name}]"),
            (true, false) => format!("[sites.{name}]"),
            (false, _) => format!("`{}`", site.name),
        }
    };
    let named: Vec<String> = sites.iter().take(MOST_NAMED).map(section).collect();
    let more = match sites.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("`{setting}` in {}{more} of {}", named.join(", "), file.display())
}

/// Quotes a name where TOML requires quotes for a key.
fn key(name: &str) -> String {
    let is_bare = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    match name.chars().all(is_bare) {
        true => name.to_owned(),
        false => format!("\"{name}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_the_file_which_names_the_site() {
        let site = |name: &str, sites_file: Option<&str>| SiteConfig {
            name: name.into(),
            sites_file: sites_file.map(Into::into),
            ..crate::sites::template_values::tests::site(serde_json::json!({}))
        };
        let many: Vec<String> = (0..7).map(|number| format!("s{number}")).collect();
        let many: Vec<SiteConfig> = many.iter().map(|name| site(name, None)).collect();
        for (file, sites, expected) in [
            (
                "/x/orch.toml",
                vec![site("shop", None), site("a.b", None)],
                "`min_results = 0` in [sites.shop], [sites.\"a.b\"] of /x/orch.toml",
            ),
            (
                "/x/sites.YAML",
                vec![site("shop", Some("/x/sites.YAML"))],
                "`min_results: 0` in `shop` of /x/sites.YAML",
            ),
            (
                "/x/s.json",
                vec![site("shop", Some("/x/s.json"))],
                "`\"min_results\": 0` in `shop` of /x/s.json",
            ),
            (
                "/x/s.toml",
                vec![site("shop", Some("/x/s.toml"))],
                "`min_results = 0` in [shop] of /x/s.toml",
            ),
            (
                "/x/orch.toml",
                many,
                "`min_results = 0` in [sites.s0], [sites.s1], [sites.s2], [sites.s3], [sites.s4] and 2 more of /x/orch.toml",
            ),
        ] {
            let sites: Vec<&SiteConfig> = sites.iter().collect();
            assert_eq!(line(Path::new(file), &sites), expected);
        }
    }
}
