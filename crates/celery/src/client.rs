//! Client of one broker and one result backend; each call has a deadline.
//!
//! This file contains the construction of a client and the access to its parts. The other methods are in the files of
//! their topics:
//!
//! - [`publish`](crate::tasks::publish): tasks, chains, groups, chords and batches.
//! - [`chord`](crate::tasks::chord): progress of a chord.
//! - [`stream`](crate::events::stream): events; [`reconcile`](crate::events::jobs): recovery after lost events.
//! - [`commands`](crate::control::commands): remote control of workers.
//! - [`find_tasks`](crate::broker::find_tasks): locations of tasks.
//! - [`message_counts`](crate::broker::message_counts): numbers of messages in known queues;
//!   [`broker_queues`](crate::broker::broker_queues): all queues.
//! - [`remove_messages`](crate::broker::remove_messages): messages of jobs that must not continue;
//!   [`leftovers`](crate::broker::leftovers): messages and keys of earlier runs.
//! - [`restore_unacked`](crate::broker::restore_unacked): messages of dead workers;
//!   [`chord_state`](crate::broker::chord_state): header tasks that a chord has counted.
//! - [`poison`](crate::broker::poison): harmful messages; [`mistyped_keys`](crate::broker::mistyped_keys): keys of a
//!   wrong type.
//! - [`consumption`](crate::broker::consumption): workers that do not consume.
//! - [`observed_lists`](crate::broker::observed_lists): transport settings that the broker's keys show.
//! - [`server`](crate::broker::server): pings, INFO and the append-only file of the Redis server.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::control::mailbox::Mailbox;
use crate::error::Result;
use crate::redis::connection::CommandConnection;
use crate::redis::connector::RedisConnector;
use crate::redis::endpoint::Endpoints;
use crate::tasks::result_store::ResultStore;
use crate::wire::keys::Keys;
use crate::wire::transport_settings::TransportSettings;

/// Deadline of a call unless [`Client::with_deadline`] sets another.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// Largest number of idle connections for control replies that are kept for reuse.
const MAX_IDLE_MAILBOXES: usize = 4;

/// Handle to one broker and its result backend. Clones are cheap and share their connections.
///
/// Connections are opened when they are needed and replaced when they break. Calls that are safe to repeat are repeated
/// until the deadline; publishing is not.
#[derive(Clone)]
pub struct Client {
    shared: Arc<ClientState>,
    deadline: Duration,
}

struct ClientState {
    endpoints: Endpoints,
    broker: Arc<CommandConnection>,
    backend: Arc<CommandConnection>,
    names: RwLock<TransportKeys>,
    mailboxes: Mutex<Vec<Mailbox>>,
    results: Mutex<Option<ResultStore>>,
}

/// Names of keys and channels under the app's transport settings, as far as these are known.
struct TransportKeys {
    transport: Arc<TransportSettings>,
    broker: Arc<Keys>,
    backend: Arc<Keys>,
}

impl TransportKeys {
    fn new(endpoints: &Endpoints, transport: TransportSettings) -> Self {
        let transport = Arc::new(transport);
        Self {
            broker: Arc::new(Keys::of_broker(endpoints.broker.database, &transport)),
            backend: Arc::new(Keys::of_backend(endpoints.backend.database, &transport)),
            transport,
        }
    }
}

impl Client {
    /// Creates a client without sending anything. Fails when a certificate file cannot be read.
    pub fn connect(endpoints: Endpoints) -> Result<Self> {
        let broker = CommandConnection::new(RedisConnector::new(endpoints.broker.clone())?);
        let backend = CommandConnection::new(RedisConnector::new(endpoints.backend.clone())?);
        let transport = TransportSettings {
            key_prefix: endpoints.broker.key_prefix.clone(),
            backend_key_prefix: endpoints.backend.key_prefix.clone(),
            ..TransportSettings::default()
        };
        let shared = ClientState {
            names: RwLock::new(TransportKeys::new(&endpoints, transport)),
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

    /// Returns a client with another deadline for each call (default 5 s) and the same connections.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            deadline,
        }
    }

    /// Returns the endpoints of the broker and the result backend.
    pub fn endpoints(&self) -> &Endpoints {
        &self.shared.endpoints
    }

    /// Returns the transport settings that determine the names of keys and channels.
    pub fn transport(&self) -> Arc<TransportSettings> {
        let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&names.transport)
    }

    /// Makes all clones name keys and channels by these settings from now on. Event streams and result handles that
    /// were opened earlier keep their names, so call this function first.
    pub fn set_transport(&self, transport: TransportSettings) {
        let mut names = self.shared.names.write().unwrap_or_else(PoisonError::into_inner);
        if *names.transport == transport {
            return;
        }
        *names = TransportKeys::new(&self.shared.endpoints, transport);
        drop(names);
        let mut mailboxes = self.shared.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        mailboxes.clear();
        drop(mailboxes);
        *self.shared.results.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the handle for results; all its clones share one subscription connection. Call it inside a tokio
    /// runtime.
    pub fn results(&self) -> ResultStore {
        let mut results = self.shared.results.lock().unwrap_or_else(PoisonError::into_inner);
        match &*results {
            Some(results) if results.is_alive() => results.clone(),
            // This is the first call, or the runtime of the earlier calls has ended.
            _ => {
                let backend = self.shared.backend.clone();
                results
                    .insert(ResultStore::new(backend, self.backend_keys(), self.deadline))
                    .clone()
            }
        }
    }

    /// Sends the caller's own commands to the result backend's database, for example to read keys of an app. Key names
    /// are used unchanged. The commands are repeated until the deadline when the connection breaks, so they must be
    /// safe to execute twice.
    pub async fn backend_query<T: redis::FromRedisValue>(&self, action: &str, commands: &redis::Pipeline) -> Result<T> {
        self.shared.backend.query(action, commands, self.deadline).await
    }

    /// Sends the caller's own commands to the broker's database, like [`Client::backend_query`].
    pub async fn broker_query<T: redis::FromRedisValue>(&self, action: &str, commands: &redis::Pipeline) -> Result<T> {
        self.shared.broker.query(action, commands, self.deadline).await
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn broker(&self) -> &CommandConnection {
        &self.shared.broker
    }

    pub(crate) fn shared_broker(&self) -> Arc<CommandConnection> {
        self.shared.broker.clone()
    }

    pub(crate) fn backend(&self) -> &CommandConnection {
        &self.shared.backend
    }

    pub(crate) fn backend_keys(&self) -> Arc<Keys> {
        let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&names.backend)
    }

    pub(crate) fn broker_keys(&self) -> Arc<Keys> {
        let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&names.broker)
    }

    /// Takes an idle connection for control replies that an earlier call has returned.
    pub(crate) fn take_idle_mailbox(&self) -> Option<Mailbox> {
        self.shared
            .mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    /// Keeps a connection for reuse after a successful call.
    pub(crate) fn return_mailbox(&self, mailbox: Mailbox) {
        let mut mailboxes = self.shared.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if mailboxes.len() < MAX_IDLE_MAILBOXES {
            mailboxes.push(mailbox);
        }
    }
}
