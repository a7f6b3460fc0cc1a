//! `[redis] url` and `result_url`: the address of a Redis in Celery's form.

use orch_base::text::redaction;
use orch_base::text::secret::Secret;
use orch_celery::{Endpoint, Endpoints, Result, SentinelOptions, ServerAddress, UrlPurpose, celery_url, redis_url};

/// Both addresses, checked, in the form of Celery's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrls {
    /// `url`.
    pub broker: Secret,
    /// `result_url`, else the address of the broker.
    pub results: Secret,
    /// `master_name` and the credentials for the Sentinels; only for addresses of Sentinels.
    pub sentinel: SentinelOptions,
    /// Settings `name=value` that Celery needs on the command line, because no URL can hold them and the app does not
    /// set them.
    pub celery_settings: Vec<String>,
}

impl RedisUrls {
    /// Reads both with `celery_url` and registers their passwords for redaction.
    ///
    /// # Errors
    /// One of them cannot be used: `true` for the result address, and the reason.
    pub fn read(url: &str, result_url: Option<&str>, sentinel: SentinelOptions) -> Result<Self, (bool, String)> {
        for text in [Some(url), result_url].into_iter().flatten() {
            redaction::register_url_passwords(text);
        }
        let named = any_master(&sentinel);
        let broker = celery_url(url, &named, UrlPurpose::Broker).map_err(|error| (false, error.to_string()))?;
        let results = celery_url(result_url.unwrap_or(url), &named, UrlPurpose::ResultBackend)
            .map_err(|error| (result_url.is_some(), error.to_string()))?;
        Ok(Self {
            broker: Secret::new(broker),
            results: Secret::new(results),
            sentinel,
            celery_settings: Vec::new(),
        })
    }

    /// Returns the addresses to which orch connects.
    ///
    /// # Errors
    /// An address has Sentinels but there is no name of the master.
    pub fn endpoints(&self) -> Result<Endpoints> {
        Endpoints::from_urls_with(self.broker.expose(), self.results.expose(), &self.sentinel)
    }

    /// Returns the address of the broker in parts; the name of the master may still be unknown.
    pub fn broker_parts(&self) -> Option<Endpoint> {
        Endpoint::from_url_with(self.broker.expose(), &any_master(&self.sentinel)).ok()
    }

    /// Returns the value of `REDIS_URL` for the broker.
    pub fn redis_url(&self) -> Option<String> {
        redis_url(&self.broker_parts()?, self.broker.expose())
    }

    /// Decides whether one of the addresses has Sentinels.
    pub fn has_sentinels(&self) -> bool {
        self.broker_has_sentinels() || self.results_have_sentinels()
    }

    pub fn broker_has_sentinels(&self) -> bool {
        self.is_of_sentinels(&self.broker)
    }

    pub fn results_have_sentinels(&self) -> bool {
        self.is_of_sentinels(&self.results)
    }

    fn is_of_sentinels(&self, url: &Secret) -> bool {
        let endpoint = Endpoint::from_url_with(url.expose(), &any_master(&self.sentinel));
        endpoint.is_ok_and(|endpoint| matches!(endpoint.address, ServerAddress::Sentinel(_)))
    }
}

/// Adds a placeholder for the name of the master, so that the address can be read before the name is known.
fn any_master(options: &SentinelOptions) -> SentinelOptions {
    let unknown = || Some("(not known yet)".to_owned());
    SentinelOptions {
        master_name: options.master_name.clone().or_else(unknown),
        ..options.clone()
    }
}
