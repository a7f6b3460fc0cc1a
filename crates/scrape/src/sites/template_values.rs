//! Values that a site's templates may name: `{site}`, `{start_urls}`, `{job_id}`, in arguments also `{fencing_token}`,
//! and every value of the site.

use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

use super::registry::Registry;
use orch_config::SiteConfig;
use orch_config::template::fill_text;
use orch_journal::JobId;

/// Returns the values of one attempt.
pub fn template_values(site: &SiteConfig, job_id: &JobId) -> Map<String, Value> {
    let mut values = site.values.clone();
    values.insert("site".to_owned(), site.name.as_str().into());
    values.insert("start_urls".to_owned(), site.start_urls.clone().into());
    values.insert("job_id".to_owned(), job_id.as_str().into());
    values
}

/// Returns the prefix of the app's own keys for a job; `None` if the template cannot be filled, which a checked
/// configuration rules out.
fn app_prefix(site: &SiteConfig, job_id: &JobId) -> Option<String> {
    fill_text(&site.keys, &template_values(site, job_id)).ok()
}

/// Prefix of the app's own keys, computed once for each job id.
pub(crate) struct AppPrefix<'s> {
    site: &'s SiteConfig,
    last: Mutex<Option<(JobId, Option<String>)>>,
}

impl<'s> AppPrefix<'s> {
    pub fn new(site: &'s SiteConfig) -> Self {
        Self {
            site,
            last: Mutex::default(),
        }
    }

    pub fn of(&self, job_id: &JobId) -> Option<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, prefix)) if known == job_id => prefix.clone(),
            _ => {
                let prefix = app_prefix(self.site, job_id);
                *last = Some((job_id.clone(), prefix.clone()));
                prefix
            }
        }
    }
}

/// Returns the prefixes of all keys of a job: the app's and the registry's.
pub fn key_prefixes(site: &SiteConfig, job_id: &JobId) -> Vec<String> {
    let app = app_prefix(site, job_id);
    let registry = Registry::new(&site.name, job_id, app.as_deref().unwrap_or_default());
    let mut prefixes = vec![registry.prefix().to_owned()];
    prefixes.extend(app.filter(|app| *app != prefixes[0] && !app.is_empty()));
    prefixes
}

/// Returns the values for the arguments of one attempt, which include the fencing token of the site's lease. A value of
/// the site with the name `fencing_token` takes precedence, because such values are older than leases.
pub fn argument_values(site: &SiteConfig, job_id: &JobId, fencing_token: u64) -> Map<String, Value> {
    let mut values = template_values(site, job_id);
    values.entry("fencing_token").or_insert_with(|| fencing_token.into());
    values
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use orch_config::{DynamicTimeout, SiteTimeout, TaskCall};

    pub fn site(values: Value) -> SiteConfig {
        SiteConfig {
            name: "books".into(),
            sites_file: None,
            dispatch: TaskCall {
                task: "t".to_owned(),
                args: Vec::new(),
                kwargs: Map::new(),
                queue: None,
                immutable: false,
            },
            start_urls: Vec::new(),
            values: values.as_object().expect("an object").clone(),
            keys: String::new(),
            timeout: SiteTimeout::Fixed(std::time::Duration::from_secs(1)),
            dynamic_timeout: DynamicTimeout::default(),
            retries: 0,
            retry_backoff: std::time::Duration::ZERO,
            dependencies: Default::default(),
            uses: Default::default(),
            tags: Vec::new(),
            min_results: Default::default(),
            on_degraded: Default::default(),
            on_lost: Default::default(),
            skip_after_failures: None,
            health: Default::default(),
            worker: None,
        }
    }

    #[test]
    fn the_token_is_for_arguments_and_a_value_of_that_name_stays() {
        let job = JobId::new("j");
        assert_eq!(argument_values(&site(json!({})), &job, 7)["fencing_token"], 7);
        let own = site(json!({"fencing_token": "mine"}));
        assert_eq!(argument_values(&own, &job, 7)["fencing_token"], "mine");
        assert!(!template_values(&site(json!({})), &job).contains_key("fencing_token"));
    }

    #[test]
    fn a_prefix_is_that_of_the_job_that_is_asked_for() {
        let mut site = site(json!({"shelf": 3}));
        site.keys = "{site}:{shelf}:{job_id}:".to_owned();
        let prefix = AppPrefix::new(&site);
        for job in ["a", "a", "b", "a"] {
            assert_eq!(prefix.of(&JobId::new(job)), Some(format!("books:3:{job}:")));
        }
        site.keys = "{nobody}".to_owned();
        assert_eq!(AppPrefix::new(&site).of(&JobId::new("a")), None);
    }
}
