//! The outlook for programs.

use serde_json::{Value, json};

use super::Outlook;
use crate::sites::schedule::SiteId;

impl Outlook<'_> {
    /// Sites by their expected begin, times in seconds from that of the run.
    pub fn json(&self) -> Value {
        let sites: Vec<Value> = self.in_order().into_iter().map(|site| self.site_json(site)).collect();
        let names = |sites: &[SiteId]| -> Vec<&str> { sites.iter().map(|site| self.name(*site)).collect() };
        json!({
            "sites": sites,
            "max_parallel_sites": self.config.orch.max_parallel_sites,
            "resources": self.config.resources,
            "expected_seconds": self.length.as_secs_f64(),
            "lower_bound_seconds": self.work.agenda().lower_bound().as_secs_f64(),
            "critical_path": names(&self.critical_path),
            "critical_path_seconds": self.critical_length().as_secs_f64(),
            "assumed_seconds": self.work.assumed().as_secs_f64(),
        })
    }

    fn site_json(&self, site: SiteId) -> Value {
        let config = self.site(site);
        let (begin, end) = self.spans[site.place()];
        json!({
            "site": config.name,
            "after": config.needs.after,
            "after_any": config.needs.after_any,
            "after_finished": config.needs.after_finished,
            "uses": config.uses,
            "tags": config.tags,
            // Without a complete run of it: `assumed_seconds` is taken.
            "expected_seconds": self.work.known()[site.place()].map(|known| known.as_secs_f64()),
            "begins_seconds": begin.as_secs_f64(),
            "ends_seconds": end.as_secs_f64(),
            // By its own last runs: `as_configured`, `once` (no retries), `skipped`.
            "tries": self.work.standings()[site.place()].tries.word(),
            // Why it is not tried: for its own failures, or since another is not.
            "skipped": self.skipped(site),
            "is_critical": self.critical.contains(&site),
        })
    }
}
