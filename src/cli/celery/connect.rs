//! Which deployment is meant, and one conversation with it.

use std::future::Future;
use std::path::Path;

use clap::Args;

use crate::celery::{Client, Endpoints};
use crate::cli::output::say;
use crate::cli::{ConfigArgs, Refusal};
use crate::printable::one_line;
use crate::run::Outcome;
use crate::{instance, services};

/// Where the broker and the results are.
#[derive(Args, Clone, Debug)]
pub struct ConnectArgs {
    /// Broker, as Celery writes it: redis://[user]:[password]@host:port/db [default: $CELERY_BROKER_URL, or the instance that is up
    /// in this directory]
    #[arg(long, global = true, value_name = "URL")]
    broker: Option<String>,
    /// Result backend [default: $CELERY_RESULT_BACKEND, or the broker]
    #[arg(long, global = true, value_name = "URL")]
    backend: Option<String>,
    /// What the app's `broker_transport_options` have as `global_keyprefix`
    #[arg(
        long,
        global = true,
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    key_prefix: String,
    /// The same of its `result_backend_transport_options`; Celery 5.3 and 5.4 write an underscore behind it, 5.2 knows none
    #[arg(
        long,
        global = true,
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true
    )]
    backend_key_prefix: String,
    /// Say on standard error which broker is used, and by whose word
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl ConnectArgs {
    /// A client of it; nothing is sent yet. A URL on the command line can be seen by others: the variables cannot.
    pub fn client(&self) -> anyhow::Result<Client> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let usage = |text: String| Refusal::because(Outcome::ConfigurationError, text);
        let named = match &self.broker {
            Some(broker) => Some((broker.clone(), "--broker")),
            None => variable("CELERY_BROKER_URL").map(|broker| (broker, "CELERY_BROKER_URL")),
        };
        let Some((broker, source)) = named else {
            let client = of_instance()?.ok_or_else(|| {
                usage(
                    "no broker is named, and no instance is up here\n  hint:  `--broker redis://host:6379/0`, or the \
                     variable CELERY_BROKER_URL"
                        .into(),
                )
            })?;
            self.tell(&client, "the instance that is up here");
            return self.prefixed(client.endpoints().clone());
        };
        let backend = self
            .backend
            .clone()
            .or_else(|| variable("CELERY_RESULT_BACKEND"))
            .unwrap_or_else(|| broker.clone());
        let endpoints = Endpoints::from_urls(&broker, &backend).map_err(|error| usage(error.to_string()))?;
        let client = self.prefixed(endpoints)?;
        self.tell(&client, source);
        Ok(client)
    }

    fn prefixed(&self, mut endpoints: Endpoints) -> anyhow::Result<Client> {
        endpoints.broker.key_prefix.clone_from(&self.key_prefix);
        endpoints.backend.key_prefix.clone_from(&self.backend_key_prefix);
        Client::connect(endpoints).map_err(|error| Refusal::because(Outcome::ConfigurationError, error.to_string()))
    }

    /// Without user and password.
    fn tell(&self, client: &Client, source: &str) {
        if self.verbose {
            let endpoints = client.endpoints();
            say(&format!(
                "broker {}, results {} (by {source})",
                one_line(&endpoints.broker.to_string()),
                one_line(&endpoints.backend.to_string())
            ));
        }
    }
}

/// A client of the instance that is up in this directory, if there is one.
fn of_instance() -> anyhow::Result<Option<Client>> {
    let named = std::env::var_os("ORCH_CONFIG").is_some();
    if !named
        && !["orch.toml", "config/orch.toml"]
            .iter()
            .any(|file| Path::new(file).exists())
    {
        return Ok(None);
    }
    let config = ConfigArgs::default().load(&[])?;
    let redis = match instance::read(&config.orch.state_dir) {
        Ok(Some(file)) if file.is_alive() => file.redis,
        _ => None,
    };
    let client = redis.map(|redis| services::celery_client(&redis)).transpose();
    client.map_err(|failure| Refusal::because(Outcome::ConfigurationError, failure))
}

/// Runs one conversation on a runtime of its own.
pub fn converse<T>(conversation: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(conversation))
}
