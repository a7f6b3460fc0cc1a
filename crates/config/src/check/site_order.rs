//! Checks that every site exists on which another depends, and that there is an order in which all can run.

use std::collections::{BTreeMap, HashMap};

use crate::model::{SiteConfig, SiteDependencyKind};
use crate::read::load_context::{LoadContext, SiteDependency};
use crate::syntax::problem::{Problem, nearest};
use crate::syntax::source::SourceSpan;
use orch_base::names::SiteName;
use orch_base::topological_order;

/// Number of unknown names for which similar known names are searched; the search takes time proportional to unknown
/// times known names.
const MAX_LOOKED_UP: usize = 100;
/// Number of cycles that are searched for, and of links of one that are shown.
const MAX_CYCLES: usize = 20;
const MAX_LINKS: usize = 10;

/// Reports unknown names and cycles.
pub(crate) fn check(reading: &LoadContext, sites: &[SiteConfig]) {
    let positions: HashMap<&SiteName, usize> = sites.iter().map(|site| &site.name).zip(0..).collect();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); sites.len()];
    let mut links: BTreeMap<(usize, usize), (SiteDependencyKind, SourceSpan)> = BTreeMap::new();
    let mut unknown = 0;
    for need in reading.site_dependencies.take() {
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
                report_unknown(reading, sites, &need, unknown <= MAX_LOOKED_UP);
            }
        }
    }
    for _ in 0..MAX_CYCLES {
        let Err(cycle) = topological_order::order(&before) else {
            return;
        };
        report_cycle(reading, sites, &links, &cycle);
        // Remove this link, so that the next cycle is found.
        let (Some(first), Some(second)) = (cycle.first(), cycle.get(1).or(cycle.first())) else {
            return;
        };
        before[*first].retain(|needed| needed != second);
    }
}

fn report_unknown(reading: &LoadContext, sites: &[SiteConfig], need: &SiteDependency, look_up: bool) {
    let name = need.needs.as_str();
    let names = sites.iter().map(|site| site.name.as_str());
    let label = match look_up.then(|| nearest(name, names)).flatten() {
        Some(near) => format!("did you mean `{near}`?"),
        None => "no site has this name".to_owned(),
    };
    let title = format!(
        "`{}` must run {} `{name}`, which does not exist",
        need.site,
        need.kind.preposition()
    );
    reading.report(Problem::new(title).at(need.span, label).absence());
}

fn report_cycle(
    reading: &LoadContext,
    sites: &[SiteConfig],
    links: &BTreeMap<(usize, usize), (SiteDependencyKind, SourceSpan)>,
    cycle: &[usize],
) {
    let name = |position: usize| sites[position].name.as_str();
    let title = match cycle {
        [only] => format!("the site `{}` must run after itself", name(*only)),
        _ => {
            let names: Vec<&str> = cycle.iter().chain(cycle.first()).map(|site| name(*site)).collect();
            format!("there is no possible order of the sites: {}", names.join(" after "))
        }
    };
    let mut problem = Problem::new(title);
    for (index, site) in cycle.iter().enumerate().take(MAX_LINKS) {
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
        _ => problem.help("remove one of these"),
    });
}
