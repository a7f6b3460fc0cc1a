//! In which order services start and stop: a pure look at who comes `after` whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::graph;
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
        let positions: HashMap<&ServiceName, usize> = self
            .names
            .iter()
            .enumerate()
            .map(|(position, name)| (name, position))
            .collect();
        let needed = |name: &ServiceName| -> Vec<usize> {
            self.dependencies(name)
                .filter_map(|needed| positions.get(needed).copied())
                .collect()
        };
        let before: Vec<Vec<usize>> = self.names.iter().map(needed).collect();
        match graph::order(&before) {
            Ok(order) => order
                .into_iter()
                .filter_map(|position| self.names.get(position).cloned())
                .collect(),
            // A cycle can not get here (the configuration refuses it); losing a service would be worse than order.
            Err(_cycle) => self.names.clone(),
        }
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

    #[test]
    fn ten_thousand_services_are_sorted_and_ranked_in_no_time() {
        // A chain, written from its end; a star; and what waits for nobody.
        let name = |kind: &str, number: usize| ServiceName::new(format!("{kind}{number}"));
        let count = 10_000;
        let mut order = StartOrder::default();
        for number in (0..count).rev() {
            let before = (number > 0).then(|| name("chain", number - 1));
            order.add(name("chain", number), before);
            order.add(
                name("star", number),
                [ServiceName::from("redis"), name("chain", number)],
            );
            order.add(name("free", number), []);
        }
        order.add("redis".into(), []);
        let begin = std::time::Instant::now();
        let sorted = order.sorted();
        let ranks = stop_ranks(&order, Some(&"redis".into()));
        let took = begin.elapsed();
        assert_eq!((sorted.len(), ranks.len()), (3 * count + 1, 3 * count + 1));
        let chain = sorted.iter().filter(|name| name.as_str().starts_with("chain"));
        assert!(
            chain.eq((0..count)
                .map(|number| name("chain", number))
                .collect::<Vec<_>>()
                .iter())
        );
        // Some tens of milliseconds, unoptimised; cubic it was hours.
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_cycle_loses_no_service() {
        let order = order(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]);
        assert_eq!(order.sorted().len(), 3);
    }
}
