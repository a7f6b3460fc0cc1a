//! Messages recorded from real workers of each supported version (`tests/fixtures/celery`), for the unit tests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

/// The supported versions, oldest first.
pub(super) const VERSIONS: [&str; 6] = ["5.2.7", "5.3.6", "5.4.0", "5.5.3", "5.6.3", "5.7.0"];

/// The frames of one topic of one version.
pub(super) fn load(version: &str, topic: &str) -> Value {
    let path = format!(
        "{}/tests/fixtures/celery/{version}/{topic}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// An envelope as it was on the wire: in the frames its body is decoded.
pub(super) fn wire(envelope: &Value) -> Vec<u8> {
    let mut envelope = envelope.clone();
    envelope["body"] = base64(envelope["body"].to_string().as_bytes());
    envelope.to_string().into_bytes()
}

/// A body as an envelope holds it.
pub(super) fn base64(body: &[u8]) -> Value {
    Value::String(BASE64.encode(body))
}

/// The inverse of [`wire`].
pub(super) fn decoded(message: &[u8]) -> Value {
    let mut envelope: Value = serde_json::from_slice(message).expect("our own JSON");
    let body = BASE64
        .decode(envelope["body"].as_str().expect("a body"))
        .expect("our own base64");
    envelope["body"] = serde_json::from_slice(&body).expect("our own JSON");
    envelope
}
