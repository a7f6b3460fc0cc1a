//! Definitions that sites share: `[resources]` and `[groups]`.

use std::collections::{BTreeMap, BTreeSet};

use super::item::{ConfigItem, has_valid_name};
use super::section::Section;
use crate::model::SiteConfig;
use crate::select::{Selector, SiteIndex};
use orch_base::names::SiteName;

/// Number of resources and of groups at most; all resources are checked whenever a site may begin.
const MAX_ENTRIES: usize = 1000;
/// Number of units of a resource at most.
const MAX_UNITS: i64 = 1_000_000;

/// Reads `[resources]`: the number of units of each.
pub(crate) fn resources(root: &Section<'_>) -> BTreeMap<String, u32> {
    let section = root.section("resources");
    let mut found = BTreeMap::new();
    for (key, item) in section.named_up_to(MAX_ENTRIES, "resources") {
        has_valid_name(root.reading, "a resource", key);
        // A count that cannot be read is reported already; this value prevents further problems with its uses.
        let count = item.integer(1..=MAX_UNITS).unwrap_or(u32::MAX);
        found.insert(key.name.clone(), count);
    }
    found
}

/// Reads `[groups]`: sites by names, globs and tags, in the order of the configuration.
pub(crate) fn groups(root: &Section<'_>, sites: &[SiteConfig]) -> BTreeMap<String, Vec<SiteName>> {
    let section = root.section("groups");
    let none = BTreeMap::new();
    let choice = SiteIndex::of(sites, &none);
    let mut found = BTreeMap::new();
    for (key, item) in section.named_up_to(MAX_ENTRIES, "groups") {
        has_valid_name(root.reading, "a group", key);
        let members = item.list(|item| members(item, &choice)).unwrap_or_default();
        let positions: BTreeSet<usize> = members.into_iter().flatten().collect();
        let names = positions.into_iter().map(|position| sites[position].name.clone());
        found.insert(key.name.clone(), names.collect());
    }
    found
}

fn members(item: &ConfigItem<'_>, choice: &SiteIndex<'_>) -> Option<Vec<usize>> {
    let text = item.line()?;
    let selector = Selector::parse(&text);
    if let Selector::Group(_) = selector {
        let title = format!("`{}` is a group", item.path);
        return item.refuse(title, "a group consists of names, globs and `tag:...`");
    }
    match choice.select(&selector) {
        Ok(positions) => Some(positions),
        Err(unknown) => item.report(
            item.problem(format!("`{}` matches no site", item.path), unknown.to_string())
                .absence(),
        ),
    }
}
