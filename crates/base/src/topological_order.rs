//! Orders positions topologically, or finds a cycle that makes an order impossible.
//!
//! The code has no recursion, because a chain of dependencies may be as long as a configuration.

/// Orders positions so that each comes after all positions in its entry of `before`; of several candidates the smallest
/// comes first.
///
/// # Errors
/// There is no order. The error is a cycle in which each position needs the next one and the last needs the first.
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

/// Finds a cycle: every position that could not be ordered needs another such position, so that following them returns
/// to one that was visited.
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
            // Never reached: such a position needs no other one.
            None => return path,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_candidate_comes_first_and_a_cycle_is_in_order() {
        let order_of = |before: &[&[usize]]| order(&before.iter().map(|needed| needed.to_vec()).collect::<Vec<_>>());
        assert_eq!(order_of(&[]), Ok(vec![]));
        assert_eq!(order_of(&[&[2], &[], &[1], &[]]), Ok(vec![1, 2, 0, 3]));
        assert_eq!(order_of(&[&[0]]), Err(vec![0]));
        // Position 0 needs the cycle and is not part of it.
        assert_eq!(order_of(&[&[1], &[2, 2], &[3], &[1]]), Err(vec![1, 2, 3]));
    }

    #[test]
    fn a_long_chain_does_not_overflow_the_stack() {
        let length = 200_000;
        let mut before: Vec<Vec<usize>> = (0..length).map(|position| vec![position + 1]).collect();
        before.push(vec![]);
        assert_eq!(order(&before).map(|order| order.len()), Ok(length + 1));
        before[length] = vec![0];
        assert_eq!(order(&before).map_err(|cycle| cycle.len()), Err(length + 1));
    }

    proptest! {
        #[test]
        fn an_order_keeps_every_edge_and_a_cycle_consists_of_edges(
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
