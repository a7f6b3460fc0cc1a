//! `[redis] url` and `result_url`: the address of a Redis as Celery writes it.

use super::Secret;
use crate::celery::{Address, Endpoint, Endpoints, Purpose, Result, SentinelOptions, celery_url, redis_url};
use crate::redaction;

/// Both addresses, checked, and written as Celery's settings take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrls {
    /// `url`.
    pub broker: Secret,
    /// `result_url`, else the address of the broker.
    pub results: Secret,
    /// `master_name` and by what Sentinels let orch in; for addresses of Sentinels only.
    pub sentinel: SentinelOptions,
    /// Settings that Celery must be told on its command line, `name=value`: what no URL holds and the app lacks.
    pub celery_settings: Vec<String>,
}

impl RedisUrls {
    /// Reads both as `celery_url` does; their passwords are told nowhere from now on.
    ///
    /// # Errors
    /// The one that cannot be used, and for what: `true` for the results.
    pub fn read(url: &str, result_url: Option<&str>, sentinel: SentinelOptions) -> Result<Self, (bool, String)> {
        for text in [Some(url), result_url].into_iter().flatten() {
            redaction::hide_url(text);
        }
        let named = any_master(&sentinel);
        let broker = celery_url(url, &named, Purpose::Broker).map_err(|error| (false, error.to_string()))?;
        let results = celery_url(result_url.unwrap_or(url), &named, Purpose::Results)
            .map_err(|error| (result_url.is_some(), error.to_string()))?;
        Ok(Self {
            broker: Secret::new(broker),
            results: Secret::new(results),
            sentinel,
            celery_settings: Vec::new(),
        })
    }

    /// The addresses by which orch connects.
    ///
    /// # Errors
    /// Sentinels are named and no master.
    pub fn endpoints(&self) -> Result<Endpoints> {
        Endpoints::from_urls_with(self.broker.expose(), self.results.expose(), &self.sentinel)
    }

    /// The address of the broker, for its parts: the master may not be known yet.
    pub fn broker_parts(&self) -> Option<Endpoint> {
        Endpoint::from_url_with(self.broker.expose(), &any_master(&self.sentinel)).ok()
    }

    /// What `REDIS_URL` says of the broker.
    pub fn redis_url(&self) -> Option<String> {
        redis_url(&self.broker_parts()?, self.broker.expose())
    }

    /// Whether one of them names Sentinels.
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
        endpoint.is_ok_and(|endpoint| matches!(endpoint.address, Address::Sentinel(_)))
    }
}

/// The options with a name for the master, so that the address can be read before it is known.
fn any_master(options: &SentinelOptions) -> SentinelOptions {
    let unknown = || Some("(not known yet)".to_owned());
    SentinelOptions {
        master_name: options.master_name.clone().or_else(unknown),
        ..options.clone()
    }
}
