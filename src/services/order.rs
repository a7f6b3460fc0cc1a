//! In which order services start and stop: a pure look at who comes `after` whom.

use std::collections::{BTreeMap, BTreeSet};

use crate::run::ServiceName;

/// Who waits for whom. Acyclic: the configuration has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOrder {
    /// In order of the configuration.
    names: Vec<ServiceName>,
    after: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

impl StartOrder {
    /// Adds a service that starts once all of `after` are ready (names that are not part of the order are ignored:
    /// a service that is switched off is not waited for).
    pub fn add(&mut self, name: ServiceName, after: impl IntoIterator<Item = ServiceName>) {
        self.after.entry(name.clone()).or_default().extend(after);
        self.names.push(name);
    }

    /// All services, each after those it waits for, otherwise in order of the configuration.
    pub fn sorted(&self) -> Vec<ServiceName> {
        let mut sorted: Vec<ServiceName> = Vec::with_capacity(self.names.len());
        while sorted.len() < self.names.len() {
            let next = self
                .names
                .iter()
                .find(|name| !sorted.contains(name) && self.dependencies(name).all(|needed| sorted.contains(needed)));
            match next {
                Some(name) => sorted.push(name.clone()),
                // A cycle can not get here (the configuration refuses it); losing a service would be worse than order.
                None => {
                    let rest: Vec<_> = self
                        .names
                        .iter()
                        .filter(|name| !sorted.contains(name))
                        .cloned()
                        .collect();
                    sorted.extend(rest);
                }
            }
        }
        sorted
    }

    /// What `name` waits for.
    pub fn dependencies<'a>(&'a self, name: &ServiceName) -> impl Iterator<Item = &'a ServiceName> {
        self.after
            .get(name)
            .into_iter()
            .flatten()
            .filter(|needed| self.after.contains_key(*needed))
    }
}

/// The rank of each service for the stop: a service outranks all that it depends on, so dependents are gone first.
///
/// What nobody depends on stops together, in the first round: ranks count from the top, or the bound of the stop
/// would be the sum of grace periods that have nothing to do with each other. Redis, the last to go, has rank 0.
pub fn stop_ranks(order: &StartOrder, last: Option<&ServiceName>) -> BTreeMap<ServiceName, u32> {
    // depth 0: nobody depends on it.
    let mut depth: BTreeMap<ServiceName, u32> = BTreeMap::new();
    for name in order.sorted().iter().rev() {
        let own = depth.get(name).copied().unwrap_or(0);
        depth.insert(name.clone(), own);
        for needed in order.dependencies(name) {
            let below = depth.entry(needed.clone()).or_insert(0);
            *below = (*below).max(own + 1);
        }
    }
    let deepest = depth.values().copied().max().unwrap_or(0);
    depth
        .into_iter()
        .map(|(name, depth)| {
            let rank = if Some(&name) == last { 0 } else { deepest - depth + 1 };
            (name, rank)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(edges: &[(&str, &[&str])]) -> StartOrder {
        let mut order = StartOrder::default();
        for (name, after) in edges {
            order.add((*name).into(), after.iter().map(|name| (*name).into()));
        }
        order
    }

    #[test]
    fn starts_after_what_it_needs_and_stops_before_it() {
        let order = order(&[
            ("redis", &[]),
            ("celery", &["redis", "tables"]),
            ("tables", &[]),
            ("web", &[]),
            ("beat", &["redis", "absent"]),
        ]);
        let names: Vec<_> = order.sorted().iter().map(|name| name.to_string()).collect();
        assert_eq!(names, ["redis", "tables", "celery", "web", "beat"]);
        let ranks = stop_ranks(&order, Some(&"redis".into()));
        let rank = |name: &str| ranks[&ServiceName::from(name)];
        assert!(rank("celery") > rank("tables"));
        assert_eq!(rank("celery"), rank("web"));
        assert_eq!(rank("celery"), rank("beat"));
        assert_eq!(rank("redis"), 0);
        assert!(ranks.iter().all(|(name, rank)| name.as_str() == "redis" || *rank > 0));
    }
}
