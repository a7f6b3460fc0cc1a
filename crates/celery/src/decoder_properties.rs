//! Properties of all decoders: recorded messages of all versions, changed at random, are read or refused. A decoder
//! never panics and never uses more memory than the size of the input justifies.
//!
//! `PROPTEST_CASES=2000000 cargo test --release -p orch-celery --lib properties` runs millions of cases.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fuzzing::{DECODERS, TICKET};
use crate::wire::frames;

/// Number of cases that is enough to apply every change to every field; about a second without optimisation.
const CASES: u32 = 3_000;

/// Largest ratio of the printed size of a decoded value to the size of the input: an event without fields prints all
/// field names.
const GROWTH: usize = 64;
/// Additional printed bytes that are allowed for the field names of a single value.
const NAMES: usize = 4_096;

/// Messages of all kinds and versions with decoded bodies.
static SEEDS: LazyLock<Vec<MessageSeed>> = LazyLock::new(|| frames::VERSIONS.into_iter().flat_map(seeds).collect());

#[derive(Clone, Debug)]
enum MessageSeed {
    /// Message with a decoded body; the test encodes the body first.
    Envelope(Value),
    /// Value that the test reads unchanged: a result, or `[message, exchange, routing_key]`.
    Plain(Value),
}

fn seeds(version: &str) -> Vec<MessageSeed> {
    let all = |topic: &str| match frames::load(version, topic) {
        Value::Array(items) => items,
        Value::Object(fields) => fields.into_iter().map(|(_, value)| value).collect(),
        other => panic!("{topic} of {version} is {other}"),
    };
    let mut seeds: Vec<MessageSeed> = all("chain").into_iter().map(MessageSeed::Envelope).collect();
    seeds.extend(all("events").into_iter().map(MessageSeed::Envelope));
    seeds.extend(all("control").into_iter().map(|exchange| {
        let mut reply = exchange["reply"].clone();
        reply["headers"]["ticket"] = json!(TICKET);
        MessageSeed::Envelope(reply)
    }));
    seeds.extend(all("results").into_iter().map(MessageSeed::Plain));
    seeds.push(MessageSeed::Plain(frames::load(version, "unacked")));
    seeds
}

/// Change of a value somewhere in a tree.
#[derive(Clone, Debug)]
enum TreeChange {
    Remove,
    Replace(Value),
    /// Replacement by the value at another position.
    Copy(usize),
    /// Replacement by a list that contains the value this many times.
    Repeat(usize),
    /// Nesting of the value in this many lists.
    Nest(usize),
}

/// Change of bytes; the position is taken modulo the length.
#[derive(Clone, Debug)]
enum ByteDamage {
    Set(usize, u8),
    Flip(usize, u8),
    Remove(usize, usize),
    Insert(usize, &'static str),
    Truncate(usize),
}

fn change() -> impl Strategy<Value = (usize, TreeChange)> {
    let value = prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!({})),
        Just(json!([])),
        Just(json!("")),
        Just(json!("2026-13-99T99:99:99Z")),
        Just(json!("x".repeat(5_000))),
        any::<i64>().prop_map(Value::from),
        Just(json!(u64::MAX)),
        // The last second of the year 9999; the random number after it may be far beyond the range of a clock.
        Just(json!(253_402_300_799.9)),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let change = prop_oneof![
        3 => Just(TreeChange::Remove),
        6 => value.prop_map(TreeChange::Replace),
        2 => any::<usize>().prop_map(TreeChange::Copy),
        1 => (0..200usize).prop_map(TreeChange::Repeat),
        1 => (0..300usize).prop_map(TreeChange::Nest),
    ];
    (any::<usize>(), change)
}

fn damage() -> impl Strategy<Value = ByteDamage> {
    let token = prop::sample::select(vec![
        "NaN",
        "-Infinity",
        "\\ud83d",
        "\\u",
        "\\",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "1e999",
        "\u{0}",
        "\u{1f600}",
    ]);
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| ByteDamage::Set(at, byte)),
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| ByteDamage::Flip(at, bit)),
        (any::<usize>(), 1..40usize).prop_map(|(at, bytes)| ByteDamage::Remove(at, bytes)),
        (any::<usize>(), token).prop_map(|(at, token)| ByteDamage::Insert(at, token)),
        any::<usize>().prop_map(ByteDamage::Truncate),
    ]
}

/// Counts the values in a tree, including the root.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(fields) => fields.values().map(places).sum(),
        _ => 0,
    }
}

/// Returns the value at a position, in the order of [`places`].
fn at(value: &Value, mut place: usize) -> Option<&Value> {
    if place == 0 {
        return Some(value);
    }
    place -= 1;
    let children: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    for child in children {
        let inside = places(child);
        if place < inside {
            return at(child, place);
        }
        place -= inside;
    }
    None
}

/// Returns the tree after a change of the value at a position; `None` if the change removes the root.
fn changed(value: Value, place: &mut Option<usize>, change: &dyn Fn(Value) -> Option<Value>) -> Option<Value> {
    match place {
        Some(0) => {
            *place = None;
            return change(value);
        }
        Some(place) => *place -= 1,
        None => return Some(value),
    }
    match value {
        Value::Array(items) => {
            let items = items.into_iter().filter_map(|item| changed(item, place, change));
            Some(Value::Array(items.collect()))
        }
        Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .filter_map(|(name, field)| Some((name, changed(field, place, change)?)));
            Some(Value::Object(fields.collect::<Map<_, _>>()))
        }
        leaf => Some(leaf),
    }
}

fn apply(tree: Value, place: usize, change: &TreeChange) -> Value {
    let places = places(&tree);
    let other = match change {
        TreeChange::Copy(from) => at(&tree, from % places).cloned().unwrap_or_default(),
        _ => Value::Null,
    };
    let change = |value: Value| match change {
        TreeChange::Remove => None,
        TreeChange::Replace(with) => Some(with.clone()),
        TreeChange::Copy(_) => Some(other.clone()),
        TreeChange::Repeat(times) => Some(Value::Array(vec![value; *times])),
        TreeChange::Nest(deep) => Some((0..*deep).fold(value, |inside, _| Value::Array(vec![inside]))),
    };
    changed(tree, &mut Some(place % places), &change).unwrap_or_default()
}

fn apply_damage(bytes: &mut Vec<u8>, damage: &ByteDamage) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match *damage {
        ByteDamage::Set(at, byte) => bytes[at % length] = byte,
        ByteDamage::Flip(at, bit) => bytes[at % length] ^= 1 << bit,
        ByteDamage::Remove(at, count) => {
            let at = at % length;
            bytes.drain(at..length.min(at + count));
        }
        ByteDamage::Insert(at, token) => {
            let at = at % length;
            bytes.splice(at..at, token.bytes());
        }
        ByteDamage::Truncate(at) => bytes.truncate(at % length),
    }
}

/// Encodes a seed as on the wire.
fn bytes(seed: MessageSeed) -> Vec<u8> {
    match seed {
        MessageSeed::Envelope(envelope) if envelope.is_object() => frames::wire(&envelope),
        MessageSeed::Envelope(other) | MessageSeed::Plain(other) => other.to_string().into_bytes(),
    }
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    config
}

#[test]
fn each_seed_is_read_by_the_decoder_of_its_kind() {
    for seed in SEEDS.iter() {
        let bytes = bytes(seed.clone());
        let readers = DECODERS.iter().filter(|(_, decode)| decode(&bytes) > 0);
        assert!(readers.count() > 0, "no decoder reads {seed:?}");
    }
    for (kind, decode) in DECODERS.iter().filter(|(kind, _)| *kind != "poison") {
        assert!(
            SEEDS.iter().any(|seed| decode(&bytes(seed.clone())) > 0),
            "no seed for {kind}"
        );
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_changed_message_is_read_or_refused_within_bounds(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 0..4),
        inner in prop::collection::vec(damage(), 0..2),
        outer in prop::collection::vec(damage(), 0..3),
    ) {
        let changed = |tree: &Value| changes.iter().fold(tree.clone(), |tree, (place, change)| apply(tree, *place, change));
        let seed = match seed.get(&SEEDS) {
            MessageSeed::Envelope(envelope) => MessageSeed::Envelope(changed(envelope)),
            MessageSeed::Plain(value) => MessageSeed::Plain(changed(value)),
        };
        let mut message = bytes(seed.clone());
        // The bytes are damaged both before and after the base64 encoding of the body.
        if let (MessageSeed::Envelope(mut envelope), false) = (seed, inner.is_empty())
            && envelope.is_object()
        {
            let mut body = envelope["body"].to_string().into_bytes();
            inner.iter().for_each(|damage| apply_damage(&mut body, damage));
            envelope["body"] = frames::base64(&body);
            message = envelope.to_string().into_bytes();
        }
        outer.iter().for_each(|damage| apply_damage(&mut message, damage));
        for (kind, decode) in DECODERS {
            let printed = decode(&message);
            prop_assert!(
                printed <= GROWTH * message.len() + NAMES,
                "{kind}: {printed} bytes from {}",
                message.len()
            );
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, decode) in DECODERS {
            decode(&bytes);
        }
    }
}
