//! The pool file: how many proxies stand in it and how many of them are of use.
//!
//! A file that the app itself could not load counts as empty, and the count says why. Not here: what is done about too few.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use crate::regular_file;

/// Largest file that is read, bytes: some 400,000 proxies.
pub const MAX_SIZE: u64 = 64 * 1024 * 1024;
/// A file that looks half-written is read again this often, so long after one another, before it is believed.
const REREADS: u32 = 4;
const REREAD_AFTER: Duration = Duration::from_millis(150);

/// What one look at the pool file found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCount {
    /// Entries of the array.
    pub total: u64,
    /// Those with a host and a port whose `anonymity` is not in the configured list.
    pub usable: u64,
    /// Why the count is not what it could be, as a person should read it.
    pub problem: Option<String>,
    /// The file may be in the middle of being written: a second look may find more.
    half_written: bool,
}

impl PoolCount {
    fn nothing(problem: impl Into<String>) -> Self {
        Self {
            problem: Some(problem.into()),
            ..Self::default()
        }
    }

    fn half_written(problem: impl Into<String>) -> Self {
        Self {
            half_written: true,
            ..Self::nothing(problem)
        }
    }
}

/// Counts once. `unusable` are the `anonymity` values of useless proxies, compared without case, numbers as text.
pub fn count(file: &Path, unusable: &[String]) -> PoolCount {
    count_within(file, unusable, MAX_SIZE)
}

/// Counts, and looks again a few times while the file seems to be half-written; takes 0.6 s at most.
pub async fn count_settled(file: &Path, unusable: &[String]) -> PoolCount {
    let mut counted = count(file, unusable);
    for _ in 0..REREADS {
        if !counted.half_written {
            break;
        }
        tokio::time::sleep(REREAD_AFTER).await;
        counted = count(file, unusable);
    }
    counted
}

fn count_within(file: &Path, unusable: &[String], max_size: u64) -> PoolCount {
    let opened = match regular_file::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return PoolCount::nothing("there is no such file"),
        Err(error) => return PoolCount::nothing(format!("it cannot be read: {error}")),
    };
    match opened.metadata() {
        Ok(facts) if facts.len() > max_size => return too_large(facts.len(), max_size),
        Ok(facts) if facts.len() == 0 => return PoolCount::half_written("it is empty"),
        Ok(_) => {}
        Err(error) => return PoolCount::nothing(format!("it cannot be read: {error}")),
    }
    // The file may grow while it is read; the bound holds all the same.
    tally(BufReader::new(opened.take(max_size)), unusable)
}

/// Counts what can be read of a text.
pub fn tally(text: impl Read, unusable: &[String]) -> PoolCount {
    let mut json = serde_json::Deserializer::from_reader(text);
    let tally = json
        .deserialize_any(PoolVisitor { unusable })
        .and_then(|tally| json.end().map(|()| tally));
    match tally {
        Ok(tally) => tally.into_count(),
        Err(error) if error.is_eof() => {
            PoolCount::half_written(format!("it ends in the middle (line {})", error.line()))
        }
        Err(error) if error.is_io() => PoolCount::nothing(format!("it cannot be read: {error}")),
        Err(error) if error.is_data() => PoolCount::nothing(format!("it is not an array of proxies: {error}")),
        // A writer that rewrites in place leaves new text followed by the rest of the old.
        Err(error) => PoolCount::half_written(format!("it is not JSON: {error}")),
    }
}

fn too_large(size: u64, max_size: u64) -> PoolCount {
    PoolCount::nothing(format!("it is too large: {size} bytes, at most {max_size} are read"))
}

#[derive(Default)]
struct Tally {
    total: u64,
    usable: u64,
    no_object: u64,
    no_address: u64,
}

impl Tally {
    fn into_count(self) -> PoolCount {
        let mut problems = Vec::new();
        if self.no_object > 0 {
            problems.push(format!("{} of {} entries are no objects", self.no_object, self.total));
        }
        if self.no_address > 0 {
            problems.push(format!(
                "{} of {} entries have no host or no port",
                self.no_address, self.total
            ));
        }
        let problem = (!problems.is_empty()).then(|| problems.join(", "));
        PoolCount {
            total: self.total,
            usable: self.usable,
            problem,
            half_written: false,
        }
    }
}

/// Counts the array's entries while they stream past; no more than one of them is ever in memory.
struct PoolVisitor<'u> {
    unusable: &'u [String],
}

impl<'de> Visitor<'de> for PoolVisitor<'_> {
    type Value = Tally;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    /// As serde would, without the text: it may be as long as the file.
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Tally, E> {
        Err(E::invalid_type(Unexpected::Other("string"), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Tally, A::Error> {
        let mut tally = Tally::default();
        while let Some(entry) = entries.next_element::<Entry>()? {
            tally.total += 1;
            match entry {
                Entry::NoObject => tally.no_object += 1,
                Entry::Proxy {
                    host: true,
                    port: true,
                    anonymity,
                } => {
                    let useless =
                        anonymity.is_some_and(|anonymity| self.unusable.iter().any(|one| same(one, &anonymity)));
                    tally.usable += u64::from(!useless);
                }
                Entry::Proxy { .. } => tally.no_address += 1,
            }
        }
        Ok(tally)
    }
}

fn same(one: &str, other: &str) -> bool {
    one.trim().to_lowercase() == other.trim().to_lowercase()
}

/// What matters of one entry; any JSON value is an entry of some kind.
enum Entry {
    Proxy {
        host: bool,
        port: bool,
        anonymity: Option<String>,
    },
    NoObject,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Entry, A::Error> {
        let (mut host, mut port, mut anonymity) = (false, false, None);
        while let Some(name) = fields.next_key::<Field>()? {
            match name {
                Field::Host => host = fields.next_value::<Scalar>()?.0.is_some_and(|text| !text.is_empty()),
                Field::Port => {
                    let text = fields.next_value::<Scalar>()?.0;
                    port = text.is_some_and(|text| text.parse::<u16>().is_ok_and(|port| port > 0));
                }
                Field::Anonymity => anonymity = fields.next_value::<Scalar>()?.0,
                Field::Other => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Entry::Proxy { host, port, anonymity })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Entry, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Entry::NoObject)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Entry, E> {
        Ok(Entry::NoObject)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Entry, E> {
        Ok(Entry::NoObject)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Entry, E> {
        Ok(Entry::NoObject)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Entry, E> {
        Ok(Entry::NoObject)
    }

    fn visit_str<E>(self, _: &str) -> Result<Entry, E> {
        Ok(Entry::NoObject)
    }

    fn visit_unit<E>(self) -> Result<Entry, E> {
        Ok(Entry::NoObject)
    }
}

/// The fields of a proxy that matter.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Host,
    Port,
    Anonymity,
    #[serde(other)]
    Other,
}

/// A field's text, or number as text; nothing for what is neither. No more is kept than any host name has, so that of a
/// file only one text at a time is in memory.
struct Scalar(Option<String>);

/// Characters; a host name has 253 at most.
const LONGEST_TEXT: usize = 256;

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor).map(Scalar)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<String>, E> {
        Ok(Some(text.chars().take(LONGEST_TEXT).collect()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Option<String>, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Option<String>, E> {
        Ok(Some(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Option<String>, E> {
        Ok(serde_json::Number::from_f64(number).map(|number| number.to_string()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<String>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Option<String>, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn unusable() -> Vec<String> {
        vec!["Transparent".to_owned(), "1".to_owned()]
    }

    fn count_text(text: impl AsRef<[u8]>) -> PoolCount {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("live_proxies.json");
        fs::write(&file, text).expect("the file is written");
        count_within(&file, &unusable(), 4096)
    }

    fn proxy(anonymity: impl Into<Value>) -> Value {
        json!({"host": "127.0.0.1", "port": 8080, "protocol": "http", "anonymity": anonymity.into(), "timeout": 1.5})
    }

    #[test]
    fn usable_is_what_has_an_address_and_hides_the_client() {
        let pool = json!([
            proxy("Elite"), proxy("Anonymous"), proxy("Transparent"), proxy("transparent "), proxy("1"), proxy(1), proxy(2),
            proxy(Value::Null), {"host": "h", "port": "3128"},
        ]);
        assert_eq!(
            count_text(pool.to_string()),
            PoolCount {
                total: 9,
                usable: 5,
                ..PoolCount::default()
            }
        );
        assert_eq!(count_text("[]"), PoolCount::default());
        assert_eq!(count_text(" [ ] \n"), PoolCount::default());
    }

    #[test]
    fn entries_that_are_no_proxies_are_counted_and_named() {
        let pool = json!([proxy("Elite"), {"port": 1}, {"host": "", "port": 1}, {"host": "h", "port": 0}, {"host": "h", "port": "x"}, "10.0.0.1:80", 7, null, [1, [2]], true, 1.5, -1]);
        let counted = count_text(pool.to_string());
        assert_eq!((counted.total, counted.usable), (12, 1));
        let problem = counted.problem.expect("a reason");
        assert_eq!(
            problem,
            "7 of 12 entries are no objects, 4 of 12 entries have no host or no port"
        );
    }

    #[test]
    fn files_that_the_app_could_not_load_count_as_empty() {
        for (text, half_written, says) in [
            ("".as_bytes(), true, "it is empty"),
            (b"  \n", true, "ends in the middle"),
            (
                b"[{\"host\": \"a\", \"port\": 1}, {\"ho",
                true,
                "ends in the middle (line 1)",
            ),
            (b"[{\"host\": \"a\", \"port\": 1},\n", true, "ends in the middle"),
            (b"[{\"host\": \"a\", \"port\": 1}]]", true, "it is not JSON"),
            (b"[1, 2}", true, "it is not JSON"),
            (b"host,port\n", true, "it is not JSON"),
            (b"\xff\xfe\x00", true, "it is not JSON"),
            (
                b"{\"proxies\": []}",
                false,
                "it is not an array of proxies: invalid type: map, expected an array",
            ),
            (
                b"\"words\"",
                false,
                "it is not an array of proxies: invalid type: string, expected an array",
            ),
            (b"null", false, "it is not an array"),
            (b"3", false, "it is not an array"),
        ] {
            let counted = count_text(text);
            assert_eq!(
                (counted.total, counted.usable, counted.half_written),
                (0, 0, half_written),
                "{text:?}"
            );
            let problem = counted.problem.expect("a reason");
            assert!(problem.contains(says), "{text:?}: {problem}");
        }
    }

    #[test]
    fn what_is_no_readable_file_counts_as_empty() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let problem = |file: &Path| count_within(file, &unusable(), 16).problem.expect("a reason");
        assert_eq!(problem(&directory.path().join("none.json")), "there is no such file");
        assert_eq!(problem(directory.path()), "it cannot be read: not a regular file");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert_eq!(problem(&fifo), "it cannot be read: not a regular file");
        let large = directory.path().join("large.json");
        fs::write(&large, " ".repeat(17)).expect("the file is written");
        assert_eq!(problem(&large), "it is too large: 17 bytes, at most 16 are read");
        let nested = directory.path().join("nested.json");
        fs::write(&nested, "[".repeat(4096)).expect("the file is written");
        assert!(count(&nested, &unusable()).problem.is_some());
    }

    #[tokio::test]
    async fn a_half_written_file_is_looked_at_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("live_proxies.json");
        let whole = json!([proxy("Elite"), proxy("Elite")]).to_string();
        fs::write(&file, &whole[..whole.len() / 2]).expect("the file is written");
        let finish = async {
            tokio::time::sleep(REREAD_AFTER * 2).await;
            fs::write(&file, &whole).expect("the file is written");
        };
        let unusable = unusable();
        let (counted, ()) = tokio::join!(count_settled(&file, &unusable), finish);
        assert_eq!(
            counted,
            PoolCount {
                total: 2,
                usable: 2,
                ..PoolCount::default()
            }
        );

        fs::write(&file, "[").expect("the file is written");
        let counted = count_settled(&file, &unusable).await;
        assert!(
            counted
                .problem
                .is_some_and(|problem| problem.contains("ends in the middle")),
            "believed at last"
        );
    }

    proptest! {
        #[test]
        fn no_content_panics(content in prop::collection::vec(any::<u8>(), 0..200)) {
            count_text(content);
        }

        #[test]
        fn every_cut_of_a_good_file_is_seen(entries in 1usize..4, cut in 0.0f64..1.0) {
            let whole = Value::Array(vec![proxy("Elite"); entries]).to_string();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a short length")]
            let cut = (whole.len() as f64 * cut) as usize;
            let counted = count_text(&whole[..cut]);
            prop_assert_eq!((counted.usable, counted.half_written), (0, true));
        }
    }
}
