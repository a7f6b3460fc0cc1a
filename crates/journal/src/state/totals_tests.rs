//! Tests of the totals against sums over all sites.

use proptest::prelude::*;

use super::*;
use crate::any_event::any_event;
use crate::state::model::RunState;

proptest! {
    #[test]
    fn the_totals_are_the_sum_over_all_sites(events in proptest::collection::vec(any_event(), 0..60)) {
        let mut state = RunState::default();
        for event in &events {
            state.apply(event);
            let summed = RunTotals { ended: state.totals.ended.clone(), ..RunTotals::of(&state.sites) };
            prop_assert_eq!(&state.totals, &summed);
            prop_assert!(state.totals.ended.samples.len() <= 62);
        }
    }
}

#[test]
fn the_rate_is_that_of_the_last_minute() {
    let mut ended = ChunkRateMeter::default();
    assert_eq!(ended.rate(10.0), None);
    ended.add(5, 10.0);
    assert_eq!(ended.rate(10.5), None, "too short");
    assert_eq!(ended.rate(15.0), Some(1.0));
    // Three per second for two minutes.
    for tenth in 0..1200 {
        ended.add(u64::from(tenth % 10 == 0) * 3, 20.0 + f64::from(tenth) / 10.0);
    }
    let now = 140.0;
    let rate = ended.rate(now).unwrap();
    assert!((rate - 3.0).abs() < 0.1, "{rate}");
    assert_eq!(ended.rate(now + 61.0), Some(0.0), "nothing for a minute");
    assert!(ended.samples.len() < 64, "{}", ended.samples.len());
}
