//! What sites share: `[resources]`, and `[groups]` of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::item::{Item, bad_name};
use crate::config::model::SiteConfig;
use crate::config::problem::Problem;
use crate::config::section::Section;
use crate::config::select::{Choice, Selector};
use crate::run::SiteName;

/// Of each kind; every one is looked at when a site may begin.
const MOST: usize = 1000;
/// Units of a resource.
const MOST_UNITS: i64 = 1_000_000;

/// `[resources]`: how many units of each there are.
pub(in crate::config) fn resources(root: &Section<'_>) -> BTreeMap<String, u32> {
    let section = root.section("resources");
    let mut found = BTreeMap::new();
    for (key, item) in section.named_up_to(MOST, "resources") {
        if let Some(why) = bad_name(&key.name) {
            let title = format!("a resource cannot be named `{}`", key.name);
            root.reading.report(Problem::new(title).at(key.span, why));
        }
        // What cannot be read is reported; its uses are not as well.
        let count = item.integer(1..=MOST_UNITS).unwrap_or(u32::MAX);
        found.insert(key.name.clone(), count);
    }
    found
}

/// `[groups]`: sites by names, globs and tags, in the order of the configuration.
pub(in crate::config) fn groups(root: &Section<'_>, sites: &[SiteConfig]) -> BTreeMap<String, Vec<SiteName>> {
    let section = root.section("groups");
    let none = BTreeMap::new();
    let choice = Choice::of(sites, &none);
    let mut found = BTreeMap::new();
    for (key, item) in section.named_up_to(MOST, "groups") {
        if let Some(why) = bad_name(&key.name) {
            let title = format!("a group cannot be named `{}`", key.name);
            root.reading.report(Problem::new(title).at(key.span, why));
        }
        let members = item.list(|item| members(item, &choice)).unwrap_or_default();
        let positions: BTreeSet<usize> = members.into_iter().flatten().collect();
        let names = positions.into_iter().map(|position| sites[position].name.clone());
        found.insert(key.name.clone(), names.collect());
    }
    found
}

fn members(item: &Item<'_>, choice: &Choice<'_>) -> Option<Vec<usize>> {
    let text = item.line()?;
    let selector = Selector::parse(&text);
    if let Selector::Group(_) = selector {
        let title = format!("`{}` names a group", item.path);
        return item.report(item.problem(title, "a group is made of names, globs and `tag:...`"));
    }
    match choice.select(&selector) {
        Ok(positions) => Some(positions),
        Err(unknown) => item.report(
            item.problem(format!("`{}` means no site", item.path), unknown.to_string())
                .absence(),
        ),
    }
}
