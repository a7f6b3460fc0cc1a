//! Words of a configuration that events repeat: names of services and sites, and the actions for a site that is not healthy.

use serde::{Deserialize, Serialize};

use crate::text_id;

text_id!(
    /// Name of a service: `redis`, `celery`, `beat`, or a name of `[services.<name>]`.
    ServiceName
);
text_id!(
    /// Name of a site of the configuration; may contain dots (`imot.bg`).
    SiteName
);

/// Action when a site is not healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthAction {
    /// A report only.
    #[default]
    Warn,
    /// The attempt is ended; the next one follows, if there is one.
    Cancel,
    /// The site is ended.
    Fail,
    /// The proxy pool is refreshed, once per run for all sites with this action.
    RefreshProxies,
}
