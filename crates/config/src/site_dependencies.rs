//! Dependencies between sites.

use orch_base::names::SiteName;

/// Dependencies of one site; another site may be in several of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteDependencies {
    /// `after`: each must have succeeded.
    pub after: Vec<SiteName>,
    /// `after_any`: one of them must have succeeded.
    pub after_any: Vec<SiteName>,
    /// `after_finished`: each must have ended, with any outcome.
    pub after_finished: Vec<SiteName>,
}

/// Kind of a dependency between sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SiteDependencyKind {
    After,
    AfterAny,
    AfterFinished,
}

impl SiteDependencyKind {
    /// Returns the key of the configuration.
    pub fn key(self) -> &'static str {
        match self {
            SiteDependencyKind::After => "after",
            SiteDependencyKind::AfterAny => "after_any",
            SiteDependencyKind::AfterFinished => "after_finished",
        }
    }

    /// Returns the word for messages, placed between the names of two sites.
    pub fn preposition(self) -> &'static str {
        match self {
            SiteDependencyKind::After | SiteDependencyKind::AfterAny => "after",
            SiteDependencyKind::AfterFinished => "after the end of",
        }
    }
}

impl SiteDependencies {
    /// Returns every needed site with the kind of the dependency.
    pub fn all(&self) -> impl Iterator<Item = (SiteDependencyKind, &SiteName)> {
        let lists = [
            (SiteDependencyKind::After, &self.after),
            (SiteDependencyKind::AfterAny, &self.after_any),
            (SiteDependencyKind::AfterFinished, &self.after_finished),
        ];
        lists
            .into_iter()
            .flat_map(|(need, sites)| sites.iter().map(move |site| (need, site)))
    }
}
