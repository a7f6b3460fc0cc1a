//! Does every site exist that another depends on, and is there an order in which all can run?

use std::collections::{BTreeMap, HashMap};

use super::model::{Need, SiteConfig};
use super::problem::{Problem, nearest};
use super::section::{Reading, SiteNeed};
use super::source::Span;
use crate::graph;
use crate::run::SiteName;

/// Beyond so many unknown names the nearest known ones are not looked for: it takes the number of one times the other.
const MOST_LOOKED_UP: usize = 100;
/// Circles that are looked for, and links of one that are shown.
const MOST_CYCLES: usize = 20;
const MOST_LINKS: usize = 10;

/// Reports unknown names and cycles.
pub(super) fn check(reading: &Reading, sites: &[SiteConfig]) {
    let positions: HashMap<&SiteName, usize> = sites.iter().map(|site| &site.name).zip(0..).collect();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); sites.len()];
    let mut links: BTreeMap<(usize, usize), (Need, Span)> = BTreeMap::new();
    let mut unknown = 0;
    for need in reading.site_needs.take() {
        let Some(site) = positions.get(&need.site) else {
            continue;
        };
        match positions.get(&need.needs) {
            Some(needed) => {
                before[*site].push(*needed);
                links.entry((*site, *needed)).or_insert((need.kind, need.span));
            }
            None => {
                unknown += 1;
                report_unknown(reading, sites, &need, unknown <= MOST_LOOKED_UP);
            }
        }
    }
    for _ in 0..MOST_CYCLES {
        let Err(cycle) = graph::order(&before) else { return };
        report_cycle(reading, sites, &links, &cycle);
        // Without this link the next circle is found.
        let (Some(first), Some(second)) = (cycle.first(), cycle.get(1).or(cycle.first())) else {
            return;
        };
        before[*first].retain(|needed| needed != second);
    }
}

fn report_unknown(reading: &Reading, sites: &[SiteConfig], need: &SiteNeed, look_up: bool) {
    let name = need.needs.as_str();
    let names = sites.iter().map(|site| site.name.as_str());
    let label = match look_up.then(|| nearest(name, names)).flatten() {
        Some(near) => format!("did you mean `{near}`?"),
        None => "no site has this name".to_owned(),
    };
    let title = format!(
        "`{}` is to run {} `{name}`, which does not exist",
        need.site,
        need.kind.word()
    );
    reading.report(Problem::new(title).at(need.span, label).absence());
}

fn report_cycle(
    reading: &Reading,
    sites: &[SiteConfig],
    links: &BTreeMap<(usize, usize), (Need, Span)>,
    cycle: &[usize],
) {
    let name = |position: usize| sites[position].name.as_str();
    let title = match cycle {
        [only] => format!("the site `{}` is to run after itself", name(*only)),
        _ => {
            let names: Vec<&str> = cycle.iter().chain(cycle.first()).map(|site| name(*site)).collect();
            format!("no order of the sites is possible: {}", names.join(" after "))
        }
    };
    let mut problem = Problem::new(title);
    for (index, site) in cycle.iter().enumerate().take(MOST_LINKS) {
        let needed = cycle[(index + 1) % cycle.len()];
        let Some((kind, span)) = links.get(&(*site, needed)) else {
            continue;
        };
        let label = format!("`{}` {} `{}`", name(*site), kind.key(), name(needed));
        problem = match index {
            0 => problem.at(*span, label),
            _ => problem.related(*span, label),
        };
    }
    reading.report(match cycle {
        [_] => problem,
        _ => problem.help("take one of these out"),
    });
}
