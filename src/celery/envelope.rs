//! The envelope around every task, control message, reply and event (Celery wire, observed on 5.2 to 5.7).
//!
//! Writing is typed: some malformed messages take a whole fleet of workers down. Reading is tolerant.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::ids::random_uuid;
use super::{Error, Result, json};
use crate::large_integer;

/// Headers and properties of a task take about this many bytes beside the arguments' text.
const ROOM_FOR_THE_REST: usize = 1024;

/// Everything of an envelope that differs between kinds of messages.
pub(super) struct Outgoing<'a, H, B> {
    pub(super) headers: &'a H,
    pub(super) body: &'a B,
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
    pub(super) priority: u8,
    pub(super) correlation_id: Option<&'a str>,
    /// Until when it is worth something, in milliseconds from now; for others to see, workers do not look at it.
    pub(super) expiration: Option<u64>,
}

#[derive(Serialize)]
struct OutgoingProperties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    /// 2 is AMQP's "persistent".
    delivery_mode: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    delivery_info: DeliveryInfo<'a>,
    priority: u8,
    body_encoding: &'static str,
    delivery_tag: &'a str,
}

#[derive(Serialize)]
struct DeliveryInfo<'a> {
    exchange: &'a str,
    routing_key: &'a str,
}

impl<H: Serialize, B: Serialize> Outgoing<'_, H, B> {
    /// The bytes to LPUSH or PUBLISH; `what` names the message in an error.
    pub(super) fn encode(&self, what: &str) -> Result<Vec<u8>> {
        let unwritable = |error: serde_json::Error| Error::Malformed {
            what: what.to_owned(),
            reason: error.to_string(),
        };
        let body = large_integer::in_bytes(serde_json::to_vec(self.body).map_err(unwritable)?);
        let encoded = base64::encoded_len(body.len(), true).unwrap_or(usize::MAX);
        json::check_size(encoded, what)?;
        // Written by hand, not as one value: the body goes straight to its place.
        let mut bytes = Vec::with_capacity(encoded + ROOM_FOR_THE_REST);
        bytes.extend_from_slice(br#"{"body":""#);
        let start = bytes.len();
        bytes.resize(start + encoded, 0);
        let space = bytes.get_mut(start..).unwrap_or_default();
        let written = BASE64.encode_slice(&body, space).map_err(|error| Error::Malformed {
            what: what.to_owned(),
            reason: error.to_string(),
        })?;
        bytes.truncate(start + written);
        bytes.extend_from_slice(br#"","content-encoding":"utf-8","content-type":"application/json","headers":"#);
        let headers = large_integer::in_bytes(serde_json::to_vec(self.headers).map_err(unwritable)?);
        bytes.extend_from_slice(&headers);
        bytes.extend_from_slice(br#","properties":"#);
        let mut tag = Uuid::encode_buffer();
        let properties = OutgoingProperties {
            correlation_id: self.correlation_id,
            delivery_mode: 2,
            expiration: self.expiration.map(|milliseconds| milliseconds.to_string()),
            delivery_info: DeliveryInfo {
                exchange: self.exchange,
                routing_key: self.routing_key,
            },
            priority: self.priority,
            body_encoding: "base64",
            delivery_tag: random_uuid().hyphenated().encode_lower(&mut tag),
        };
        serde_json::to_writer(&mut bytes, &properties).map_err(unwritable)?;
        bytes.push(b'}');
        json::check_size(bytes.len(), what)?;
        Ok(bytes)
    }
}

/// A message as it came; its body is still encoded.
#[derive(Debug, Deserialize)]
pub(super) struct Incoming {
    body: String,
    #[serde(rename = "content-type")]
    content_type: Option<String>,
    #[serde(rename = "content-encoding")]
    content_encoding: Option<String>,
    #[serde(default)]
    pub(super) headers: Map<String, Value>,
    #[serde(default)]
    properties: Map<String, Value>,
}

impl Incoming {
    /// Reads an envelope; `what` names the message in an error.
    pub(super) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        json::parse(bytes, what)
    }

    /// Decodes the body.
    pub(super) fn body(&self, what: &str) -> Result<Value> {
        let body = Encoded {
            body: self.body.as_bytes(),
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
            is_compressed: self.headers.get("compression").is_some_and(|how| !how.is_null()),
            body_encoding: self.properties.get("body_encoding").and_then(Value::as_str),
        };
        json::parse_exact(body.decode_into(what, &mut Vec::new())?, what)
    }

    /// A header that is a text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(Value::as_str)
    }
}

/// A body with all that says how to read it.
struct Encoded<'a> {
    body: &'a [u8],
    content_type: Option<&'a str>,
    content_encoding: Option<&'a str>,
    is_compressed: bool,
    body_encoding: Option<&'a str>,
}

impl<'a> Encoded<'a> {
    /// The JSON text; in `space`, where it is encoded.
    fn decode_into<'s>(&self, what: &str, space: &'s mut Vec<u8>) -> Result<&'s [u8]>
    where
        'a: 's,
    {
        let malformed = |reason: String| Error::Malformed {
            what: what.to_owned(),
            reason,
        };
        if let Some(kind) = self.content_type.filter(|kind| *kind != "application/json") {
            return Err(malformed(format!(
                "its content type is `{kind}`, only JSON is supported"
            )));
        }
        if let Some(encoding) = self
            .content_encoding
            .filter(|encoding| !encoding.eq_ignore_ascii_case("utf-8"))
        {
            return Err(malformed(format!(
                "its content encoding is `{encoding}`, only utf-8 is supported"
            )));
        }
        if self.is_compressed {
            return Err(malformed("it is compressed".to_owned()));
        }
        match self.body_encoding {
            Some("base64") => {
                space.clear();
                // The quick one says that something is wrong, the other what.
                if base64_simd::STANDARD.decode_append(self.body, space).is_err() {
                    space.clear();
                    let decoded = BASE64.decode_vec(self.body, space);
                    decoded.map_err(|error| malformed(error.to_string()))?;
                }
                Ok(space)
            }
            None => Ok(self.body),
            Some(other) => Err(malformed(format!("its body encoding is `{other}`"))),
        }
    }
}

/// As much of an envelope as its body needs.
#[derive(Deserialize)]
struct Wrapping<'a> {
    #[serde(borrow)]
    body: Option<json::Text<'a>>,
    #[serde(rename = "content-type", borrow)]
    content_type: Option<json::Text<'a>>,
    #[serde(rename = "content-encoding", borrow)]
    content_encoding: Option<json::Text<'a>>,
    #[serde(default)]
    headers: WrappingHeaders,
    #[serde(default, borrow)]
    properties: WrappingProperties<'a>,
}

#[derive(Default, Deserialize)]
struct WrappingHeaders {
    compression: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct WrappingProperties<'a> {
    #[serde(borrow)]
    body_encoding: Option<json::Text<'a>>,
}

/// Reads a message of which only the body matters: `read` is given the JSON text, and nothing else is kept.
///
/// `space` is where an encoded body is decoded: kept by the caller from message to message, since memory of some thousand
/// bytes that comes and goes with each makes the allocator tidy up each time.
pub(super) fn with_body<T>(
    message: &[u8],
    what: &str,
    space: &mut Vec<u8>,
    mut read: impl FnMut(&[u8]) -> Result<T>,
) -> Result<T> {
    json::check_size(message.len(), what)?;
    if as_kombu_writes_it(message, what, space).is_some() {
        return read(space);
    }
    json::parse_with(message, what, |message| {
        let wrapping: Wrapping<'_> = serde_json::from_slice(message)?;
        let body = wrapping.body.as_ref();
        let body = body.ok_or_else(|| serde_json::Error::missing_field("body"))?;
        Ok(wrapping
            .encoded(body.0.as_bytes())
            .decode_into(what, space)
            .and_then(&mut read))
    })?
}

/// The short way to a body that stands first and is base64: decoded into `space` without being read as JSON before, which
/// for a list of events takes as long again. `None` for whatever is unlike that or wrong: the long way knows it all.
fn as_kombu_writes_it(message: &[u8], what: &str, space: &mut Vec<u8>) -> Option<()> {
    let message = message.strip_prefix(br#"{"body": ""#)?;
    let (body, rest) = message.split_at(memchr::memchr(b'"', message)?);
    let rest = rest.strip_prefix(br#"", "#)?;
    let mut others = Vec::with_capacity(1 + rest.len());
    others.push(b'{');
    others.extend_from_slice(rest);
    let wrapping: Wrapping<'_> = serde_json::from_slice(&others).ok()?;
    let is_base64 = text(&wrapping.properties.body_encoding) == Some("base64");
    if wrapping.body.is_some() || !is_base64 {
        return None;
    }
    // No escape is base64: what decodes is the text itself.
    wrapping.encoded(body).decode_into(what, space).ok().map(|_| ())
}

fn text<'a>(text: &'a Option<json::Text<'_>>) -> Option<&'a str> {
    text.as_ref().map(|text| text.0.as_ref())
}

impl Wrapping<'_> {
    fn encoded<'a>(&'a self, body: &'a [u8]) -> Encoded<'a> {
        Encoded {
            body,
            content_type: text(&self.content_type),
            content_encoding: text(&self.content_encoding),
            is_compressed: self.headers.compression.is_some(),
            body_encoding: text(&self.properties.body_encoding),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::frames;
    use super::*;

    fn body(envelope: Value) -> Result<Value> {
        Incoming::decode(envelope.to_string().as_bytes(), "a test")?.body("a test")
    }

    #[test]
    fn a_body_may_be_base64_or_plain_text() {
        let encoded = json!({"body": BASE64.encode("[1]"), "properties": {"body_encoding": "base64"}});
        assert_eq!(body(encoded).expect("readable"), json!([1]));
        assert_eq!(body(json!({"body": "[1]"})).expect("readable"), json!([1]));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (envelope, why) in [
            (
                json!({"body": "gASV", "content-type": "application/x-python-serialize"}),
                "x-python-serialize",
            ),
            (
                json!({"body": "gASV", "content-encoding": "binary"}),
                "content encoding is `binary`",
            ),
            (
                json!({"body": "x", "headers": {"compression": "application/x-gzip"}}),
                "compressed",
            ),
            (
                json!({"body": "%%", "properties": {"body_encoding": "base64"}}),
                "Invalid symbol",
            ),
            (json!({"body": "x", "properties": {"body_encoding": "rot13"}}), "rot13"),
            (json!({"body": "[1"}), "EOF"),
            (json!({"body": {"an": "object"}}), "expected a string"),
            (json!([]), "invalid length"),
        ] {
            let error = body(envelope.clone()).expect_err(why).to_string();
            assert!(error.contains(why), "{envelope}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_message_is_read_or_refused(version in 0..6usize, at in any::<usize>(), byte in any::<u8>()) {
            let events = frames::load(frames::VERSIONS[version], "events");
            for envelope in events.as_object().expect("frames by name").values() {
                let mut bytes = frames::wire(envelope);
                let at = at % bytes.len();
                bytes[at] = byte;
                if let Ok(message) = Incoming::decode(&bytes, "a test") {
                    let _outcome = message.body("a test");
                }
            }
        }
    }
}
