//! The plan preview as JSON, for programs.

use serde_json::{Value, json};

use super::PlanPreview;
use orch_scrape::schedule::SiteId;

impl PlanPreview<'_> {
    /// Returns the preview with the sites in the order of their expected begin. Times are seconds since the begin of
    /// the run.
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
            "assumed_seconds": self.work.assumed_duration().as_secs_f64(),
        })
    }

    fn site_json(&self, site: SiteId) -> Value {
        let config = self.site(site);
        let (begin, end) = self.spans[site.place()];
        json!({
            "site": config.name,
            "after": config.dependencies.after,
            "after_any": config.dependencies.after_any,
            "after_finished": config.dependencies.after_finished,
            "uses": config.uses,
            "tags": config.tags,
            // `null` for a site without a complete run; the schedule then uses `assumed_seconds`.
            "expected_seconds": self.work.known_durations()[site.place()].map(|known| known.as_secs_f64()),
            "begins_seconds": begin.as_secs_f64(),
            "ends_seconds": end.as_secs_f64(),
            // Follows from the site's own last runs: `as_configured`, `once` (no retries), `skipped`.
            "tries": self.work.standings()[site.place()].breaker.word(),
            // Reason why the site is skipped: its own failures, or a skipped dependency.
            "skipped": self.skip_reason(site),
            "is_critical": self.critical.contains(&site),
        })
    }
}
