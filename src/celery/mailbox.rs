//! One request to workers by broadcast, and the replies to it (Celery wire, observed on 5.2 to 5.7).
//!
//! Replies are sent to a list of our own, named by `reply_to` with exchange `""`: no binding is needed that a worker
//! could sweep away. The list belongs to a connection and is used again; tickets tell whose reply it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::connection::Commands;
use super::envelope::{Incoming, Outgoing};
use super::keys::Keys;
use super::reply_list::ReplyList;
use super::{Error, NodeName, Result};

/// Which workers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every worker on the broker.
    All,
    /// These nodes and no others.
    Nodes(Vec<NodeName>),
    /// Every node whose name matches this glob.
    Glob(String),
    /// Every node whose name matches this regular expression, as Python reads it.
    Regex(String),
}

impl From<&NodeName> for Target {
    fn from(node: &NodeName) -> Self {
        Self::Nodes(vec![node.clone()])
    }
}

/// What came back within the deadline.
#[derive(Clone, Debug, PartialEq)]
pub struct Replies<T> {
    /// By node; `Err` holds what the worker said went wrong, or why its reply cannot be read.
    pub nodes: BTreeMap<NodeName, Result<T, String>>,
    /// How many subscribers the request reached: workers, but also whoever else listens.
    pub listeners: u64,
    /// Replies received; more than `nodes` when two workers share a node name.
    pub answers: u64,
    /// Names from which more than one reply came: so many workers share each.
    pub shared: BTreeMap<NodeName, u64>,
    /// Good answers whose place in `nodes` a later one of the same name has taken.
    pub replaced: Vec<(NodeName, T)>,
    /// Messages on our list that could not be read.
    pub malformed: u64,
}

impl<T> Default for Replies<T> {
    /// Nobody was asked.
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            listeners: 0,
            answers: 0,
            shared: BTreeMap::new(),
            replaced: Vec::new(),
            malformed: 0,
        }
    }
}

impl<T> Replies<T> {
    /// The good answer of one node.
    pub fn of(&self, node: &NodeName) -> Option<&T> {
        self.nodes.get(node)?.as_ref().ok()
    }

    /// All good answers.
    pub fn good(&self) -> impl Iterator<Item = (&NodeName, &T)> {
        self.nodes
            .iter()
            .filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)))
    }

    /// Good answers of this name but the one that [`Replies::of`] gives.
    pub fn replaced(&self, node: &NodeName) -> impl Iterator<Item = &T> {
        let replaced = self.replaced.iter().filter(move |(name, _)| name == node);
        replaced.map(|(_, answer)| answer)
    }

    /// Whether some listener has not answered; it may be no worker at all.
    pub fn is_incomplete(&self) -> bool {
        self.answers < self.listeners
    }

    /// The same replies with every good answer read further.
    pub(super) fn read<U>(self, read: impl Fn(T) -> Result<U, String>) -> Replies<U> {
        Replies {
            nodes: self
                .nodes
                .into_iter()
                .map(|(node, answer)| (node, answer.and_then(&read)))
                .collect(),
            listeners: self.listeners,
            answers: self.answers,
            shared: self.shared,
            replaced: self
                .replaced
                .into_iter()
                .filter_map(|(node, answer)| Some((node, read(answer).ok()?)))
                .collect(),
            malformed: self.malformed,
        }
    }
}

/// A request to be published.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) arguments: &'a Value,
    pub(super) target: &'a Target,
}

#[derive(Serialize)]
struct Body<'a> {
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
struct Headers {
    clock: u64,
    /// Unix seconds. Workers do not honour it.
    expires: f64,
}

impl Request<'_> {
    /// The message to publish; replies go to the list named `reply_to`, if any.
    pub(super) fn encode(&self, exchange: &str, reply: Option<(&str, &str)>, within: Duration) -> Result<Vec<u8>> {
        let (destination, pattern, matcher) = match self.target {
            Target::All => (None, None, None),
            Target::Nodes(nodes) => (Some(nodes.as_slice()), None, None),
            Target::Glob(pattern) => (None, Some(pattern.as_str()), Some("glob")),
            Target::Regex(pattern) => (None, Some(pattern.as_str()), Some("pcre")),
        };
        let body = Body {
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Outgoing {
            headers: &Headers {
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
        .encode(&format!("the control request `{}`", self.method))
    }
}

/// Sends requests and takes in their replies; used by one call at a time.
pub(super) struct Mailbox {
    replies: ReplyList,
    channel: String,
    exchange: String,
}

impl Mailbox {
    /// Connects. The caller bounds the time.
    pub(super) async fn open(broker: Arc<Commands>, keys: &Keys) -> Result<Self> {
        Ok(Self {
            replies: ReplyList::open(broker, keys).await?,
            channel: keys.control(),
            exchange: keys.control_exchange(),
        })
    }

    /// Publishes a request; gives the number of its listeners.
    pub(super) async fn publish(&mut self, request: &Request<'_>, ticket: &str, within: Duration) -> Result<u64> {
        let message = request.encode(&self.exchange, Some((self.replies.queue(), ticket)), within)?;
        self.replies.publish(&self.channel, &message, within).await
    }

    /// Takes in replies until all who can have answered, or the deadline.
    pub(super) async fn collect(
        &mut self,
        target: &Target,
        ticket: &str,
        listeners: u64,
        deadline: Instant,
    ) -> Result<Replies<Value>> {
        let mut replies = Replies {
            nodes: BTreeMap::new(),
            listeners,
            answers: 0,
            shared: BTreeMap::new(),
            replaced: Vec::new(),
            malformed: 0,
        };
        while !is_complete(&replies, target) {
            let Some(message) = self.replies.next(deadline).await? else {
                // Who is late makes no new list: it waits for its expiry with what is already there.
                return Ok(replies);
            };
            match read_reply(&message, ticket) {
                Ok(None) => {}
                Ok(Some(answers)) => {
                    replies.answers += 1;
                    for (node, answer) in answers {
                        if replies.nodes.contains_key(&node) {
                            *replies.shared.entry(node.clone()).or_insert(1) += 1;
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
        // Two workers may share a name: while there is a listener that has not answered, the list waits for its expiry.
        if replies.answers >= listeners {
            self.replies.clear().await;
        }
        Ok(replies)
    }
}

fn is_complete(replies: &Replies<Value>, target: &Target) -> bool {
    let Target::Nodes(wanted) = target else {
        return replies.answers >= replies.listeners;
    };
    // Who was not asked does not stand for one who was.
    let strangers = replies.nodes.keys().filter(|node| !wanted.contains(node)).count() as u64;
    wanted.iter().all(|node| replies.nodes.contains_key(node))
        || replies.answers.saturating_sub(strangers) >= replies.listeners
}

pub(super) type Answers = BTreeMap<NodeName, Result<Value, String>>;

/// The answers of a reply to this ticket, `None` for another ticket.
pub(super) fn read_reply(message: &[u8], ticket: &str) -> Result<Option<Answers>> {
    let what = "a control reply";
    let message = Incoming::decode(message, what)?;
    if message.header("ticket") != Some(ticket) {
        return Ok(None);
    }
    let Value::Object(nodes) = message.body(what)? else {
        return Err(Error::Malformed {
            what: what.to_owned(),
            reason: "its body is not an object".to_owned(),
        });
    };
    Ok(Some(
        nodes
            .into_iter()
            .map(|(node, answer)| (NodeName::from(node), worker_error(answer)))
            .collect(),
    ))
}

/// A worker says `{"error": text}`, and nothing else beside it, when a request failed there.
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

    use super::super::frames;
    use super::*;

    #[test]
    fn a_request_is_what_python_sends_but_for_the_reply_exchange() {
        let node = NodeName::from("w1@node");
        for version in frames::VERSIONS {
            let mut theirs = frames::load(version, "control")["ping_dest"]["request"].clone();
            let target = Target::from(&node);
            let request = Request {
                method: "ping",
                arguments: &json!({}),
                target: &target,
            };
            let message = request
                .encode("celery.pidbox", Some(("list", "ticket")), Duration::from_secs(1))
                .expect("encodable");
            let mut ours = frames::decoded(&message);
            assert_eq!(ours["body"]["ticket"], "ticket");
            assert_eq!(ours["body"]["reply_to"], json!({"exchange": "", "routing_key": "list"}));
            for message in [&mut theirs, &mut ours] {
                message["body"]["ticket"].take();
                message["body"]["reply_to"].take();
                message["headers"]["clock"].take();
                message["headers"]["expires"].take();
                message["properties"]["delivery_tag"].take();
            }
            assert_eq!(ours, theirs, "{version}");
        }
    }

    #[test]
    fn a_request_without_reply_says_nothing_of_one() {
        let target = Target::Glob("w*".to_owned());
        let request = Request {
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
    fn who_can_still_answer_decides_when_a_call_is_complete() {
        let node = |name: &str| NodeName::from(name);
        let both = Target::Nodes(vec![node("a"), node("b")]);
        for (answered, listeners, target, complete) in [
            (vec![], 0, Target::All, true),
            (vec!["a"], 2, Target::All, false),
            (vec!["a", "b"], 2, Target::All, true),
            (vec!["a", "b"], 5, both.clone(), true),
            (vec!["a"], 5, both.clone(), false),
            (vec!["a"], 1, both.clone(), true),
            (vec!["stranger"], 1, both, false),
        ] {
            let nodes = answered.iter().map(|name| (node(name), Ok(Value::Null))).collect();
            let replies = Replies {
                nodes,
                listeners,
                answers: answered.len() as u64,
                shared: BTreeMap::new(),
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
