//! The client: one broker, one result backend, every call with a deadline.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::chord::{self, ChordProgress};
use super::connection::{Commands, Connector};
use super::control::Control;
use super::event_stream::EventStream;
use super::keys::Keys;
use super::mailbox::{Mailbox, Request};
use super::results::Results;
use super::server::{ServerInfo, info_fields};
use super::{Endpoints, GroupId, Result, Transport};

/// Used unless [`Client::with_deadline`] says otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// Connections for control replies that wait for their next use.
const KEPT_MAILBOXES: usize = 4;

/// Speaks to Celery through Redis. Cheap to clone; clones share their connections.
///
/// Connections are opened when needed and opened again when they break. Calls that may be repeated without harm are
/// repeated until the deadline; publishing is not.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
}

struct Shared {
    endpoints: Endpoints,
    broker: Arc<Commands>,
    backend: Arc<Commands>,
    names: RwLock<Names>,
    mailboxes: Mutex<Vec<Mailbox>>,
    results: Mutex<Option<Results>>,
}

/// The names of keys and channels, by the app's transport settings as far as they are known.
struct Names {
    transport: Arc<Transport>,
    broker: Arc<Keys>,
    backend: Arc<Keys>,
}

impl Names {
    fn new(endpoints: &Endpoints, transport: Transport) -> Self {
        let transport = Arc::new(transport);
        Self {
            broker: Arc::new(Keys::of_broker(&endpoints.broker, &transport)),
            backend: Arc::new(Keys::of_backend(&endpoints.backend, &transport)),
            transport,
        }
    }
}

impl Client {
    /// Prepares a client; nothing is sent yet. Fails when a certificate file cannot be read.
    pub fn connect(endpoints: Endpoints) -> Result<Self> {
        let broker = Commands::new(Connector::new(endpoints.broker.clone())?);
        let backend = Commands::new(Connector::new(endpoints.backend.clone())?);
        let transport = Transport {
            key_prefix: endpoints.broker.key_prefix.clone(),
            backend_key_prefix: endpoints.backend.key_prefix.clone(),
            ..Transport::default()
        };
        let shared = Shared {
            names: RwLock::new(Names::new(&endpoints, transport)),
            endpoints,
            broker: Arc::new(broker),
            backend: Arc::new(backend),
            mailboxes: Mutex::new(Vec::new()),
            results: Mutex::new(None),
        };
        Ok(Self {
            shared: Arc::new(shared),
            deadline: DEFAULT_DEADLINE,
        })
    }

    /// The same client with another deadline for each call (default 5 s).
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            deadline,
        }
    }

    /// Where it speaks to.
    pub fn endpoints(&self) -> &Endpoints {
        &self.shared.endpoints
    }

    /// The transport settings by which it names keys and channels.
    pub fn transport(&self) -> Arc<Transport> {
        let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&names.transport)
    }

    /// Names keys and channels by these settings from now on, in all clones. What was opened before (event streams,
    /// [`Results`]) keeps its names: call it first.
    pub fn use_transport(&self, transport: Transport) {
        let mut names = self.shared.names.write().unwrap_or_else(PoisonError::into_inner);
        if *names.transport == transport {
            return;
        }
        *names = Names::new(&self.shared.endpoints, transport);
        drop(names);
        let mut mailboxes = self.shared.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        mailboxes.clear();
        drop(mailboxes);
        *self.shared.results.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Results; all share one subscription connection. Call it inside a tokio runtime.
    pub fn results(&self) -> Results {
        let mut results = self.shared.results.lock().unwrap_or_else(PoisonError::into_inner);
        match &*results {
            Some(results) if results.is_alive() => results.clone(),
            // The first call, or the runtime of the earlier ones has ended.
            _ => {
                let backend = self.shared.backend.clone();
                results
                    .insert(Results::new(backend, Keys::clone(&self.backend_keys()), self.deadline))
                    .clone()
            }
        }
    }

    /// How far a chord's header is. `None` when there is no bookkeeping: not begun, complete, or expired. The group's
    /// id is in the [`children`](super::TaskResult::children) of the task that started the chord.
    pub async fn chord_progress(&self, group: &GroupId) -> Result<Option<ChordProgress>> {
        chord::progress(&self.shared.backend, &self.backend_keys(), group, self.deadline).await
    }

    /// Subscribes to the workers' events: what is published after this returned arrives.
    pub async fn events(&self) -> Result<EventStream> {
        EventStream::open(self.broker().connector(), &self.broker_keys()).await
    }

    /// Commands of the caller's own in the result backend's database, such as reading an app's keys; names are used as
    /// they are. Repeated until the deadline when the connection breaks, so they must do no harm when done twice.
    pub async fn backend_query<T: redis::FromRedisValue>(&self, action: &str, commands: &redis::Pipeline) -> Result<T> {
        self.shared.backend.query(action, commands, self.deadline).await
    }

    /// As [`Client::backend_query`], in the broker's database.
    pub async fn broker_query<T: redis::FromRedisValue>(&self, action: &str, commands: &redis::Pipeline) -> Result<T> {
        self.shared.broker.query(action, commands, self.deadline).await
    }

    /// Remote control of the workers.
    pub fn control(&self) -> Control {
        Control::new(self.clone())
    }

    /// One PING to the broker, without waiting for a server that is away: how long the answer took.
    pub async fn ping_redis(&self) -> Result<Duration> {
        let started = Instant::now();
        let ping: Result<()> = self
            .shared
            .broker
            .probe("ping Redis", redis::pipe().cmd("PING").ignore(), self.deadline)
            .await;
        ping.map(|()| started.elapsed())
    }

    /// One PING to each of both servers, without waiting for one that is away.
    pub async fn ping_servers(&self) -> Result<()> {
        self.ping_redis().await?;
        if self.shared.endpoints.backend.address == self.shared.endpoints.broker.address {
            return Ok(());
        }
        let ping = redis::pipe().cmd("PING").ignore().to_owned();
        self.shared.backend.probe("ping Redis", &ping, self.deadline).await
    }

    /// What the broker's server says about itself, without waiting for one that is away; answered while it is loading,
    /// too.
    pub async fn server_info(&self) -> Result<ServerInfo> {
        Ok(ServerInfo::read(&self.info("default").await?))
    }

    /// Has the server write its append-only file anew in the background: with what it holds now, without how it came
    /// about.
    pub async fn rewrite_append_only_file(&self) -> Result<()> {
        self.shared
            .broker
            .probe(
                "rewrite the append-only file",
                redis::pipe().cmd("BGREWRITEAOF").ignore(),
                self.deadline,
            )
            .await
    }

    /// How often the server refused a command, by error code (`NOAUTH`, `WRONGTYPE`, ...), since its start.
    pub async fn errorstats(&self) -> Result<std::collections::BTreeMap<String, u64>> {
        let fields = self.info("errorstats").await?;
        let counts = info_fields(&fields).filter_map(|(name, value)| {
            let count = value.strip_prefix("count=")?.parse().ok()?;
            Some((name.strip_prefix("errorstat_")?.to_owned(), count))
        });
        Ok(counts.collect())
    }

    /// Commands that the server has rejected before it ran them, and how often, since its start; by the names of Redis'
    /// statistics, such as `ping` or `client setinfo`.
    pub async fn rejected_commands(&self) -> Result<std::collections::BTreeMap<String, u64>> {
        let fields = self.info("commandstats").await?;
        let counts = info_fields(&fields).filter_map(|(name, value)| {
            let mut fields = value.split(',');
            let count = fields
                .find_map(|field| field.strip_prefix("rejected_calls="))?
                .parse()
                .ok()?;
            Some((name.strip_prefix("cmdstat_")?.replace('|', " "), count))
        });
        Ok(counts.filter(|(_, count)| *count > 0).collect())
    }

    async fn info(&self, section: &str) -> Result<String> {
        let mut info = redis::pipe();
        info.cmd("INFO").arg(section);
        let (text,): (String,) = self.shared.broker.probe("read INFO", &info, self.deadline).await?;
        Ok(text)
    }

    /// Publishes a control request that has no reply; gives the number of listeners.
    pub(super) async fn broadcast(&self, request: &Request<'_>) -> Result<u64> {
        let mut publish = redis::pipe();
        publish
            .cmd("PUBLISH")
            .arg(self.broker_keys().control())
            .arg(request.encode(&self.broker_keys().control_exchange(), None, self.deadline)?);
        let (listeners,) = self
            .shared
            .broker
            .query("publish a control request", &publish, self.deadline)
            .await?;
        Ok(listeners)
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) fn broker(&self) -> &Commands {
        &self.shared.broker
    }

    pub(super) fn shared_broker(&self) -> Arc<Commands> {
        self.shared.broker.clone()
    }

    pub(super) fn backend(&self) -> &Commands {
        &self.shared.backend
    }

    pub(super) fn backend_keys(&self) -> Arc<Keys> {
        let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&names.backend)
    }

    pub(super) fn broker_keys(&self) -> Arc<Keys> {
        let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&names.broker)
    }

    /// A connection for control replies that an earlier call left.
    pub(super) fn kept_mailbox(&self) -> Option<Mailbox> {
        self.shared
            .mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    /// Keeps a connection whose call ended well.
    pub(super) fn keep_mailbox(&self, mailbox: Mailbox) {
        let mut mailboxes = self.shared.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if mailboxes.len() < KEPT_MAILBOXES {
            mailboxes.push(mailbox);
        }
    }
}
