//! The order in which services start and stop, computed from their `after` lists.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use orch_base::topological_order;
use orch_journal::ServiceName;

/// The dependencies between services. Acyclic: the configuration has been checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartOrder {
    /// The services in the order of the configuration.
    names: Vec<ServiceName>,
    after: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
}

impl StartOrder {
    /// Adds a service that starts once all services in `after` are ready. Names that are not part of the order are
    /// ignored: a service that is switched off delays nobody.
    pub fn add(&mut self, name: ServiceName, after: impl IntoIterator<Item = ServiceName>) {
        self.after.entry(name.clone()).or_default().extend(after);
        self.names.push(name);
    }

    /// Lists all services, each after the dependencies, otherwise in the order of the configuration.
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
        match topological_order::order(&before) {
            Ok(order) => order
                .into_iter()
                .filter_map(|position| self.names.get(position).cloned())
                .collect(),
            // The configuration rejects cycles. If there is one nevertheless, a wrong order is better than a lost
            // service.
            Err(_cycle) => self.names.clone(),
        }
    }

    /// Lists the dependencies of `name`.
    pub fn dependencies<'a>(&'a self, name: &ServiceName) -> impl Iterator<Item = &'a ServiceName> {
        self.after
            .get(name)
            .into_iter()
            .flatten()
            .filter(|needed| self.after.contains_key(*needed))
    }
}

/// Returns the stop rank of each service: a service has a higher rank than all dependencies, so dependents are gone
/// first.
///
/// Services without dependents stop together, in the first round. Ranks count from the top; otherwise the stop bound
/// would be the sum of unrelated grace periods. Redis stops last and has rank 0.
pub fn stop_ranks(order: &StartOrder, last: Option<&ServiceName>) -> BTreeMap<ServiceName, u32> {
    // Depth 0: no service depends on this one.
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
    fn a_service_starts_after_its_dependencies_and_stops_before_them() {
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
    fn tens_of_thousands_of_services_are_sorted_and_ranked_quickly() {
        // A chain in reverse order, a star, and services without dependencies.
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
        // Some tens of milliseconds without optimisation; a cubic algorithm took hours.
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_cycle_loses_no_service() {
        let order = order(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]);
        assert_eq!(order.sorted().len(), 3);
    }
}
