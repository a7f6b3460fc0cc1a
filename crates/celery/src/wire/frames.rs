//! Messages recorded from real workers of all supported versions (`tests/fixtures/celery`), for the unit tests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

/// Supported versions, oldest first.
pub(crate) const VERSIONS: [&str; 6] = ["5.2.7", "5.3.6", "5.4.0", "5.5.3", "5.6.3", "5.7.0"];

/// Loads the frames of one topic of one version.
pub(crate) fn load(version: &str, topic: &str) -> Value {
    let path = format!(
        "{}/../../tests/fixtures/celery/{version}/{topic}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Encodes an envelope as it was on the wire: the recorded frames hold the decoded body.
pub(crate) fn wire(envelope: &Value) -> Vec<u8> {
    let mut envelope = envelope.clone();
    envelope["body"] = base64(envelope["body"].to_string().as_bytes());
    envelope.to_string().into_bytes()
}

/// Encodes a body as base64, the form that an envelope holds.
pub(crate) fn base64(body: &[u8]) -> Value {
    Value::String(BASE64.encode(body))
}

/// Decodes an envelope: the inverse of [`wire`]. Panics if a part is malformed.
pub(crate) fn decoded(message: &[u8]) -> Value {
    let mut envelope: Value = serde_json::from_slice(message).expect("our own JSON");
    let body = BASE64
        .decode(envelope["body"].as_str().expect("a body"))
        .expect("our own base64");
    envelope["body"] = serde_json::from_slice(&body).expect("our own JSON");
    envelope
}
