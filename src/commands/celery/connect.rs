//! Options that select a Celery deployment, and the client that talks to the deployment.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::commands::output::print_message;
use crate::commands::{CommandError, ConfigArgs};
use orch_base::text::printable::one_line;
use orch_base::text::redaction;
use orch_celery::{
    Client, ControlTarget, Endpoint, Endpoints, RedisPassword, SentinelOptions, ServerAddress, TransportSettings,
};
use orch_supervisor::AppSettings;
use orch_supervisor::shared::instance_file;

/// Time in which workers must report their settings.
const CONF_TIMEOUT: Duration = Duration::from_secs(1);

/// Options that locate the broker and the result backend.
#[derive(Args, Clone, Debug)]
pub struct ConnectArgs {
    /// URL of the broker in Celery's syntax: redis://host:port/db, with `user:password@` before the host if needed
    /// [default: $CELERY_BROKER_URL, or the instance that is running in this directory]
    #[arg(long, global = true, value_name = "URL")]
    broker: Option<String>,
    /// URL of the result backend [default: $CELERY_RESULT_BACKEND, or the broker]
    #[arg(long, global = true, value_name = "URL")]
    backend: Option<String>,
    /// Name of the master for `sentinel://` URLs; credentials of the Sentinels come from $ORCH_REDIS__SENTINEL_USERNAME
    /// and $ORCH_REDIS__SENTINEL_PASSWORD [default: $ORCH_REDIS__MASTER_NAME, or the master of the running instance]
    #[arg(long, global = true, value_name = "NAME")]
    master_name: Option<String>,
    /// Key prefix of the broker: `global_keyprefix` in the app's `broker_transport_options`
    #[arg(long, global = true, value_name = "PREFIX")]
    key_prefix: Option<String>,
    /// Key prefix of the result backend: `global_keyprefix` in the app's `result_backend_transport_options`; Celery 5.3
    /// and
    /// 5.4 append an underscore (include it here), Celery 5.2 ignores the option
    #[arg(long, global = true, value_name = "PREFIX")]
    backend_key_prefix: Option<String>,
    /// Separator of queue name and priority: `sep` in the app's `broker_transport_options` [default: taken from the
    /// workers, otherwise from the queues]
    #[arg(long, global = true, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    sep: Option<String>,
    /// Priority steps, such as 0,3,6,9: `priority_steps` in the app's `broker_transport_options` [default: taken from
    /// the workers, otherwise from the queues]
    #[arg(long, global = true, value_name = "STEPS", value_delimiter = ',')]
    priority_steps: Vec<u8>,
    /// Print the broker in use, and where its URL comes from, to standard error
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl ConnectArgs {
    /// Returns a client of the deployment; nothing is sent yet. Other users can see a URL on the command line, but not
    /// the environment variables.
    pub fn client(&self) -> anyhow::Result<Client> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let named = match &self.broker {
            Some(broker) => Some((broker.clone(), "--broker")),
            None => variable("CELERY_BROKER_URL").map(|broker| (broker, "CELERY_BROKER_URL")),
        };
        let Some((broker, source)) = named else {
            let client = of_instance()?.ok_or_else(|| {
                CommandError::usage(
                    "no broker is named, and no instance is running here\n  hint:  use `--broker redis://host:6379/0`, or \
                     set the variable CELERY_BROKER_URL",
                )
            })?;
            self.report_source(&client, "the instance that is running here");
            self.name_keys(&client);
            return Ok(client);
        };
        let backend = self
            .backend
            .clone()
            .or_else(|| variable("CELERY_RESULT_BACKEND"))
            .unwrap_or_else(|| broker.clone());
        // Within `orch exec` the variables name the broker of the running instance, which knows the app's settings.
        let instance = of_instance().ok().flatten();
        let options = self.sentinel_options(instance.as_ref());
        let mut endpoints = Endpoints::from_urls_with(&broker, &backend, &options).map_err(|error| {
            let hint = match options.master_name {
                None if broker.starts_with("sentinel://") || backend.starts_with("sentinel://") => {
                    "\n  hint:  use `--master-name NAME`, or set the variable ORCH_REDIS__MASTER_NAME"
                }
                _ => "",
            };
            CommandError::usage(format!("{error}{hint}"))
        })?;
        let instance = instance.filter(|instance| is_same_database(&instance.endpoints().broker, &endpoints.broker));
        if let Some(instance) = &instance {
            // Uses the access of orch itself: a foreign process may have taken the TCP port in the meantime.
            endpoints.broker.access = instance.endpoints().broker.access.clone();
            if endpoints.backend.address == endpoints.broker.address {
                endpoints.backend.access = endpoints.broker.access.clone();
            }
        }
        let client = Client::connect(endpoints).map_err(CommandError::usage)?;
        if let Some(instance) = &instance {
            client.set_transport(TransportSettings::clone(&instance.transport()));
        }
        self.name_keys(&client);
        self.report_source(&client, source);
        Ok(client)
    }

    /// Returns the master's name and the Sentinels' credentials: from the flag and the variables, otherwise from the
    /// running instance.
    fn sentinel_options(&self, instance: Option<&Client>) -> SentinelOptions {
        let of_instance = |endpoint: &Endpoint| match &endpoint.address {
            ServerAddress::Sentinel(sentinels) => Some(sentinels.clone()),
            ServerAddress::Tcp { .. } | ServerAddress::Unix(_) => None,
        };
        let known = instance.map(Client::endpoints);
        let known = known.and_then(|known| of_instance(&known.broker).or_else(|| of_instance(&known.backend)));
        let variable = |name: &str| {
            let value = std::env::var(format!("ORCH_REDIS__{name}")).ok();
            value.filter(|value| !value.is_empty())
        };
        let password = variable("SENTINEL_PASSWORD").map(|password| {
            redaction::register_secret(&password);
            RedisPassword::new(password)
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

    /// Applies the flags for the names of keys and channels to the client.
    fn name_keys(&self, client: &Client) {
        let mut transport = TransportSettings::clone(&client.transport());
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
        client.set_transport(transport);
    }

    /// Sets separator and priority steps of the queues' lists as the app does. If neither a flag nor a running instance
    /// has set them, they come from the workers' settings, otherwise from the existing lists of the queues.
    pub async fn name_lists(&self, client: &Client, queues: &[String]) -> orch_celery::Result<()> {
        let known = client.transport();
        let default = TransportSettings::default();
        if (&known.separator, &known.priority_steps) != (&default.separator, &default.priority_steps)
            || self.sep.is_some()
            || !self.priority_steps.is_empty()
        {
            return Ok(());
        }
        let mut found = TransportSettings::clone(&known);
        let arguments = serde_json::json!({ "with_defaults": false });
        let replies = client
            .control()
            .call("conf", arguments, &ControlTarget::All, CONF_TIMEOUT)
            .await?;
        let of_worker = replies.good().map(|(_, conf)| AppSettings::read(conf).transport).next();
        if let Some(of_worker) = of_worker {
            found.separator = of_worker.separator;
            found.priority_steps = of_worker.priority_steps;
        } else {
            for queue in queues {
                if let Some((separator, steps)) = client.observed_lists(queue).await? {
                    found.separator = separator;
                    found.priority_steps.extend(steps);
                    found.priority_steps = found.steps();
                }
            }
        }
        client.set_transport(found);
        Ok(())
    }

    /// Prints the broker and the result backend, without user and password, if `--verbose` is given.
    fn report_source(&self, client: &Client, source: &str) {
        if self.verbose {
            let endpoints = client.endpoints();
            print_message(&format!(
                "broker {}, result backend {} (from {source})",
                one_line(&endpoints.broker.to_string()),
                one_line(&endpoints.backend.to_string())
            ));
        }
    }
}

/// Returns whether both endpoints are the same database.
fn is_same_database(one: &Endpoint, other: &Endpoint) -> bool {
    (&one.address, one.database) == (&other.address, other.database)
}

/// Returns a client of the instance that is running in this directory, if there is one.
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
    let Ok(Some(file)) = instance_file::read(&config.orch.state_dir) else {
        return Ok(None);
    };
    let Some(redis) = file.redis.as_ref().filter(|_| file.is_alive()) else {
        return Ok(None);
    };
    let client = orch_supervisor::redis::connection::client(redis).map_err(CommandError::usage)?;
    client.set_transport(file.transport);
    Ok(Some(client))
}

/// Runs a future on a new async runtime.
pub fn block_on<T>(conversation: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(conversation)
}
