//! Dependencies of a waiting site in words.

use orch_journal::{RunState, SiteName, SitePhase, SiteView};

/// Number of sites that are named at most.
const MAX_NAMED: usize = 4;

/// Formats `for login, catalogue`, the dependencies that have not ended; `None` if there are none.
pub fn pending_dependencies(site: &SiteView, state: &RunState) -> Option<String> {
    if site.phase != SitePhase::Waiting {
        return None;
    }
    let is_over = |name: &&SiteName| state.site_named(name).is_some_and(|site| site.phase.is_final());
    let mut names = site
        .waits_for
        .iter()
        .filter(|name| !is_over(name))
        .map(SiteName::as_str);
    let first: Vec<&str> = names.by_ref().take(MAX_NAMED).collect();
    let more = match names.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!first.is_empty()).then(|| format!("for {}{more}", first.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::{Event, EventKind, SiteCounts, SiteStatus};

    #[test]
    fn dependencies_that_have_ended_are_not_named() {
        let mut state = RunState::default();
        let name = |site: &str| SiteName::from(site);
        let mut seq = 0;
        let mut shown = |state: &mut RunState, kind| {
            seq += 1;
            let (at, elapsed) = (0.0, 0.0);
            state.apply(&Event { seq, at, elapsed, kind });
            pending_dependencies(state.site_named(&name("last")).expect("the site is known"), state)
        };
        let finished = |site: &str| EventKind::SiteFinished {
            site: name(site),
            status: SiteStatus::Complete,
            counts: SiteCounts::default(),
            elapsed_ms: 1,
            reason: None,
            dependency: None,
            cause: None,
        };
        let waiting = EventKind::SiteWaiting {
            site: name("last"),
            waits_for: ["a", "b", "c", "d", "e", "f"].map(SiteName::from).to_vec(),
        };
        assert_eq!(shown(&mut state, waiting).as_deref(), Some("for a, b, c, d and 2 more"));
        assert_eq!(
            shown(&mut state, finished("b")).as_deref(),
            Some("for a, c, d, e and 1 more")
        );
        for site in ["a", "c", "d", "f"] {
            shown(&mut state, finished(site));
        }
        assert_eq!(shown(&mut state, finished("x")).as_deref(), Some("for e"));
        assert_eq!(shown(&mut state, EventKind::SiteQueued { site: name("last") }), None);
    }
}
