//! One line of the file of requests: a JSON object with the version of the format, the id, the requesting process and
//! the verb with its target. A line that is not understood as a whole is refused, never in part ignored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use orch_base::text::printable;
use orch_journal::{RequestId, RequestReceipt, RequestSender, RequestVerb};

/// Version of the format.
const VERSION: u64 = 1;
/// Length limit of an id and of a user's name, in characters.
const MAX_NAME_LENGTH: usize = 64;
/// Length limit of a text from a line that an answer repeats, in characters.
const MAX_QUOTE_LENGTH: usize = 80;

#[derive(Serialize)]
struct VersionedRequest<'a> {
    v: u64,
    #[serde(flatten)]
    request: &'a RequestReceipt,
}

/// Formats a request as a line. An empty line before it ends a line that another command could not write completely.
///
/// # Errors
/// The request cannot be JSON.
pub(crate) fn format(request: &RequestReceipt) -> serde_json::Result<Vec<u8>> {
    let mut line = b"\n".to_vec();
    serde_json::to_writer(&mut line, &VersionedRequest { v: VERSION, request })?;
    line.push(b'\n');
    Ok(line)
}

/// Line that is no request of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedLine {
    /// Id of the request, if the line has a valid one.
    pub id: Option<RequestId>,
    pub reason: String,
}

/// Reads a line.
///
/// # Errors
/// The line is not understood.
pub(crate) fn parse(line: &[u8]) -> Result<RequestReceipt, RefusedLine> {
    let refused = |id: Option<&RequestId>, reason: String| RefusedLine {
        id: id.cloned(),
        reason,
    };
    let mut fields: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| refused(None, format!("it is no JSON object: {error}")))?;
    let id = fields.remove("id").and_then(valid_id);
    match fields.remove("v") {
        Some(version) if version == VERSION => {}
        Some(version) => {
            let reason = format!(
                "this orch reads version {VERSION} of requests, not {}",
                quoted(&version)
            );
            return Err(refused(id.as_ref(), reason));
        }
        None => return Err(refused(id.as_ref(), "it has no version `v`".to_owned())),
    }
    let Some(id) = id else {
        return Err(refused(
            None,
            format!("it has no id of 1 to {MAX_NAME_LENGTH} printable characters"),
        ));
    };
    let by = fields.remove("by").unwrap_or_default();
    let by = RequestSender::deserialize(by)
        .map_err(|error| refused(Some(&id), format!("it does not name the requesting process: {error}")))?;
    if !is_name(&by.user) {
        return Err(refused(Some(&id), "its user has no valid name".to_owned()));
    }
    let verb = fields.get("verb").cloned().unwrap_or_default();
    if !RequestVerb::NAMES.iter().any(|name| verb == *name) {
        let known = RequestVerb::NAMES.join(", ");
        let reason = format!("{by} asked with the unknown verb {}; known are {known}", quoted(&verb));
        return Err(refused(Some(&id), reason));
    }
    let verb = RequestVerb::deserialize(Value::Object(fields)).map_err(|error| {
        let error = printable::shortened(&error.to_string(), 2 * MAX_QUOTE_LENGTH);
        refused(
            Some(&id),
            format!("{by} asked for {} in an unknown form: {error}", quoted(&verb)),
        )
    })?;
    Ok(RequestReceipt { id, by, verb })
}

fn valid_id(id: Value) -> Option<RequestId> {
    match id {
        Value::String(id) if is_name(&id) => Some(RequestId::new(id)),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=MAX_NAME_LENGTH).contains(&length) && printable::one_line(text) == text
}

fn quoted(value: &Value) -> String {
    printable::shortened(&printable::one_line(&value.to_string()), MAX_QUOTE_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_journal::ServiceName;
    use proptest::prelude::*;

    fn stop(service: &str) -> RequestReceipt {
        RequestReceipt {
            id: "a1".into(),
            by: RequestSender {
                pid: 12,
                user: "alice".to_owned(),
            },
            verb: RequestVerb::Stop {
                service: ServiceName::from(service),
            },
        }
    }

    #[test]
    fn a_request_is_one_line_of_json() {
        let line = format(&stop("redis")).unwrap();
        let text = "\n{\"v\":1,\"id\":\"a1\",\"by\":{\"pid\":12,\"user\":\"alice\"},\"verb\":\"stop\",\"service\":\"redis\"}\n";
        assert_eq!(String::from_utf8_lossy(&line), text);
        assert_eq!(parse(&line), Ok(stop("redis")));
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused_with_its_id_and_the_reason() {
        let by = "\"by\":{\"pid\":1,\"user\":\"u\"}";
        for (line, id, reason) in [
            ("nonsense".to_owned(), None, "it is no JSON object"),
            ("[1]".to_owned(), None, "it is no JSON object"),
            ("{}".to_owned(), None, "it has no version"),
            (
                "{\"v\":2,\"id\":\"x\"}".to_owned(),
                Some("x"),
                "reads version 1 of requests, not 2",
            ),
            ("{\"v\":\"1\",\"id\":\"x\"}".to_owned(), Some("x"), "not \"1\""),
            ("{\"v\":1}".to_owned(), None, "it has no id"),
            ("{\"v\":1,\"id\":\"\"}".to_owned(), None, "it has no id"),
            ("{\"v\":1,\"id\":\"\\u001b[2J\"}".to_owned(), None, "it has no id"),
            (
                format!("{{\"v\":1,\"id\":\"{}\"}}", "x".repeat(65)),
                None,
                "it has no id",
            ),
            (
                "{\"v\":1,\"id\":\"x\"}".to_owned(),
                Some("x"),
                "does not name the requesting process",
            ),
            (
                format!("{{\"v\":1,\"id\":\"x\",{by}}}"),
                Some("x"),
                "pid 1 of user u asked with the unknown verb null",
            ),
            (
                format!("{{\"v\":1,\"id\":\"x\",{by},\"verb\":\"dance\"}}"),
                Some("x"),
                "unknown verb \"dance\"; known are stop, start, restart",
            ),
            (
                format!("{{\"v\":1,\"id\":\"x\",{by},\"verb\":\"stop\"}}"),
                Some("x"),
                "asked for \"stop\" in an unknown form: missing field `service`",
            ),
            (
                format!("{{\"v\":1,\"id\":\"x\",{by},\"verb\":\"stop\",\"service\":\"web\",\"signal\":9}}"),
                Some("x"),
                "unknown field `signal`",
            ),
            // The line of `orch stop site` in an earlier version.
            (format!("{{\"site\":\"books\",{by}}}"), None, "it has no version"),
        ] {
            let refused = parse(line.as_bytes()).expect_err(&line);
            assert_eq!(refused.id.as_ref().map(RequestId::as_str), id, "{line}");
            assert!(refused.reason.contains(reason), "{line}: {}", refused.reason);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_request_or_a_short_printable_reason(line in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Err(refused) = parse(&line) {
                prop_assert!(refused.reason.len() < 2000);
            }
        }

        #[test]
        fn any_name_is_read_as_it_was_written(service in any::<String>()) {
            let request = stop(&service);
            prop_assert_eq!(parse(&format(&request).unwrap()), Ok(request));
        }
    }
}
