//! Broadcast of one control command, and the replies (Celery wire, observed on 5.2 to 5.7).
//!
//! Workers send their replies to a list of this client. `reply_to` contains the name of the list, with the exchange
//! `""`, so there is no binding that a worker could remove. The list belongs to a connection and is reused. A ticket
//! assigns each reply to its command.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::reply_list::ReplyList;
use crate::error::{Error, Result};
use crate::redis::connection::CommandConnection;
use crate::wire::envelope::{IncomingMessage, OutgoingMessage};
use crate::wire::ids::NodeName;
use crate::wire::keys::Keys;
use orch_base::wall_clock::unix_now;

/// Workers that receive a control command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlTarget {
    /// All workers of the broker.
    All,
    /// Exactly these nodes.
    Nodes(Vec<NodeName>),
    /// All nodes with names that match this glob pattern.
    Glob(String),
    /// All nodes with names that match this regular expression in Python's syntax.
    Regex(String),
}

impl From<&NodeName> for ControlTarget {
    fn from(node: &NodeName) -> Self {
        Self::Nodes(vec![node.clone()])
    }
}

/// Replies that arrived before the deadline.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlReplies<T> {
    /// Replies by node. `Err` holds the error message of the worker, or the reason why the reply cannot be decoded.
    pub nodes: BTreeMap<NodeName, Result<T, String>>,
    /// Number of subscribers that received the command. These can include processes that are not workers.
    pub listeners: u64,
    /// Number of replies. This number is larger than that of `nodes` when two workers share a node name.
    pub answers: u64,
    /// Node names with more than one reply, each with the number of workers that share the name.
    pub shared_names: BTreeMap<NodeName, u64>,
    /// Successful replies that were replaced in `nodes` by a later reply of the same node name.
    pub replaced: Vec<(NodeName, T)>,
    /// Number of messages in the reply list that could not be read.
    pub malformed: u64,
}

impl<T> Default for ControlReplies<T> {
    /// Returns the replies of a command that was not sent.
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            listeners: 0,
            answers: 0,
            shared_names: BTreeMap::new(),
            replaced: Vec::new(),
            malformed: 0,
        }
    }
}

impl<T> ControlReplies<T> {
    /// Returns the successful reply of one node.
    pub fn of(&self, node: &NodeName) -> Option<&T> {
        self.nodes.get(node)?.as_ref().ok()
    }

    /// Returns all successful replies.
    pub fn good(&self) -> impl Iterator<Item = (&NodeName, &T)> {
        self.nodes
            .iter()
            .filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)))
    }

    /// Returns the successful replies of this node name, except the one that [`Self::of`] returns.
    pub fn replaced(&self, node: &NodeName) -> impl Iterator<Item = &T> {
        let replaced = self.replaced.iter().filter(move |(name, _)| name == node);
        replaced.map(|(_, answer)| answer)
    }

    /// Returns true when a listener has not replied. That listener may not be a worker.
    pub fn is_incomplete(&self) -> bool {
        self.answers < self.listeners
    }

    /// Decodes all successful replies with `read`.
    pub(crate) fn read<U>(self, read: impl Fn(T) -> Result<U, String>) -> ControlReplies<U> {
        ControlReplies {
            nodes: self
                .nodes
                .into_iter()
                .map(|(node, answer)| (node, answer.and_then(&read)))
                .collect(),
            listeners: self.listeners,
            answers: self.answers,
            shared_names: self.shared_names,
            replaced: self
                .replaced
                .into_iter()
                .filter_map(|(node, answer)| Some((node, read(answer).ok()?)))
                .collect(),
            malformed: self.malformed,
        }
    }
}

/// Control command to publish.
pub(crate) struct ControlCommand<'a> {
    pub(crate) method: &'a str,
    pub(crate) arguments: &'a Value,
    pub(crate) target: &'a ControlTarget,
}

#[derive(Serialize)]
struct CommandBody<'a> {
    method: &'a str,
    arguments: &'a Value,
    destination: Option<&'a [NodeName]>,
    pattern: Option<&'a str>,
    matcher: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<ReplyTo<'a>>,
}

#[derive(Serialize)]
struct ReplyTo<'a> {
    exchange: &'static str,
    routing_key: &'a str,
}

#[derive(Serialize)]
struct CommandHeaders {
    clock: u64,
    /// Expiry in Unix seconds. Workers ignore the value.
    expires: f64,
}

impl ControlCommand<'_> {
    /// Encodes the message to publish. `reply` contains the reply list and the ticket.
    pub(crate) fn encode(&self, exchange: &str, reply: Option<(&str, &str)>, within: Duration) -> Result<Vec<u8>> {
        let (destination, pattern, matcher) = match self.target {
            ControlTarget::All => (None, None, None),
            ControlTarget::Nodes(nodes) => (Some(nodes.as_slice()), None, None),
            ControlTarget::Glob(pattern) => (None, Some(pattern.as_str()), Some("glob")),
            ControlTarget::Regex(pattern) => (None, Some(pattern.as_str()), Some("pcre")),
        };
        let body = CommandBody {
            method: self.method,
            arguments: self.arguments,
            destination,
            pattern,
            matcher,
            ticket: reply.map(|(_, ticket)| ticket),
            reply_to: reply.map(|(routing_key, _)| ReplyTo {
                exchange: "",
                routing_key,
            }),
        };
        let now = unix_now();
        OutgoingMessage {
            headers: &CommandHeaders {
                clock: 1,
                expires: (now + within).as_secs_f64(),
            },
            body: &body,
            exchange,
            routing_key: "",
            priority: 0,
            correlation_id: None,
            expiration: None,
        }
        .encode(&format!("the control command `{}`", self.method))
    }
}

/// Sender of control commands and receiver of their replies, used by one call at a time.
pub(crate) struct Mailbox {
    replies: ReplyList,
    channel: String,
    exchange: String,
}

impl Mailbox {
    /// Opens the connection. The caller limits the time.
    pub(crate) async fn open(broker: Arc<CommandConnection>, keys: &Keys) -> Result<Self> {
        Ok(Self {
            replies: ReplyList::open(broker, keys).await?,
            channel: keys.control_channel(),
            exchange: keys.control_exchange(),
        })
    }

    /// Publishes a command and returns the number of listeners.
    pub(crate) async fn publish(
        &mut self,
        request: &ControlCommand<'_>,
        ticket: &str,
        within: Duration,
    ) -> Result<u64> {
        let message = request.encode(&self.exchange, Some((self.replies.queue(), ticket)), within)?;
        self.replies.publish(&self.channel, &message, within).await
    }

    /// Collects replies until all expected workers have replied, or until the deadline.
    pub(crate) async fn collect(
        &mut self,
        target: &ControlTarget,
        ticket: &str,
        listeners: u64,
        deadline: Instant,
    ) -> Result<ControlReplies<Value>> {
        let mut replies = ControlReplies {
            listeners,
            ..ControlReplies::default()
        };
        while !is_complete(&replies, target) {
            let Some(message) = self.replies.next(deadline).await? else {
                // A late reply does not create a new list: the existing list receives the reply and then expires.
                return Ok(replies);
            };
            match read_reply(&message, ticket) {
                Ok(None) => {}
                Ok(Some(answers)) => {
                    replies.answers += 1;
                    for (node, answer) in answers {
                        if replies.nodes.contains_key(&node) {
                            *replies.shared_names.entry(node.clone()).or_insert(1) += 1;
                        }
                        if let Some(Ok(earlier)) = replies.nodes.insert(node.clone(), answer) {
                            replies.replaced.push((node, earlier));
                        }
                    }
                }
                Err(error) => {
                    replies.malformed += 1;
                    tracing::debug!(%error, "skipped a control reply");
                }
            }
        }
        // Two workers may share a name: while a listener has not replied, the list stays until its expiry.
        if replies.answers >= listeners {
            self.replies.clear().await;
        }
        Ok(replies)
    }
}

fn is_complete(replies: &ControlReplies<Value>, target: &ControlTarget) -> bool {
    let ControlTarget::Nodes(wanted) = target else {
        return replies.answers >= replies.listeners;
    };
    // A reply of another node does not replace the reply of a requested node.
    let other_nodes = replies.nodes.keys().filter(|node| !wanted.contains(node)).count() as u64;
    wanted.iter().all(|node| replies.nodes.contains_key(node))
        || replies.answers.saturating_sub(other_nodes) >= replies.listeners
}

pub(crate) type WorkerReplies = BTreeMap<NodeName, Result<Value, String>>;

/// Decodes the replies in a message with this ticket. Returns `None` for another ticket.
pub(crate) fn read_reply(message: &[u8], ticket: &str) -> Result<Option<WorkerReplies>> {
    let what = "a control reply";
    let message = IncomingMessage::decode(message, what)?;
    if message.header("ticket") != Some(ticket) {
        return Ok(None);
    }
    let Value::Object(nodes) = message.body(what)? else {
        return Err(Error::malformed(what, "its body is not an object"));
    };
    Ok(Some(
        nodes
            .into_iter()
            .map(|(node, answer)| (NodeName::from(node), worker_error(answer)))
            .collect(),
    ))
}

/// Separates errors: a worker replies with `{"error": text}` and no other field when a command failed.
fn worker_error(answer: Value) -> Result<Value, String> {
    match answer
        .as_object()
        .filter(|fields| fields.len() == 1)
        .and_then(|fields| fields.get("error")?.as_str())
    {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::frames;

    #[test]
    fn a_request_equals_that_of_python_except_for_the_reply_exchange() {
        let node = NodeName::from("w1@node");
        for version in frames::VERSIONS {
            let mut expected = frames::load(version, "control")["ping_dest"]["request"].clone();
            let target = ControlTarget::from(&node);
            let request = ControlCommand {
                method: "ping",
                arguments: &json!({}),
                target: &target,
            };
            let message = request
                .encode("celery.pidbox", Some(("list", "ticket")), Duration::from_secs(1))
                .expect("encodable");
            let mut encoded = frames::decoded(&message);
            assert_eq!(encoded["body"]["ticket"], "ticket");
            assert_eq!(
                encoded["body"]["reply_to"],
                json!({"exchange": "", "routing_key": "list"})
            );
            for message in [&mut expected, &mut encoded] {
                message["body"]["ticket"].take();
                message["body"]["reply_to"].take();
                message["headers"]["clock"].take();
                message["headers"]["expires"].take();
                message["properties"]["delivery_tag"].take();
            }
            assert_eq!(encoded, expected, "{version}");
        }
    }

    #[test]
    fn a_request_without_reply_contains_no_reply_list() {
        let target = ControlTarget::Glob("w*".to_owned());
        let request = ControlCommand {
            method: "shutdown",
            arguments: &json!({}),
            target: &target,
        };
        let body = frames::decoded(
            &request
                .encode("celery.pidbox", None, Duration::from_secs(1))
                .expect("encodable"),
        )["body"]
            .clone();
        assert_eq!(
            body,
            json!({"method": "shutdown", "arguments": {}, "destination": null, "pattern": "w*", "matcher": "glob"})
        );
    }

    #[test]
    fn replies_of_every_version_are_read() {
        let node = NodeName::from("w1@node");
        for version in frames::VERSIONS {
            let control = frames::load(version, "control");
            let reply = |request: &str| {
                let reply = &control[request]["reply"];
                let ticket = reply["headers"]["ticket"].as_str().expect("a ticket");
                read_reply(&frames::wire(reply), ticket)
                    .expect(version)
                    .expect("our ticket")[&node]
                    .clone()
            };
            assert_eq!(reply("ping_dest"), Ok(json!({"ok": "pong"})), "{version}");
            assert_eq!(reply("heartbeat"), Ok(Value::Null), "{version}");
            assert_eq!(
                reply("unknown_cmd"),
                Err("KeyError('no_such_cmd')".to_owned()),
                "{version}"
            );
            let other = read_reply(&frames::wire(&control["ping_dest"]["reply"]), "another ticket");
            assert_eq!(other.expect(version), None, "{version}");
        }
    }

    #[test]
    fn a_call_is_complete_when_nobody_else_can_reply() {
        let node = |name: &str| NodeName::from(name);
        let both = ControlTarget::Nodes(vec![node("a"), node("b")]);
        for (answered, listeners, target, complete) in [
            (vec![], 0, ControlTarget::All, true),
            (vec!["a"], 2, ControlTarget::All, false),
            (vec!["a", "b"], 2, ControlTarget::All, true),
            (vec!["a", "b"], 5, both.clone(), true),
            (vec!["a"], 5, both.clone(), false),
            (vec!["a"], 1, both.clone(), true),
            (vec!["other"], 1, both, false),
        ] {
            let nodes = answered.iter().map(|name| (node(name), Ok(Value::Null))).collect();
            let replies = ControlReplies {
                nodes,
                listeners,
                answers: answered.len() as u64,
                shared_names: BTreeMap::new(),
                replaced: Vec::new(),
                malformed: 0,
            };
            assert_eq!(
                is_complete(&replies, &target),
                complete,
                "{answered:?} of {listeners} for {target:?}"
            );
        }
    }
}
