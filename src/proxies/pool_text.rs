//! The text of a pool: counts its entries while they stream past; no more than one of them is ever in memory.
//!
//! A pool is a JSON list of objects with `host` and `port`, or of texts such as `host:port`; or an object with one such
//! list. Not here: the file (`pool`), and what makes a proxy useless (`judge`).

use std::fmt;
use std::io::Read;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::address;
use super::checked_at;
use super::dead_mark::{Mark, normalised};
use super::judge::{Judge, Proxy, Standing};
use super::pool::PoolCount;
use super::scalar::Scalar;
use super::utf8_reader::Utf8Reader;
use crate::run::{EventKind, LeftOutProxies};

/// Counts what can be read of a text.
pub fn tally(text: impl Read, judge: &Judge<'_>) -> PoolCount {
    let mut reader = Utf8Reader::new(text);
    let mut json = serde_json::Deserializer::from_reader(&mut reader);
    let found = PoolSeed {
        judge,
        is_member: false,
    };
    let found = found.deserialize(&mut json);
    let found = found.and_then(|found| json.end().map(|()| found));
    let error = match found {
        Ok(Found::Pool(tally)) => return tally.into_count(judge),
        Ok(Found::Other(kind)) => return PoolCount::unreadable(format!("it is {kind}, not a list of proxies")),
        Ok(Found::Lists(count)) => {
            return PoolCount::unreadable(format!("it is an object with {count} lists, not with one"));
        }
        Err(error) => error,
    };
    // A writer that rewrites in place leaves a part, or new text followed by the rest of the old.
    if let Some(invalid) = reader.invalid() {
        let (byte, offset) = (invalid.byte, invalid.offset);
        return PoolCount::half_written(format!("it is not UTF-8: 0x{byte:02x} at byte {offset}"));
    }
    if error.is_io() {
        return PoolCount::unreadable(format!("it cannot be read: {error}"));
    }
    if error.is_eof() {
        return PoolCount::half_written(format!("it ends in the middle, at byte {}", reader.position()));
    }
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    // The byte that is wrong has been taken.
    let offset = reader.position().saturating_sub(1);
    PoolCount::half_written(format!("it is not JSON: {message} at byte {offset}"))
}

/// A whole text.
enum Found {
    Pool(Tally),
    /// An object with so many lists, of which none is known to be the pool.
    Lists(u64),
    Other(&'static str),
}

#[derive(Default)]
struct Tally {
    total: u64,
    objects: u64,
    /// Objects by what they count as; the useless are in none of these.
    usable: u64,
    dead: u64,
    too_old: u64,
    /// Objects without an address.
    no_address: u64,
    texts: u64,
    /// Texts that are addresses.
    text_addresses: u64,
}

impl Tally {
    fn into_count(self, judge: &Judge<'_>) -> PoolCount {
        let mut this = self;
        // Among objects a text is none; a list of texts alone is a pool of another form.
        let are_texts_entries = this.objects == 0;
        if are_texts_entries {
            match judge.standing(&Proxy::default()) {
                Standing::TooOld => this.too_old += this.text_addresses,
                _ => this.usable += this.text_addresses,
            }
            this.no_address += this.texts - this.text_addresses;
        }
        let texts = if are_texts_entries { this.texts } else { 0 };
        let Self { total, objects, .. } = this;
        let no_entry = total - objects - texts;
        let mut problems = Vec::new();
        if no_entry > 0 {
            problems.push(format!("{no_entry} of {total} entries are no objects"));
        }
        if this.no_address > 0 {
            problems.push(format!(
                "{} of {total} entries have no host or no port",
                this.no_address
            ));
        }
        let problem = (!problems.is_empty()).then(|| problems.join(", "));
        let has_none = total > 0 && no_entry + this.no_address == total;
        if let (Some(problem), true) = (&problem, has_none) {
            return PoolCount {
                total,
                ..PoolCount::unreadable(format!("it names no proxy: {problem}"))
            };
        }
        PoolCount {
            total,
            usable: this.usable,
            left_out: LeftOutProxies {
                too_old: this.too_old,
                dead: this.dead,
                max_age_ms: match judge.rules.max_age {
                    Some(age) if this.too_old > 0 => EventKind::millis(age),
                    _ => 0,
                },
            },
            problem,
            ..PoolCount::default()
        }
    }
}

struct PoolSeed<'j> {
    judge: &'j Judge<'j>,
    /// The value of a member of the whole: an object there is no pool.
    is_member: bool,
}

impl<'de> DeserializeSeed<'de> for PoolSeed<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PoolSeed<'_> {
    type Value = Found;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of proxies")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Found, A::Error> {
        let mut tally = Tally::default();
        while let Some(entry) = entries.next_element_seed(EntrySeed(self.judge))? {
            tally.total += 1;
            match entry {
                Entry::Other => {}
                Entry::Text { is_address } => {
                    tally.texts += 1;
                    tally.text_addresses += u64::from(is_address);
                }
                Entry::Object(proxy) => {
                    tally.objects += 1;
                    match proxy.map(|proxy| self.judge.standing(&proxy)) {
                        None => tally.no_address += 1,
                        Some(Standing::Usable) => tally.usable += 1,
                        Some(Standing::Useless) => {}
                        Some(Standing::Dead) => tally.dead += 1,
                        Some(Standing::TooOld) => tally.too_old += 1,
                    }
                }
            }
        }
        Ok(Found::Pool(tally))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Found, A::Error> {
        if self.is_member {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Other("an object"));
        }
        let judge = self.judge;
        let (mut lists, mut pool) = (0, None);
        while members.next_key::<IgnoredAny>()?.is_some() {
            let member = PoolSeed { judge, is_member: true };
            if let Found::Pool(tally) = members.next_value_seed(member)? {
                lists += 1;
                pool = Some(tally);
            }
        }
        Ok(match (lists, pool) {
            (1, Some(tally)) => Found::Pool(tally),
            (0, _) => Found::Other("an object without a list"),
            (lists, _) => Found::Lists(lists),
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Other("a text"))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Other("null"))
    }
}

/// One entry of a list; any JSON value is an entry of some kind.
enum Entry {
    /// `None`: without a host or a port.
    Object(Option<Proxy>),
    Text {
        is_address: bool,
    },
    Other,
}

struct EntrySeed<'j>(&'j Judge<'j>);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = Entry;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Entry, A::Error> {
        let (mut has_host, mut has_port, mut proxy) = (false, false, Proxy::default());
        while let Some(name) = fields.next_key::<Field>()? {
            if name == Field::Other {
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = fields.next_value::<Scalar>()?;
            match name {
                Field::Host => has_host = value.into_text().is_some_and(|text| !text.is_empty()),
                Field::Port => has_port = value.into_text().is_some_and(|text| address::is_port(&text)),
                Field::Anonymity => proxy.anonymity = value.into_text(),
                Field::Mark(mark) => proxy.is_dead |= mark.is_dead(&value),
                Field::CheckedAt => {
                    let checked_at = self.0.clock.checked_at(&value);
                    // `None` is below every time.
                    if checked_at > proxy.checked_at {
                        proxy.checked_at = checked_at;
                    }
                }
                Field::Other => {}
            }
        }
        Ok(Entry::Object((has_host && has_port).then_some(proxy)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Entry, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Entry::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Entry, E> {
        Ok(Entry::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Entry, E> {
        Ok(Entry::Text {
            is_address: address::is_address(text),
        })
    }

    fn visit_unit<E>(self) -> Result<Entry, E> {
        Ok(Entry::Other)
    }
}

/// The fields of a proxy that matter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Host,
    Port,
    Anonymity,
    CheckedAt,
    Mark(Mark),
    Other,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(FieldVisitor)
    }
}

struct FieldVisitor;

/// Bytes; no name of a field that matters is longer.
const LONGEST_NAME: usize = 32;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Field, E> {
        Ok(match name {
            "host" => Field::Host,
            "port" => Field::Port,
            "anonymity" => Field::Anonymity,
            _ if name.len() > LONGEST_NAME => Field::Other,
            _ => {
                let name = normalised(name);
                match Mark::named(&name) {
                    Some(mark) => Field::Mark(mark),
                    None if checked_at::is_name(&name) => Field::CheckedAt,
                    None => Field::Other,
                }
            }
        })
    }
}
