//! A run that finds all its sites held by others: waited for before anything is started, or told.

use std::fmt;
use std::time::Instant;

use tokio::time::sleep;

use super::lease::{LeaseStore, Occupant};
use super::report::SiteReport;
use super::take::LOOK_AGAIN_AFTER;
use crate::duration_text;
use crate::run::{EventKind, Level, Recorder, SiteName, SiteStatus};

/// Each site of a run, and who holds it; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllHeld(Vec<(SiteName, Occupant)>);

impl AllHeld {
    /// Whether others held all the sites to the end; what was skipped because of that says nothing else.
    pub fn told_by(reports: &[SiteReport]) -> Option<Self> {
        Self::of(
            reports
                .iter()
                .filter(|report| report.status != SiteStatus::Skipped)
                .map(|report| (report.site.clone(), report.held_by.clone())),
        )
    }

    fn of(sites: impl Iterator<Item = (SiteName, Option<Occupant>)>) -> Option<Self> {
        let held: Option<Vec<_>> = sites.map(|(site, occupant)| Some((site, occupant?))).collect();
        held.filter(|held| !held.is_empty()).map(Self)
    }
}

/// `books, quotes by run a on host b (pid 1, since ...); gadgets by run c ...`
impl fmt::Display for AllHeld {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by: Vec<(&Occupant, Vec<&str>)> = Vec::new();
        for (site, occupant) in &self.0 {
            match by.iter_mut().find(|(known, _)| *known == occupant) {
                Some((_, sites)) => sites.push(site.as_str()),
                None => by.push((occupant, vec![site.as_str()])),
            }
        }
        let parts: Vec<String> = by
            .iter()
            .map(|(occupant, sites)| format!("{} by {occupant}", sites.join(", ")))
            .collect();
        formatter.write_str(&parts.join("; "))
    }
}

/// Waits until at least one of the sites can be taken; a broker that cannot be asked has nothing to say.
///
/// # Errors
/// At the given moment others hold them all.
pub async fn wait_for_a_free_site(
    recorder: &Recorder,
    leases: &LeaseStore,
    sites: &[SiteName],
    wait_until: Instant,
) -> Result<(), AllHeld> {
    let mut told = false;
    loop {
        let occupants = match leases.occupants(sites).await {
            Ok(occupants) => occupants,
            Err(error) => {
                tracing::debug!(%error, "cannot see who holds the sites");
                return Ok(());
            }
        };
        let Some(held) = AllHeld::of(sites.iter().cloned().zip(occupants)) else {
            return Ok(());
        };
        let left = wait_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(held);
        }
        if !std::mem::replace(&mut told, true) {
            let message = format!("waiting up to {} for sites that are held: {held}", shown(left));
            let level = Level::Info;
            recorder.emit(EventKind::Noticed { level, message });
        }
        sleep(LOOK_AGAIN_AFTER.min(left)).await;
    }
}

fn shown(left: std::time::Duration) -> String {
    // Rounded up: a wait is never shown as none.
    duration_text::shown(std::time::Duration::from_secs(left.as_secs() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::Holder;

    fn held_by(run_id: &str) -> Option<Occupant> {
        Some(Occupant::Run(Holder {
            host: "h".to_owned(),
            pid: 7,
            run_id: run_id.into(),
            started_at: 0,
            lock: None,
        }))
    }

    #[test]
    fn all_or_nothing_and_each_holder_once() {
        let sites = |of: &[(&str, Option<Occupant>)]| {
            let sites: Vec<_> = of
                .iter()
                .map(|(site, occupant)| (SiteName::from(*site), occupant.clone()))
                .collect();
            AllHeld::of(sites.into_iter())
        };
        assert_eq!(sites(&[]), None);
        assert_eq!(sites(&[("a", held_by("x")), ("b", None)]), None);
        let told = sites(&[("a", held_by("x")), ("b", held_by("y")), ("c", held_by("x"))]);
        let told = told.unwrap().to_string();
        assert!(
            told.starts_with("a, c by run x on host h (pid 7, since ") && told.contains("; b by run y on host h"),
            "{told}"
        );
    }
}
