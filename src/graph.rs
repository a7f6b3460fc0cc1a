//! What comes before what, by positions: an order that keeps to it, or a cycle that allows none.
//!
//! Without recursion: a chain may be as long as a configuration. Not here: names, and what an edge means.

/// Positions in an order in which each stands behind all that are `before` it; among those that may be next the least is.
///
/// # Errors
/// There is none: a cycle, in which each needs the next, and the last the first.
pub fn order(before: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut behind: Vec<Vec<usize>> = vec![Vec::new(); before.len()];
    let mut missing: Vec<usize> = before.iter().map(Vec::len).collect();
    for (position, needed) in before.iter().enumerate() {
        for needed in needed {
            behind[*needed].push(position);
        }
    }
    let free = missing.iter().enumerate().filter(|(_, missing)| **missing == 0);
    let mut next: std::collections::BTreeSet<usize> = free.map(|(position, _)| position).collect();
    let mut order = Vec::with_capacity(before.len());
    while let Some(position) = next.pop_first() {
        order.push(position);
        for dependent in &behind[position] {
            missing[*dependent] -= 1;
            if missing[*dependent] == 0 {
                next.insert(*dependent);
            }
        }
    }
    match missing.iter().position(|missing| *missing > 0) {
        None => Ok(order),
        Some(start) => Err(cycle(before, &missing, start)),
    }
}

/// What is left needs something that is left: going from one to the next comes round.
fn cycle(before: &[Vec<usize>], missing: &[usize], start: usize) -> Vec<usize> {
    let mut place: Vec<Option<usize>> = vec![None; before.len()];
    let mut path: Vec<usize> = Vec::new();
    let mut here = start;
    loop {
        if let Some(first) = place[here] {
            return path.split_off(first);
        }
        place[here] = Some(path.len());
        path.push(here);
        match before[here].iter().find(|needed| missing[**needed] > 0) {
            Some(needed) => here = *needed,
            // Not of what is left.
            None => return path,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_that_may_be_next_is_and_a_cycle_is_told_in_its_order() {
        let order_of = |before: &[&[usize]]| order(&before.iter().map(|needed| needed.to_vec()).collect::<Vec<_>>());
        assert_eq!(order_of(&[]), Ok(vec![]));
        assert_eq!(order_of(&[&[2], &[], &[1], &[]]), Ok(vec![1, 2, 0, 3]));
        assert_eq!(order_of(&[&[0]]), Err(vec![0]));
        // 0 needs what is in the cycle and is no part of it.
        assert_eq!(order_of(&[&[1], &[2, 2], &[3], &[1]]), Err(vec![1, 2, 3]));
    }

    #[test]
    fn a_chain_of_any_length_is_no_recursion() {
        let length = 200_000;
        let mut before: Vec<Vec<usize>> = (0..length).map(|position| vec![position + 1]).collect();
        before.push(vec![]);
        assert_eq!(order(&before).map(|order| order.len()), Ok(length + 1));
        before[length] = vec![0];
        assert_eq!(order(&before).map_err(|cycle| cycle.len()), Err(length + 1));
    }

    proptest! {
        #[test]
        fn an_order_keeps_to_every_edge_and_a_cycle_consists_of_them(
            edges in (1..12_usize).prop_flat_map(|count| {
                let edge = (0..count, 0..count);
                (Just(count), proptest::collection::vec(edge, 0..20))
            })
        ) {
            let (count, edges) = edges;
            let mut before = vec![Vec::new(); count];
            for (position, needed) in edges {
                before[position].push(needed);
            }
            match order(&before) {
                Ok(order) => {
                    let place = |position| order.iter().position(|found| *found == position);
                    prop_assert_eq!(order.len(), count);
                    for (position, needed) in before.iter().enumerate() {
                        for needed in needed {
                            prop_assert!(place(*needed) < place(position));
                        }
                    }
                }
                Err(cycle) => {
                    prop_assert!(!cycle.is_empty());
                    for (index, position) in cycle.iter().enumerate() {
                        prop_assert!(before[*position].contains(&cycle[(index + 1) % cycle.len()]));
                    }
                }
            }
        }
    }
}
