//! Which deployment is meant, and one conversation with it.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::celery::{Address, Client, Endpoint, Endpoints, Password, SentinelOptions, Target, Transport};
use crate::cli::output::say;
use crate::cli::{ConfigArgs, Refusal};
use crate::printable::one_line;
use crate::run::Outcome;
use crate::services::AppSettings;
use crate::{instance, redaction, services};

/// How long workers have to say their settings.
const CONF_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Master that the Sentinels of `sentinel://` are asked for; what lets in to them is $ORCH_REDIS__SENTINEL_USERNAME and
    /// $ORCH_REDIS__SENTINEL_PASSWORD [default: $ORCH_REDIS__MASTER_NAME, or that of the instance that is up]
    #[arg(long, global = true, value_name = "NAME")]
    master_name: Option<String>,
    /// What the app's `broker_transport_options` have as `global_keyprefix`
    #[arg(long, global = true, value_name = "PREFIX")]
    key_prefix: Option<String>,
    /// The same of its `result_backend_transport_options`; Celery 5.3 and 5.4 write an underscore behind it, 5.2 knows none
    #[arg(long, global = true, value_name = "PREFIX")]
    backend_key_prefix: Option<String>,
    /// What the app's `broker_transport_options` have as `sep` [default: what the workers, or the queues, say]
    #[arg(long, global = true, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    sep: Option<String>,
    /// What they have as `priority_steps`, such as 0,3,6,9 [default: what the workers, or the queues, say]
    #[arg(long, global = true, value_name = "STEPS", value_delimiter = ',')]
    priority_steps: Vec<u8>,
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
            self.name_keys(&client);
            return Ok(client);
        };
        let backend = self
            .backend
            .clone()
            .or_else(|| variable("CELERY_RESULT_BACKEND"))
            .unwrap_or_else(|| broker.clone());
        // Within `orch exec` the variables name the broker of the instance, which has asked the app.
        let instance = of_instance().ok().flatten();
        let options = self.sentinel_options(instance.as_ref());
        let mut endpoints = Endpoints::from_urls_with(&broker, &backend, &options).map_err(|error| {
            let hint = match options.master_name {
                None if broker.starts_with("sentinel://") || backend.starts_with("sentinel://") => {
                    "\n  hint:  `--master-name NAME`, or the variable ORCH_REDIS__MASTER_NAME"
                }
                _ => "",
            };
            usage(format!("{error}{hint}"))
        })?;
        let instance = instance.filter(|instance| is_same_database(&instance.endpoints().broker, &endpoints.broker));
        if let Some(instance) = &instance {
            // As orch itself does, not by a port that a stranger may have taken since.
            endpoints.broker.access = instance.endpoints().broker.access.clone();
            if endpoints.backend.address == endpoints.broker.address {
                endpoints.backend.access = endpoints.broker.access.clone();
            }
        }
        let client = Client::connect(endpoints).map_err(|error| usage(error.to_string()))?;
        if let Some(instance) = &instance {
            client.use_transport(Transport::clone(&instance.transport()));
        }
        self.name_keys(&client);
        self.tell(&client, source);
        Ok(client)
    }

    /// The master's name and the Sentinels' credentials: from the flag and variables, else those of the running instance.
    fn sentinel_options(&self, instance: Option<&Client>) -> SentinelOptions {
        let of_instance = |endpoint: &Endpoint| match &endpoint.address {
            Address::Sentinel(sentinels) => Some(sentinels.clone()),
            Address::Tcp { .. } | Address::Unix(_) => None,
        };
        let known = instance.map(Client::endpoints);
        let known = known.and_then(|known| of_instance(&known.broker).or_else(|| of_instance(&known.backend)));
        let variable = |name: &str| {
            let value = std::env::var(format!("ORCH_REDIS__{name}")).ok();
            value.filter(|value| !value.is_empty())
        };
        let password = variable("SENTINEL_PASSWORD").map(|password| {
            redaction::hide(&password);
            Password::new(password)
        });
        let (master_name, username, known_password) = known.map_or((None, None, None), |known| {
            (Some(known.master_name), known.username, known.password)
        });
        SentinelOptions {
            master_name: self
                .master_name
                .clone()
                .or_else(|| variable("MASTER_NAME"))
                .or(master_name),
            username: variable("SENTINEL_USERNAME").or(username),
            password: password.or(known_password),
        }
    }

    /// Names keys and channels by the flags where there are some.
    fn name_keys(&self, client: &Client) {
        let mut transport = Transport::clone(&client.transport());
        let set = |value: &mut String, flag: &Option<String>| {
            if let Some(flag) = flag {
                value.clone_from(flag);
            }
        };
        set(&mut transport.key_prefix, &self.key_prefix);
        set(&mut transport.backend_key_prefix, &self.backend_key_prefix);
        set(&mut transport.separator, &self.sep);
        if !self.priority_steps.is_empty() {
            transport.priority_steps.clone_from(&self.priority_steps);
        }
        client.use_transport(transport);
    }

    /// Names the lists of these queues as the app does, where neither a flag nor an instance that is up says how: by what
    /// the workers answer, else by what the queues themselves show.
    pub async fn name_lists(&self, client: &Client, queues: &[String]) -> crate::celery::Result<()> {
        let known = client.transport();
        let default = Transport::default();
        if (&known.separator, &known.priority_steps) != (&default.separator, &default.priority_steps)
            || self.sep.is_some()
            || !self.priority_steps.is_empty()
        {
            return Ok(());
        }
        let mut found = Transport::clone(&known);
        let arguments = serde_json::json!({ "with_defaults": false });
        let replies = client
            .control()
            .call("conf", arguments, &Target::All, CONF_TIMEOUT)
            .await?;
        let said = replies.good().map(|(_, conf)| AppSettings::read(conf).transport).next();
        if let Some(said) = said {
            found.separator = said.separator;
            found.priority_steps = said.priority_steps;
        } else {
            for queue in queues {
                if let Some((separator, steps)) = client.observed_lists(queue).await? {
                    found.separator = separator;
                    found.priority_steps.extend(steps);
                    found.priority_steps = found.steps();
                }
            }
        }
        client.use_transport(found);
        Ok(())
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

/// Returns whether both speak to one broker.
fn is_same_database(one: &Endpoint, other: &Endpoint) -> bool {
    (&one.address, one.database) == (&other.address, other.database)
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
    let Ok(Some(file)) = instance::read(&config.orch.state_dir) else {
        return Ok(None);
    };
    let Some(redis) = file.redis.as_ref().filter(|_| file.is_alive()) else {
        return Ok(None);
    };
    let client =
        services::celery_client(redis).map_err(|failure| Refusal::because(Outcome::ConfigurationError, failure))?;
    client.use_transport(file.transport);
    Ok(Some(client))
}

/// Runs one conversation on a runtime of its own.
pub fn converse<T>(conversation: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(conversation))
}
