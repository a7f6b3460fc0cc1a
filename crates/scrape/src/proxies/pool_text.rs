//! Text of a pool: counts the entries of a stream, with at most one entry in memory.
//!
//! A pool is a JSON list of objects with `host` and `port`, or of texts such as `host:port`; or an object with one such
//! list. [`pool`](super::pool) reads the file, and [`judge`](super::judge) decides which proxies are useless.

use std::fmt;
use std::io::Read;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::address;
use super::checked_at;
use super::dead_mark::{DeadMark, normalised};
use super::judge::{PoolJudge, ProxyEntry, ProxyUsability};
use super::pool_count::PoolCount;
use super::scalar::ScalarValue;
use super::utf8_reader::Utf8Reader;
use orch_journal::{EventKind, LeftOutProxies};

/// Counts the entries of a text, as far as the text can be read.
pub fn tally(text: impl Read, judge: &PoolJudge<'_>) -> PoolCount {
    let mut reader = Utf8Reader::new(text);
    let mut json = serde_json::Deserializer::from_reader(&mut reader);
    let found = PoolSeed {
        judge,
        is_member: false,
    };
    let found = found.deserialize(&mut json);
    let found = found.and_then(|found| json.end().map(|()| found));
    let error = match found {
        Ok(PoolContent::Pool(tally)) => return tally.into_count(judge),
        Ok(PoolContent::Other(kind)) => return PoolCount::unreadable(format!("it is {kind}, not a list of proxies")),
        Ok(PoolContent::Lists(count)) => {
            return PoolCount::unreadable(format!("it is an object with {count} lists, not with one"));
        }
        Err(error) => error,
    };
    // A program that rewrites the file in place leaves a part of the text, or new text followed by the rest of the old
    // one.
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
    // The wrong byte has already been consumed.
    let offset = reader.position().saturating_sub(1);
    PoolCount::half_written(format!("it is not JSON: {message} at byte {offset}"))
}

/// Content of a whole text.
enum PoolContent {
    Pool(EntryTally),
    /// Object with this number of lists, none of which is known to be the pool.
    Lists(u64),
    Other(&'static str),
}

#[derive(Default)]
struct EntryTally {
    total: u64,
    objects: u64,
    /// Usable objects. The useless ones are in none of these counts.
    usable: u64,
    dead: u64,
    too_old: u64,
    /// Objects without an address.
    no_address: u64,
    texts: u64,
    /// Texts that are addresses.
    text_addresses: u64,
}

impl EntryTally {
    fn into_count(self, judge: &PoolJudge<'_>) -> PoolCount {
        let mut this = self;
        // Among objects, a text is no entry; a list of texts alone is a pool of another form.
        let are_texts_entries = this.objects == 0;
        if are_texts_entries {
            match judge.usability(&ProxyEntry::default()) {
                ProxyUsability::TooOld => this.too_old += this.text_addresses,
                _ => this.usable += this.text_addresses,
            }
            this.no_address += this.texts - this.text_addresses;
        }
        let texts = if are_texts_entries { this.texts } else { 0 };
        let Self { total, objects, .. } = this;
        let no_entry = total - objects - texts;
        let mut problems = Vec::new();
        if no_entry > 0 {
            problems.push(format!("{no_entry} of {total} entries are not objects"));
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
    judge: &'j PoolJudge<'j>,
    /// The value is a member of the outermost object: an object there is no pool.
    is_member: bool,
}

impl<'de> DeserializeSeed<'de> for PoolSeed<'_> {
    type Value = PoolContent;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PoolContent, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PoolSeed<'_> {
    type Value = PoolContent;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of proxies")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<PoolContent, A::Error> {
        let mut tally = EntryTally::default();
        while let Some(entry) = entries.next_element_seed(EntrySeed(self.judge))? {
            tally.total += 1;
            match entry {
                PoolEntry::Other => {}
                PoolEntry::Text { is_address } => {
                    tally.texts += 1;
                    tally.text_addresses += u64::from(is_address);
                }
                PoolEntry::Object(proxy) => {
                    tally.objects += 1;
                    match proxy.map(|proxy| self.judge.usability(&proxy)) {
                        None => tally.no_address += 1,
                        Some(ProxyUsability::Usable) => tally.usable += 1,
                        Some(ProxyUsability::Useless) => {}
                        Some(ProxyUsability::Dead) => tally.dead += 1,
                        Some(ProxyUsability::TooOld) => tally.too_old += 1,
                    }
                }
            }
        }
        Ok(PoolContent::Pool(tally))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<PoolContent, A::Error> {
        if self.is_member {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(PoolContent::Other("an object"));
        }
        let judge = self.judge;
        let (mut lists, mut pool) = (0, None);
        while members.next_key::<IgnoredAny>()?.is_some() {
            let member = PoolSeed { judge, is_member: true };
            if let PoolContent::Pool(tally) = members.next_value_seed(member)? {
                lists += 1;
                pool = Some(tally);
            }
        }
        Ok(match (lists, pool) {
            (1, Some(tally)) => PoolContent::Pool(tally),
            (0, _) => PoolContent::Other("an object without a list"),
            (lists, _) => PoolContent::Lists(lists),
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<PoolContent, E> {
        Ok(PoolContent::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<PoolContent, E> {
        Ok(PoolContent::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<PoolContent, E> {
        Ok(PoolContent::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<PoolContent, E> {
        Ok(PoolContent::Other("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<PoolContent, E> {
        Ok(PoolContent::Other("a text"))
    }

    fn visit_unit<E>(self) -> Result<PoolContent, E> {
        Ok(PoolContent::Other("null"))
    }
}

/// Entry of a list; any JSON value is an entry of some kind.
enum PoolEntry {
    /// `None`: without a host or a port.
    Object(Option<ProxyEntry>),
    Text {
        is_address: bool,
    },
    Other,
}

struct EntrySeed<'j>(&'j PoolJudge<'j>);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = PoolEntry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PoolEntry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = PoolEntry;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<PoolEntry, A::Error> {
        let (mut has_host, mut has_port, mut proxy) = (false, false, ProxyEntry::default());
        while let Some(name) = fields.next_key::<EntryField>()? {
            if name == EntryField::Other {
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = fields.next_value::<ScalarValue>()?;
            match name {
                EntryField::Host => has_host = value.into_text().is_some_and(|text| !text.is_empty()),
                EntryField::Port => has_port = value.into_text().is_some_and(|text| address::is_port(&text)),
                EntryField::Anonymity => proxy.anonymity = value.into_text(),
                EntryField::Mark(mark) => proxy.is_dead |= mark.is_dead(&value),
                EntryField::CheckedAt => {
                    let checked_at = self.0.clock.checked_at(&value);
                    // `None` is less than every time.
                    if checked_at > proxy.checked_at {
                        proxy.checked_at = checked_at;
                    }
                }
                EntryField::Other => {}
            }
        }
        Ok(PoolEntry::Object((has_host && has_port).then_some(proxy)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<PoolEntry, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(PoolEntry::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<PoolEntry, E> {
        Ok(PoolEntry::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<PoolEntry, E> {
        Ok(PoolEntry::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<PoolEntry, E> {
        Ok(PoolEntry::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<PoolEntry, E> {
        Ok(PoolEntry::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<PoolEntry, E> {
        Ok(PoolEntry::Text {
            is_address: address::is_address(text),
        })
    }

    fn visit_unit<E>(self) -> Result<PoolEntry, E> {
        Ok(PoolEntry::Other)
    }
}

/// Field of an entry, as far as relevant for a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryField {
    Host,
    Port,
    Anonymity,
    CheckedAt,
    Mark(DeadMark),
    Other,
}

impl<'de> Deserialize<'de> for EntryField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(FieldVisitor)
    }
}

struct FieldVisitor;

/// Longest name of a field that matters, in bytes.
const LONGEST_NAME: usize = 32;

impl Visitor<'_> for FieldVisitor {
    type Value = EntryField;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<EntryField, E> {
        Ok(match name {
            "host" => EntryField::Host,
            "port" => EntryField::Port,
            "anonymity" => EntryField::Anonymity,
            _ if name.len() > LONGEST_NAME => EntryField::Other,
            _ => {
                let name = normalised(name);
                match DeadMark::named(&name) {
                    Some(mark) => EntryField::Mark(mark),
                    None if checked_at::is_name(&name) => EntryField::CheckedAt,
                    None => EntryField::Other,
                }
            }
        })
    }
}
