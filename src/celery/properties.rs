//! Properties of all decoders: recorded messages of every version, changed at random, are read or refused. Never a panic,
//! and never more memory than the input accounts for.
//!
//! `PROPTEST_CASES=2000000 cargo test --release --lib celery::properties` runs millions.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::frames;
use super::fuzzing::{DECODERS, TICKET};

/// Enough to meet every change in every field; a second or so without optimisation.
const CASES: u32 = 3_000;

/// What is read may print this many times larger than what was taken in: an event without fields prints all its names.
const GROWTH: usize = 64;
/// Beside the names of a single value's fields.
const NAMES: usize = 4_096;

/// Message of all kinds of all versions, bodies decoded.
static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(|| frames::VERSIONS.into_iter().flat_map(seeds).collect());

#[derive(Clone, Debug)]
enum Seed {
    /// A message whose body is encoded before it is read.
    Envelope(Value),
    /// Read as it is: a result, or `[message, exchange, routing_key]`.
    Plain(Value),
}

fn seeds(version: &str) -> Vec<Seed> {
    let all = |topic: &str| match frames::load(version, topic) {
        Value::Array(items) => items,
        Value::Object(fields) => fields.into_iter().map(|(_, value)| value).collect(),
        other => panic!("{topic} of {version} is {other}"),
    };
    let mut seeds: Vec<Seed> = all("chain").into_iter().map(Seed::Envelope).collect();
    seeds.extend(all("events").into_iter().map(Seed::Envelope));
    seeds.extend(all("control").into_iter().map(|exchange| {
        let mut reply = exchange["reply"].clone();
        reply["headers"]["ticket"] = json!(TICKET);
        Seed::Envelope(reply)
    }));
    seeds.extend(all("results").into_iter().map(Seed::Plain));
    seeds.push(Seed::Plain(frames::load(version, "unacked")));
    seeds
}

/// A change of a value somewhere in a tree.
#[derive(Clone, Debug)]
enum Change {
    Remove,
    Replace(Value),
    /// The value of another place.
    Copy(usize),
    /// Many of the same, in a list.
    Repeat(usize),
    /// So many lists around it.
    Nest(usize),
}

/// A change of bytes; the place is taken modulo the length.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Flip(usize, u8),
    Remove(usize, usize),
    Insert(usize, &'static str),
    Truncate(usize),
}

fn change() -> impl Strategy<Value = (usize, Change)> {
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
        // The year 9999, and far beyond what a clock holds.
        Just(json!(253_402_300_799.9)),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let change = prop_oneof![
        3 => Just(Change::Remove),
        6 => value.prop_map(Change::Replace),
        2 => any::<usize>().prop_map(Change::Copy),
        1 => (0..200usize).prop_map(Change::Repeat),
        1 => (0..300usize).prop_map(Change::Nest),
    ];
    (any::<usize>(), change)
}

fn damage() -> impl Strategy<Value = Damage> {
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
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (any::<usize>(), 1..40usize).prop_map(|(at, bytes)| Damage::Remove(at, bytes)),
        (any::<usize>(), token).prop_map(|(at, token)| Damage::Insert(at, token)),
        any::<usize>().prop_map(Damage::Truncate),
    ]
}

/// Places in a tree, the root included.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(fields) => fields.values().map(places).sum(),
        _ => 0,
    }
}

/// The value at a place, counted as [`places`] does.
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

/// The tree with the value at a place changed; `None` stands for a removed one.
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

fn apply(tree: Value, place: usize, change: &Change) -> Value {
    let places = places(&tree);
    let other = match change {
        Change::Copy(from) => at(&tree, from % places).cloned().unwrap_or_default(),
        _ => Value::Null,
    };
    let change = |value: Value| match change {
        Change::Remove => None,
        Change::Replace(with) => Some(with.clone()),
        Change::Copy(_) => Some(other.clone()),
        Change::Repeat(times) => Some(Value::Array(vec![value; *times])),
        Change::Nest(deep) => Some((0..*deep).fold(value, |inside, _| Value::Array(vec![inside]))),
    };
    changed(tree, &mut Some(place % places), &change).unwrap_or_default()
}

fn spoil(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match *damage {
        Damage::Set(at, byte) => bytes[at % length] = byte,
        Damage::Flip(at, bit) => bytes[at % length] ^= 1 << bit,
        Damage::Remove(at, count) => {
            let at = at % length;
            bytes.drain(at..length.min(at + count));
        }
        Damage::Insert(at, token) => {
            let at = at % length;
            bytes.splice(at..at, token.bytes());
        }
        Damage::Truncate(at) => bytes.truncate(at % length),
    }
}

/// The bytes as they would be on the wire.
fn bytes(seed: Seed) -> Vec<u8> {
    match seed {
        Seed::Envelope(envelope) if envelope.is_object() => frames::wire(&envelope),
        Seed::Envelope(other) | Seed::Plain(other) => other.to_string().into_bytes(),
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
        assert!(readers.count() > 0, "nothing reads {seed:?}");
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
            Seed::Envelope(envelope) => Seed::Envelope(changed(envelope)),
            Seed::Plain(value) => Seed::Plain(changed(value)),
        };
        let mut message = bytes(seed.clone());
        // Damage below the base64 as well as above it.
        if let (Seed::Envelope(mut envelope), false) = (seed, inner.is_empty())
            && envelope.is_object()
        {
            let mut body = envelope["body"].to_string().into_bytes();
            inner.iter().for_each(|damage| spoil(&mut body, damage));
            envelope["body"] = frames::base64(&body);
            message = envelope.to_string().into_bytes();
        }
        outer.iter().for_each(|damage| spoil(&mut message, damage));
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
