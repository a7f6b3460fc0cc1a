//! Wait of a run for free sites while other runs hold all of them, before the run starts or reports anything.

use std::fmt;
use std::time::Instant;

use tokio::time::sleep;

use super::report::SiteReport;
use super::take_lease::LEASE_POLL_INTERVAL;
use crate::sites::lease::{LeaseOccupant, LeaseStore};
use orch_journal::{EventKind, HeldSites, Recorder, SiteName, SiteStatus};

/// Sites of a run with the holder of each; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllSitesHeld(Vec<(SiteName, LeaseOccupant)>);

impl AllSitesHeld {
    /// Returns the holders if other runs held all sites to the end. Skipped sites do not count, because they depend on
    /// the others.
    pub fn from_reports(reports: &[SiteReport]) -> Option<Self> {
        Self::of(
            reports
                .iter()
                .filter(|report| report.status != SiteStatus::Skipped)
                .map(|report| (report.site.clone(), report.held_by.clone())),
        )
    }

    fn of(sites: impl Iterator<Item = (SiteName, Option<LeaseOccupant>)>) -> Option<Self> {
        let held: Option<Vec<_>> = sites.map(|(site, occupant)| Some((site, occupant?))).collect();
        held.filter(|held| !held.is_empty()).map(Self)
    }

    /// Returns the sites of each holder.
    fn by_holder(&self) -> Vec<HeldSites> {
        let mut groups: Vec<(&LeaseOccupant, Vec<SiteName>)> = Vec::new();
        for (site, occupant) in &self.0 {
            match groups.iter_mut().find(|(known, _)| *known == occupant) {
                Some((_, sites)) => sites.push(site.clone()),
                None => groups.push((occupant, vec![site.clone()])),
            }
        }
        groups
            .into_iter()
            .map(|(occupant, sites)| HeldSites {
                sites,
                holder: occupant.into(),
            })
            .collect()
    }
}

/// Text such as `books, quotes by run a on host b (pid 1, since ...); gadgets by run c ...`.
impl fmt::Display for AllSitesHeld {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&HeldSites::listed(&self.by_holder()))
    }
}

/// Waits until at least one of the sites is free. Does not wait if the broker does not answer.
///
/// # Errors
/// Other runs hold all sites at `wait_until`.
pub async fn wait_for_a_free_site(
    recorder: &Recorder,
    leases: &LeaseStore,
    sites: &[SiteName],
    wait_until: Instant,
) -> Result<(), AllSitesHeld> {
    let mut is_reported = false;
    loop {
        let occupants = match leases.occupants(sites).await {
            Ok(occupants) => occupants,
            Err(error) => {
                tracing::debug!(%error, "could not read which runs hold the sites");
                return Ok(());
            }
        };
        let Some(held) = AllSitesHeld::of(sites.iter().cloned().zip(occupants)) else {
            return Ok(());
        };
        let left = wait_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(held);
        }
        if !std::mem::replace(&mut is_reported, true) {
            recorder.emit(EventKind::FreeSiteAwaited {
                timeout_ms: EventKind::millis(left),
                held: held.by_holder(),
            });
        }
        sleep(LEASE_POLL_INTERVAL.min(left)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::lease::LeaseHolder;

    fn held_by(run_id: &str) -> Option<LeaseOccupant> {
        Some(LeaseOccupant::Run(LeaseHolder {
            host: "h".to_owned(),
            pid: 7,
            run_id: run_id.into(),
            started_at: 0,
            lock: None,
        }))
    }

    #[test]
    fn all_or_nothing_and_each_holder_once() {
        let sites = |of: &[(&str, Option<LeaseOccupant>)]| {
            let sites: Vec<_> = of
                .iter()
                .map(|(site, occupant)| (SiteName::from(*site), occupant.clone()))
                .collect();
            AllSitesHeld::of(sites.into_iter())
        };
        assert_eq!(sites(&[]), None);
        assert_eq!(sites(&[("a", held_by("x")), ("b", None)]), None);
        let text = sites(&[("a", held_by("x")), ("b", held_by("y")), ("c", held_by("x"))]);
        let text = text.unwrap().to_string();
        assert!(
            text.starts_with("a, c by run x on host h (pid 7, since ") && text.contains("; b by run y on host h"),
            "{text}"
        );
    }
}
