//! Envelope of tasks, control messages, replies and events (Celery wire, observed on 5.2 to 5.7).
//!
//! Writing uses typed structures, because some malformed messages crash all workers. Reading is tolerant.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::ids::random_uuid;
use super::json;
use crate::error::{Error, Result};
use orch_base::text::large_integer;

/// Estimated size in bytes of the headers and properties of a task without the text of the arguments.
const HEADERS_CAPACITY: usize = 1024;

/// Parts of an envelope that differ between kinds of messages.
pub(crate) struct OutgoingMessage<'a, H, B> {
    pub(crate) headers: &'a H,
    pub(crate) body: &'a B,
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) priority: u8,
    pub(crate) correlation_id: Option<&'a str>,
    /// Time until the message expires, in milliseconds from now. Informative only: workers ignore this property.
    pub(crate) expiration: Option<u64>,
}

#[derive(Serialize)]
struct OutgoingProperties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    /// Delivery mode of AMQP; 2 is "persistent".
    delivery_mode: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    delivery_info: OutgoingDeliveryInfo<'a>,
    priority: u8,
    body_encoding: &'static str,
    delivery_tag: &'a str,
}

#[derive(Serialize)]
struct OutgoingDeliveryInfo<'a> {
    exchange: &'a str,
    routing_key: &'a str,
}

impl<H: Serialize, B: Serialize> OutgoingMessage<'_, H, B> {
    /// Encodes the bytes to LPUSH or PUBLISH; `what` names the message in an error.
    pub(crate) fn encode(&self, what: &str) -> Result<Vec<u8>> {
        let unwritable = |error: serde_json::Error| Error::malformed(what, error);
        let body = large_integer::in_bytes(serde_json::to_vec(self.body).map_err(unwritable)?);
        let encoded = base64::encoded_len(body.len(), true).unwrap_or(usize::MAX);
        json::check_size(encoded, what)?;
        // The JSON is written piece by piece, so that the body is encoded directly into the buffer.
        let mut bytes = Vec::with_capacity(encoded + HEADERS_CAPACITY);
        bytes.extend_from_slice(br#"{"body":""#);
        let start = bytes.len();
        bytes.resize(start + encoded, 0);
        let space = bytes.get_mut(start..).unwrap_or_default();
        let written = BASE64.encode_slice(&body, space);
        let written = written.map_err(|error| Error::malformed(what, error))?;
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
            delivery_info: OutgoingDeliveryInfo {
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

/// Received message; the body is still encoded.
#[derive(Debug, Deserialize)]
pub(crate) struct IncomingMessage {
    body: String,
    #[serde(rename = "content-type")]
    content_type: Option<String>,
    #[serde(rename = "content-encoding")]
    content_encoding: Option<String>,
    #[serde(default)]
    pub(crate) headers: Map<String, Value>,
    #[serde(default)]
    properties: Map<String, Value>,
}

impl IncomingMessage {
    /// Reads an envelope; `what` names the message in an error.
    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        json::parse(bytes, what)
    }

    /// Decodes the body.
    pub(crate) fn body(&self, what: &str) -> Result<Value> {
        let body = EncodedBody {
            body: self.body.as_bytes(),
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
            is_compressed: self.headers.get("compression").is_some_and(|method| !method.is_null()),
            body_encoding: self.properties.get("body_encoding").and_then(Value::as_str),
        };
        json::parse_exact(body.decode_into(what, &mut Vec::new())?, what)
    }

    /// Returns the value of a text header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(Value::as_str)
    }
}

/// Encoded body with the information that is needed to decode it.
struct EncodedBody<'a> {
    body: &'a [u8],
    content_type: Option<&'a str>,
    content_encoding: Option<&'a str>,
    is_compressed: bool,
    body_encoding: Option<&'a str>,
}

impl<'a> EncodedBody<'a> {
    /// Returns the JSON text. `space` holds the text if the body is encoded.
    fn decode_into<'s>(&self, what: &str, space: &'s mut Vec<u8>) -> Result<&'s [u8]>
    where
        'a: 's,
    {
        let malformed = |reason: String| Error::malformed(what, reason);
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
                // The fast decoder only reports a failure; the other decoder reports the cause.
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

/// Fields of an envelope that are needed to decode the body.
#[derive(Deserialize)]
struct BorrowedEnvelope<'a> {
    #[serde(borrow)]
    body: Option<json::BorrowedText<'a>>,
    #[serde(rename = "content-type", borrow)]
    content_type: Option<json::BorrowedText<'a>>,
    #[serde(rename = "content-encoding", borrow)]
    content_encoding: Option<json::BorrowedText<'a>>,
    #[serde(default)]
    headers: BorrowedHeaders,
    #[serde(default, borrow)]
    properties: BorrowedProperties<'a>,
}

#[derive(Default, Deserialize)]
struct BorrowedHeaders {
    compression: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct BorrowedProperties<'a> {
    #[serde(borrow)]
    body_encoding: Option<json::BorrowedText<'a>>,
}

/// Reads only the body of a message: passes the JSON text of the body to `read` and keeps nothing else.
///
/// `space` is the buffer for the decoded body. The caller reuses the buffer for all messages, because allocating and
/// freeing some thousand bytes for each message makes the allocator consolidate its free memory each time.
pub(crate) fn with_body<T>(
    message: &[u8],
    what: &str,
    space: &mut Vec<u8>,
    mut read: impl FnMut(&[u8]) -> Result<T>,
) -> Result<T> {
    json::check_size(message.len(), what)?;
    if decode_kombu_body(message, what, space).is_some() {
        return read(space);
    }
    json::parse_with(message, what, |message| {
        let wrapping: BorrowedEnvelope<'_> = serde_json::from_slice(message)?;
        let body = wrapping.body.as_ref();
        let body = body.ok_or_else(|| serde_json::Error::missing_field("body"))?;
        Ok(wrapping
            .encoded(body.0.as_bytes())
            .decode_into(what, space)
            .and_then(&mut read))
    })?
}

/// Decodes a base64 body that is the first field of the message, as kombu writes it, directly into `space`. Parsing
/// such a body as a JSON string first would double the time for a list of events. Returns `None` for all other and for
/// malformed messages, which the complete parser handles.
fn decode_kombu_body(message: &[u8], what: &str, space: &mut Vec<u8>) -> Option<()> {
    let message = message.strip_prefix(br#"{"body": ""#)?;
    let (body, rest) = message.split_at(memchr::memchr(b'"', message)?);
    let rest = rest.strip_prefix(br#"", "#)?;
    let mut others = Vec::with_capacity(1 + rest.len());
    others.push(b'{');
    others.extend_from_slice(rest);
    let wrapping: BorrowedEnvelope<'_> = serde_json::from_slice(&others).ok()?;
    let is_base64 = text(&wrapping.properties.body_encoding) == Some("base64");
    if wrapping.body.is_some() || !is_base64 {
        return None;
    }
    // JSON escapes are not valid base64, so a body that can be decoded contains no escapes.
    wrapping.encoded(body).decode_into(what, space).ok().map(|_| ())
}

fn text<'a>(text: &'a Option<json::BorrowedText<'_>>) -> Option<&'a str> {
    text.as_ref().map(|text| text.0.as_ref())
}

impl BorrowedEnvelope<'_> {
    fn encoded<'a>(&'a self, body: &'a [u8]) -> EncodedBody<'a> {
        EncodedBody {
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

    use super::*;
    use crate::wire::frames;

    fn body(envelope: Value) -> Result<Value> {
        IncomingMessage::decode(envelope.to_string().as_bytes(), "a test")?.body("a test")
    }

    #[test]
    fn a_body_may_be_base64_or_plain_text() {
        let encoded = json!({"body": BASE64.encode("[1]"), "properties": {"body_encoding": "base64"}});
        assert_eq!(body(encoded).expect("readable"), json!([1]));
        assert_eq!(body(json!({"body": "[1]"})).expect("readable"), json!([1]));
    }

    #[test]
    fn an_unreadable_message_is_an_error_with_the_reason() {
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
                if let Ok(message) = IncomingMessage::decode(&bytes, "a test") {
                    let _outcome = message.body("a test");
                }
            }
        }
    }
}
