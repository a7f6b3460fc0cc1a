//! Which sites are meant: by name, by glob, by group, by tag. For `--sites` and for the members of a group.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::model::{Config, SiteConfig};
use super::problem::nearest;
use crate::glob;
use crate::run::SiteName;

/// One way to name sites. No name of a site has any of the characters that tell them apart.
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
    /// As it is written.
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

/// What selects nothing, and what may have been meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Unknown {
    pub selector: Selector,
    /// The nearest known one of its kind.
    pub near: Option<String>,
}

impl Unknown {
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

/// What does not select any site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct UnknownSites {
    /// All at once.
    pub unknown: Vec<Unknown>,
    /// All known names.
    pub known: Vec<String>,
}

impl UnknownSites {
    fn describe(&self) -> String {
        let mut lines: Vec<String> = self.unknown.iter().map(Unknown::to_string).collect();
        const SHOWN: usize = 20;
        lines.push(match self.known.len() {
            0 => "the configuration has no sites".to_owned(),
            1..=SHOWN => format!("known sites: {}", self.known.join(", ")),
            count => format!("{count} sites are known, among them {}", self.known[..SHOWN].join(", ")),
        });
        lines.join("\n")
    }
}

/// The sites of a configuration, to be selected from.
pub(super) struct Choice<'c> {
    sites: &'c [SiteConfig],
    groups: &'c BTreeMap<String, Vec<SiteName>>,
    /// Position of each name.
    positions: HashMap<&'c str, usize>,
    by_tag: BTreeMap<&'c str, Vec<usize>>,
}

impl<'c> Choice<'c> {
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

    /// Positions of the sites that are meant, in no order.
    pub fn select(&self, selector: &Selector) -> Result<Vec<usize>, Unknown> {
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

    fn unknown(&self, selector: &Selector) -> Unknown {
        let near = match selector {
            Selector::Name(name) => nearest(name, self.sites.iter().map(|site| site.name.as_str())),
            Selector::Tag(tag) => nearest(tag, self.by_tag.keys().copied()),
            Selector::Group(group) => nearest(group, self.groups.keys().map(String::as_str)),
            Selector::Glob(_) => None,
        };
        Unknown {
            selector: selector.clone(),
            near: near.map(str::to_owned),
        }
    }
}

/// Beyond so many unknown names the nearest known ones are not looked for: it takes the number of one times the other.
const MOST_LOOKED_UP: usize = 100;

impl Config {
    /// The sites that are meant by at least one of these, in the order of the configuration; all where there are none.
    ///
    /// # Errors
    /// Some that mean no site, all at once.
    pub fn sites_selected(&self, selectors: &[String]) -> Result<Vec<&SiteConfig>, UnknownSites> {
        if selectors.is_empty() {
            return Ok(self.sites.iter().collect());
        }
        let choice = Choice::of(&self.sites, &self.groups);
        let mut selected = BTreeSet::new();
        let mut unknown = Vec::new();
        for selector in selectors {
            match choice.select(&Selector::parse(selector)) {
                Ok(positions) => selected.extend(positions),
                Err(other) => unknown.push(other),
            }
            if unknown.len() == MOST_LOOKED_UP {
                break;
            }
        }
        if unknown.is_empty() {
            return Ok(selected.into_iter().map(|position| &self.sites[position]).collect());
        }
        let known = self.sites.iter().map(|site| site.name.as_str().to_owned()).collect();
        Err(UnknownSites { unknown, known })
    }

    /// The same sites and all that they depend on, directly or not, in the order of the configuration.
    pub fn with_dependencies<'c>(&'c self, selected: &[&'c SiteConfig]) -> Vec<&'c SiteConfig> {
        let choice = Choice::of(&self.sites, &self.groups);
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = selected.iter().filter_map(|site| choice.position(&site.name)).collect();
        while let Some(position) = open.pop() {
            if found.insert(position) {
                let needed = self.sites[position].needs.all();
                open.extend(needed.filter_map(|(_, name)| choice.position(name)));
            }
        }
        found.into_iter().map(|position| &self.sites[position]).collect()
    }
}
