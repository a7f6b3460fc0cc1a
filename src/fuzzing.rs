//! All readers of foreign files and texts behind one signature, for the property tests and for `fuzz/`. Not a public
//! API.
//!
//! The readers of Celery's wire format are in the fuzzing module of `orch_celery`; configurations are tested in
//! `tests/config_properties.rs`.

use std::path::Path;

use serde_json::Value;

use orch_base::text::{printable, redaction};
use orch_scrape::jobs::{DispatchAnswer, python_literal};
use orch_scrape::proxies;

/// Function that reads bytes and returns the printed size of the result, a measure of the memory.
pub type FuzzReader = fn(&[u8]) -> usize;

/// Readers by the kind of their input.
pub const READERS: [(&str, FuzzReader); 5] = [
    ("python literal", literal),
    ("dispatch answer", dispatch_answer),
    ("proxy pool", pool),
    ("journal", journal),
    ("foreign text", foreign_text),
];

fn literal(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    python_literal::parse(&text).map_or(0, |value| value.to_string().len())
}

/// Reads a text as the result of a dispatch task, which may contain JSON that contains Python literals.
fn dispatch_answer(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}", DispatchAnswer::read(&Value::String(text))).len()
}

fn pool(bytes: &[u8]) -> usize {
    format!("{:?}", proxies::tally(bytes)).len()
}

/// Reads a journal and applies its events to a state.
fn journal(bytes: &[u8]) -> usize {
    let mut state = orch_journal::RunState::default();
    let read = orch_journal::each_event_of(bytes, Path::new("journal.jsonl"), |event| state.apply(&event));
    format!("{read:?}{state:?}").len()
}

/// Prepares a text for output: redacted and printable, and as JSON.
fn foreign_text(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let shown = printable::text(&redaction::redacted(&text));
    shown.len() + printable::json(&text).len()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    /// Allowed factor between the printed result and the input: one character may become an escape sequence of six.
    const GROWTH: usize = 16;
    /// Allowed constant size of a printed result, for the names of the fields of a run's state.
    const NAMES: usize = 4_096;
    /// Size in bytes of a text that is hostile by its length.
    const LONG: usize = 512 << 10;
    /// Time limit of one reader without optimisation, on a busy machine. Quadratic time would take a quarter of a
    /// million times as long as linear time.
    const READ_TIMEOUT: Duration = Duration::from_secs(20);

    /// Pieces of text with a meaning for at least one reader.
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ":",
        ",",
        "'",
        "\"",
        "\\",
        "\\u",
        "\\ud800",
        "...",
        "<",
        ">",
        "b'",
        "f(",
        "-",
        "1",
        "0.",
        "e9",
        "NaN",
        "None",
        "null",
        "\n",
        " ",
        "#",
        "/",
        "@",
        "://",
        "u:p@",
        "\x1b",
        "\u{202e}",
        "ü",
        "a",
        "{'job_id': ",
        "\"host\": ",
        "\"port\":1,",
        "{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\n",
        "\"event\":\"run_started\",\"format\":1",
    ];

    #[track_caller]
    fn check(bytes: &[u8]) {
        for (kind, read) in READERS {
            let started = Instant::now();
            let printed = read(bytes);
            let (length, took) = (bytes.len(), started.elapsed());
            assert!(
                printed <= GROWTH * length + NAMES,
                "{kind}: {printed} bytes from {length}"
            );
            assert!(took < READ_TIMEOUT, "{kind}: {took:?} for {length} bytes");
        }
    }

    #[test]
    fn each_reader_reads_valid_input() {
        for (kind, text) in [
            ("python literal", "{'job_id': 'a', 'n': [1, None]}"),
            ("dispatch answer", "{'job_id': 'a', 'chord_id': 'b'}"),
            ("proxy pool", "[{\"host\": \"h\", \"port\": 1}]"),
            (
                "journal",
                "{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\n",
            ),
            ("foreign text", "any"),
        ] {
            let (_, read) = READERS.iter().find(|(name, _)| *name == kind).unwrap();
            assert!(read(text.as_bytes()) > read(b"") || read(b"") > 0, "{kind}");
        }
    }

    #[test]
    fn long_texts_of_one_piece_or_two_take_no_more_than_their_length() {
        for piece in PIECES {
            check(piece.repeat(LONG / piece.len()).as_bytes());
        }
        for (one, other) in [
            ("[", "]"),
            ("{'a':", "}"),
            ("f(", ")"),
            ("<", ">"),
            ("\\", "\""),
            ("a", "://u:p@"),
            ("(", ","),
        ] {
            let half = |piece: &str| piece.repeat(LONG / 2 / piece.len());
            check((half(one) + &half(other)).as_bytes());
            check(
                format!("{one}{other}")
                    .repeat(LONG / (one.len() + other.len()))
                    .as_bytes(),
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            check(&bytes);
        }

        #[test]
        fn nearly_right_texts_are_read_or_refused(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
            check(pieces.concat().as_bytes());
        }
    }
}
