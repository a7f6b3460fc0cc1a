//! Every reader of files and texts that others write, behind one signature: for the property tests and for `fuzz/`. No API.
//!
//! Not here: what is on the wire (`celery::fuzzing`), and configurations (`tests/config_properties.rs`).

use std::path::Path;

use serde_json::Value;

use crate::follow::{DispatchAnswer, python_literal};
use crate::{printable, proxies, redaction, run};

/// Reads bytes; gives the size of what was read, printed: a measure of the memory that it takes.
pub type Reader = fn(&[u8]) -> usize;

/// By what is read.
pub const READERS: [(&str, Reader); 5] = [
    ("python literal", literal),
    ("dispatch answer", dispatch_answer),
    ("proxy pool", pool),
    ("journal", journal),
    ("told text", told),
];

fn literal(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    python_literal::parse(&text).map_or(0, |value| value.to_string().len())
}

/// A text as the result of a dispatch task, which may hold JSON that holds Python.
fn dispatch_answer(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}", DispatchAnswer::read(&Value::String(text))).len()
}

fn pool(bytes: &[u8]) -> usize {
    format!("{:?}", proxies::tally(bytes)).len()
}

/// Read, and folded.
fn journal(bytes: &[u8]) -> usize {
    let mut state = run::RunState::default();
    let read = run::each_event_of(bytes, Path::new("journal.jsonl"), |event| state.apply(&event));
    format!("{read:?}{state:?}").len()
}

/// As it would be shown.
fn told(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let shown = printable::text(&redaction::redacted(&text));
    shown.len() + printable::json(&text).len()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    /// What is read may print this many times larger than what was taken in: a character may become an escape of six.
    const GROWTH: usize = 16;
    /// Beside the names of a run's fields.
    const NAMES: usize = 4_096;
    /// Bytes of a text that is hostile by its length.
    const LONG: usize = 512 << 10;
    /// Without optimisation, on a busy machine. Quadratic time would be a quarter of a million times as much as is due.
    const READ_WITHIN: Duration = Duration::from_secs(20);

    /// What means something to one of the readers.
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
            assert!(took < READ_WITHIN, "{kind}: {took:?} for {length} bytes");
        }
    }

    #[test]
    fn each_reader_reads_what_is_right() {
        for (kind, text) in [
            ("python literal", "{'job_id': 'a', 'n': [1, None]}"),
            ("dispatch answer", "{'job_id': 'a', 'chord_id': 'b'}"),
            ("proxy pool", "[{\"host\": \"h\", \"port\": 1}]"),
            (
                "journal",
                "{\"seq\":1,\"at\":0,\"elapsed\":0,\"event\":\"stop_hurried\"}\n",
            ),
            ("told text", "any"),
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
