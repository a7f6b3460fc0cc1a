//! Changes of an input: of its bytes, and in JSON of a value within.

use fastrand::Rng;
use serde_json::{Value, json};

/// Returns a changed copy of one of these inputs.
pub fn changed(corpus: &[Vec<u8>], words: &[&str], longest: usize, random: &mut Rng) -> Vec<u8> {
    let mut input = corpus[random.usize(..corpus.len())].clone();
    // Sites' files and messages: a changed tree stays readable, so that its errors are met behind the parser.
    if random.u8(..3) > 0
        && let Ok(mut tree) = serde_json::from_slice::<Value>(&input)
    {
        for _ in 0..random.usize(1..4) {
            change_tree(&mut tree, random);
        }
        input = tree.to_string().into_bytes();
        if random.u8(..3) > 0 {
            input.truncate(longest);
            return input;
        }
    }
    for _ in 0..1 << random.u32(..4) {
        change(&mut input, corpus, words, longest, random);
    }
    input.truncate(longest);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str], longest: usize, random: &mut Rng) {
    let at = random.usize(..=input.len());
    let part = |random: &mut Rng, from: &[u8]| {
        let begin = random.usize(..=from.len());
        let most = 1 << random.usize(..10);
        let length = random.usize(..=(from.len() - begin).min(most));
        begin..begin + length
    };
    let word = words[random.usize(..words.len())].as_bytes();
    match random.u8(..12) {
        0 if at < input.len() => input[at] = random.u8(..),
        1 if at < input.len() => input[at] ^= 1 << random.u8(..8),
        2 => drop(input.drain(part(random, input))),
        3 => input.truncate(at),
        4 => {
            let copy = input[part(random, input)].to_vec();
            input.splice(at..at, copy);
        }
        5 => {
            let other = &corpus[random.usize(..corpus.len())];
            input.splice(at..at, other[part(random, other)].iter().copied());
        }
        // Many copies of one piece, now and then.
        6 if random.u8(..16) == 0 => {
            let piece = match random.bool() {
                true => word.to_vec(),
                false => input[part(random, input)].to_vec(),
            };
            let times = (random.usize(..longest) / piece.len().max(1)).min(1 << random.usize(..16));
            input.splice(at..at, piece.repeat(times));
        }
        7 => change_number(input, at, random),
        8 => change_line(input, random),
        9 => {
            let place = part(random, input);
            input.splice(place, word.iter().copied());
        }
        _ => drop(input.splice(at..at, word.iter().copied())),
    }
}

/// Replaces the next number.
fn change_number(input: &mut Vec<u8>, at: usize, random: &mut Rng) {
    let Some(begin) = (at..input.len()).find(|place| input[*place].is_ascii_digit()) else {
        return;
    };
    let end = (begin..input.len())
        .find(|place| !input[*place].is_ascii_digit())
        .unwrap_or(input.len());
    let number = match random.u8(..4) {
        0 => random.u64(..).to_string(),
        1 => "-9223372036854775809".to_owned(),
        2 => "9".repeat(random.usize(1..40)),
        _ => random.u8(..3).to_string(),
    };
    input.splice(begin..end, number.into_bytes());
}

/// Leaves out, doubles or moves a line.
fn change_line(input: &mut Vec<u8>, random: &mut Rng) {
    let mut lines: Vec<&[u8]> = input.split_inclusive(|byte| *byte == b'\n').collect();
    if lines.is_empty() {
        return;
    }
    let (from, to) = (random.usize(..lines.len()), random.usize(..lines.len()));
    match random.u8(..3) {
        0 => drop(lines.remove(from)),
        1 => lines.insert(to, lines[from]),
        _ => lines.swap(from, to),
    }
    *input = lines.concat();
}

fn change_tree(tree: &mut Value, random: &mut Rng) {
    let place = random.usize(..places(tree));
    let copied = at(tree, random.usize(..places(tree))).cloned();
    let Some(value) = at(tree, place) else { return };
    let deep = random.usize(..60);
    *value = match random.u8(..16) {
        0 => json!(null),
        1 => json!(random.bool()),
        2 => json!({}),
        3 => json!([]),
        4 => json!(""),
        5 => json!(random.i64(..)),
        6 => json!(u64::MAX),
        7 => json!(random.f64() * 10f64.powi(random.i32(-300..300))),
        8 => json!("x".repeat(random.usize(..5_000))),
        9 => json!(253_402_300_799.9),
        10 => json!("2026-13-99T99:99:99Z"),
        11 => Value::Array(vec![value.take(); random.usize(..20)]),
        12 => (0..deep).fold(value.take(), |inner, _| json!([inner])),
        13 => (0..deep).fold(value.take(), |inner, _| json!({ "a": inner })),
        14 => json!(value.to_string()),
        _ => copied.unwrap_or_default(),
    };
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(fields) => fields.values().map(places).sum(),
        _ => 0,
    }
}

/// Returns the value at a place, counted as [`places`] does.
fn at(value: &mut Value, place: usize) -> Option<&mut Value> {
    if place == 0 {
        return Some(value);
    }
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => return None,
    };
    let mut place = place - 1;
    for value in inner {
        let size = places(value);
        if place < size {
            return at(value, place);
        }
        place -= size;
    }
    None
}
