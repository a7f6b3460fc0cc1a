//! Selection of sites by name, glob, group or tag, for `--sites` and for the members of a group.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::model::{Config, SiteConfig};
use crate::syntax::problem::nearest;
use orch_base::names::SiteName;
use orch_base::text::glob;

/// One way to select sites. Site names contain none of the characters that distinguish the forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `books`
    Name(String),
    /// `shop-*`, `shop-?`
    Glob(String),
    /// `@nightly`
    Group(String),
    /// `tag:fast`
    Tag(String),
}

impl Selector {
    /// Reads a selector.
    pub fn parse(text: &str) -> Self {
        if let Some(group) = text.strip_prefix('@') {
            Selector::Group(group.to_owned())
        } else if let Some(tag) = text.strip_prefix("tag:") {
            Selector::Tag(tag.to_owned())
        } else if glob::is_glob(text) {
            Selector::Glob(text.to_owned())
        } else {
            Selector::Name(text.to_owned())
        }
    }
}

/// Selector that matches nothing, and the most similar known name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct UnknownSelector {
    pub selector: Selector,
    /// Most similar known name of the same kind.
    pub near: Option<String>,
}

impl UnknownSelector {
    fn describe(&self) -> String {
        let (nothing, sign) = match &self.selector {
            Selector::Name(name) => (format!("there is no site `{name}`"), ""),
            Selector::Glob(glob) => (format!("no site matches `{glob}`"), ""),
            Selector::Group(group) => (format!("there is no group `{group}`"), "@"),
            Selector::Tag(tag) => (format!("no site has the tag `{tag}`"), "tag:"),
        };
        match &self.near {
            Some(near) => format!("{nothing}; did you mean `{sign}{near}`?"),
            None => nothing,
        }
    }
}

/// Selectors that match no site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct UnknownSites {
    /// All of them.
    pub unknown: Vec<UnknownSelector>,
    /// All known site names.
    pub known: Vec<String>,
}

impl UnknownSites {
    fn describe(&self) -> String {
        let mut lines: Vec<String> = self.unknown.iter().map(UnknownSelector::to_string).collect();
        const MAX_SHOWN: usize = 20;
        lines.push(match self.known.len() {
            0 => "the configuration has no sites".to_owned(),
            1..=MAX_SHOWN => format!("known sites: {}", self.known.join(", ")),
            count => format!(
                "{count} sites are known, among them {}",
                self.known[..MAX_SHOWN].join(", ")
            ),
        });
        lines.join("\n")
    }
}

/// Sites of a configuration with indexes for the selection.
pub(crate) struct SiteIndex<'c> {
    sites: &'c [SiteConfig],
    groups: &'c BTreeMap<String, Vec<SiteName>>,
    /// Position of each name.
    positions: HashMap<&'c str, usize>,
    by_tag: BTreeMap<&'c str, Vec<usize>>,
}

impl<'c> SiteIndex<'c> {
    pub fn of(sites: &'c [SiteConfig], groups: &'c BTreeMap<String, Vec<SiteName>>) -> Self {
        let mut by_tag: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (position, site) in sites.iter().enumerate() {
            for tag in &site.tags {
                by_tag.entry(tag).or_default().push(position);
            }
        }
        let names = sites.iter().map(|site| site.name.as_str());
        Self {
            sites,
            groups,
            positions: names.zip(0..).collect(),
            by_tag,
        }
    }

    pub fn position(&self, name: &SiteName) -> Option<usize> {
        self.positions.get(name.as_str()).copied()
    }

    /// Returns the positions of the selected sites, in no particular order.
    pub fn select(&self, selector: &Selector) -> Result<Vec<usize>, UnknownSelector> {
        let found = match selector {
            Selector::Name(name) => self.positions.get(name.as_str()).map(|position| vec![*position]),
            Selector::Tag(tag) => self.by_tag.get(tag.as_str()).cloned(),
            Selector::Group(group) => {
                let members = self.groups.get(group);
                members.map(|members| members.iter().filter_map(|name| self.position(name)).collect())
            }
            Selector::Glob(glob) => {
                let sites = self.sites.iter().enumerate();
                let matching = sites.filter(|(_, site)| glob::matches(glob, site.name.as_str()));
                Some(matching.map(|(position, _)| position).collect()).filter(|found: &Vec<usize>| !found.is_empty())
            }
        };
        found.ok_or_else(|| self.unknown(selector))
    }

    fn unknown(&self, selector: &Selector) -> UnknownSelector {
        let near = match selector {
            Selector::Name(name) => nearest(name, self.sites.iter().map(|site| site.name.as_str())),
            Selector::Tag(tag) => nearest(tag, self.by_tag.keys().copied()),
            Selector::Group(group) => nearest(group, self.groups.keys().map(String::as_str)),
            Selector::Glob(_) => None,
        };
        UnknownSelector {
            selector: selector.clone(),
            near: near.map(str::to_owned),
        }
    }
}

/// Number of unknown selectors for which similar known names are searched; the search takes time proportional to
/// unknown times known names.
const MAX_LOOKED_UP: usize = 100;

impl Config {
    /// Returns the sites that at least one selector matches, in the order of the configuration; all sites if there are
    /// no selectors.
    ///
    /// # Errors
    /// Some selectors match no site; all of them are reported together.
    pub fn sites_selected(&self, selectors: &[String]) -> Result<Vec<&SiteConfig>, UnknownSites> {
        if selectors.is_empty() {
            return Ok(self.sites.iter().collect());
        }
        let choice = SiteIndex::of(&self.sites, &self.groups);
        let mut selected = BTreeSet::new();
        let mut unknown = Vec::new();
        for selector in selectors {
            match choice.select(&Selector::parse(selector)) {
                Ok(positions) => selected.extend(positions),
                Err(other) => unknown.push(other),
            }
            if unknown.len() == MAX_LOOKED_UP {
                break;
            }
        }
        if unknown.is_empty() {
            return Ok(selected.into_iter().map(|position| &self.sites[position]).collect());
        }
        let known = self.sites.iter().map(|site| site.name.as_str().to_owned()).collect();
        Err(UnknownSites { unknown, known })
    }

    /// Returns these sites and all their direct and indirect dependencies, in the order of the configuration.
    pub fn with_dependencies<'c>(&'c self, selected: &[&'c SiteConfig]) -> Vec<&'c SiteConfig> {
        let choice = SiteIndex::of(&self.sites, &self.groups);
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = selected.iter().filter_map(|site| choice.position(&site.name)).collect();
        while let Some(position) = open.pop() {
            if found.insert(position) {
                let needed = self.sites[position].dependencies.all();
                open.extend(needed.filter_map(|(_, name)| choice.position(name)));
            }
        }
        found.into_iter().map(|position| &self.sites[position]).collect()
    }
}
