//! What a site's templates may name: `{site}`, `{start_urls}`, `{job_id}`, and every value of the site.

use serde_json::{Map, Value};

use crate::config::SiteConfig;
use crate::run::JobId;

/// The values of one attempt.
pub fn values(site: &SiteConfig, job_id: &JobId) -> Map<String, Value> {
    let mut values = site.values.clone();
    values.insert("site".to_owned(), site.name.as_str().into());
    values.insert("start_urls".to_owned(), site.start_urls.clone().into());
    values.insert("job_id".to_owned(), job_id.as_str().into());
    values
}
