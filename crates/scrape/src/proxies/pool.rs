//! File of the proxy pool: the number of proxies, and of usable ones among them.
//!
//! A file that the app itself could not load counts as empty, with the reason. [`pool_text`](super::pool_text) reads
//! the text, and [`verdict`](super::verdict) decides about too few proxies.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::checked_at::CheckClock;
use super::judge::{PoolJudge, PoolRules};
use super::pool_count::PoolCount;
use super::pool_text::tally;
use orch_base::files::regular;

/// Largest size of a file that is read, in bytes: some 400,000 proxies.
pub const MAX_SIZE: u64 = 64 * 1024 * 1024;
/// Number of further reads of a file that looks half-written, before the result counts, and the time between them.
const REREADS: u32 = 4;
const REREAD_INTERVAL: Duration = Duration::from_millis(150);

/// Counts once.
pub fn count(file: &Path, rules: &PoolRules) -> PoolCount {
    count_within(file, rules, MAX_SIZE)
}

/// Counts, and reads again a few times while the file looks half-written; takes at most 0.6 s.
pub async fn count_settled(file: &Path, rules: &PoolRules) -> PoolCount {
    let mut counted = count(file, rules);
    for _ in 0..REREADS {
        if !counted.half_written {
            break;
        }
        tokio::time::sleep(REREAD_INTERVAL).await;
        counted = count(file, rules);
    }
    counted
}

fn count_within(file: &Path, rules: &PoolRules, max_size: u64) -> PoolCount {
    let opened = match regular::open(file) {
        Ok(opened) => opened,
        Err(error) => return not_opened(file, &error),
    };
    let facts = match opened.metadata() {
        Ok(facts) if facts.len() > max_size => return too_large(facts.len(), max_size),
        Ok(facts) if facts.len() == 0 => return PoolCount::half_written("it is empty: 0 bytes"),
        Ok(facts) => facts,
        Err(error) => return PoolCount::unreadable(format!("it cannot be read: {error}")),
    };
    let written = facts.modified().ok();
    let judge = PoolJudge {
        rules,
        clock: CheckClock::of_system(),
        // A time before 1970 counts as 1970.
        written: written.map(|moment| moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()),
    };
    // The file may grow during the read; the bound holds even then.
    tally(opened.take(max_size), &judge)
}

fn not_opened(file: &Path, error: &io::Error) -> PoolCount {
    match error.kind() {
        io::ErrorKind::NotFound => PoolCount::missing(),
        io::ErrorKind::PermissionDenied => PoolCount::unreadable("this user may not read it"),
        _ if file.is_dir() => PoolCount::unreadable("it is a directory"),
        _ => PoolCount::unreadable(format!("it cannot be read: {error}")),
    }
}

fn too_large(size: u64, max_size: u64) -> PoolCount {
    PoolCount::unreadable(format!("it is too large: {size} bytes, at most {max_size} are read"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn rules() -> PoolRules {
        PoolRules {
            unusable_anonymity: vec!["Transparent".to_owned(), "1".to_owned()],
            max_age: Some(Duration::from_secs(24 * 60 * 60)),
        }
    }

    fn count_text(text: impl AsRef<[u8]>) -> PoolCount {
        count_text_of_age(text, Duration::ZERO)
    }

    fn count_text_of_age(text: impl AsRef<[u8]>, age: Duration) -> PoolCount {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("live_proxies.json");
        fs::write(&file, text).expect("the file is written");
        let opened = File::options().write(true).open(&file).expect("the file is opened");
        opened.set_modified(SystemTime::now() - age).expect("the time is set");
        count_within(&file, &rules(), 8192)
    }

    fn pool_of(total: u64, usable: u64) -> PoolCount {
        PoolCount {
            total,
            usable,
            ..PoolCount::default()
        }
    }

    fn proxy(anonymity: impl Into<Value>) -> Value {
        json!({"host": "127.0.0.1", "port": 8080, "protocol": "http", "anonymity": anonymity.into(), "timeout": 1.5})
    }

    fn hours(count: u64) -> Duration {
        Duration::from_secs(count * 60 * 60)
    }

    #[test]
    fn usable_is_what_has_an_address_and_hides_the_client() {
        let pool = json!([
            proxy("Elite"), proxy("Anonymous"), proxy("Transparent"), proxy("transparent "), proxy("1"), proxy(1), proxy(2),
            proxy(Value::Null), {"host": "h", "port": "3128"},
        ]);
        assert_eq!(count_text(pool.to_string()), pool_of(9, 5));
        assert_eq!(count_text("[]"), pool_of(0, 0));
        assert_eq!(count_text(" [ ] \n"), pool_of(0, 0));
    }

    #[test]
    fn old_and_dead_proxies_do_not_count() {
        let checked = |key: &str, value: Value| json!({"host": "h", "port": 1, key: value});
        let now = CheckClock::of_system().now;
        let old = vec![checked("last_checked", json!(now - 7.0 * 86_400.0)); 40];
        let fresh = vec![checked("checkedAt", json!((now - 3600.0) * 1000.0)); 8];
        let dead = vec![checked("alive", json!(false)), checked("status", json!("dead"))];
        let counted = count_text(Value::Array([old, fresh, dead].concat()).to_string());
        assert_eq!((counted.total, counted.usable), (50, 8));
        assert_eq!(counted.left_out.in_brackets(), " (40 older than 24h, 2 marked as dead)");
        assert_eq!(counted.problem, None);
    }

    #[test]
    fn of_entries_without_a_time_the_file_s_counts() {
        for (text, total) in [
            (json!([proxy("Elite"), proxy("Transparent")]).to_string(), 2),
            (json!(["10.0.0.1:80"]).to_string(), 1),
        ] {
            assert_eq!(count_text_of_age(&text, hours(23)).usable, 1, "{text}");
            let old = count_text_of_age(&text, hours(25));
            assert_eq!((old.total, old.usable, old.left_out.too_old), (total, 0, 1), "{text}");
        }
        let fresh = json!([{"host": "h", "port": 1, "tested_at": CheckClock::of_system().now}]).to_string();
        assert_eq!(
            count_text_of_age(fresh, hours(1000)).usable,
            1,
            "the entry's own time takes precedence over the file's"
        );
    }

    #[test]
    fn a_list_of_texts_and_an_object_with_one_list_are_pools() {
        for (pool, total, usable) in [
            (json!(["10.0.0.1:80", "http://10.0.0.2:80"]), 2, 2),
            (json!({"updated": "x", "proxies": [proxy("Elite"), proxy("1")]}), 2, 1),
            (json!({"proxies": []}), 0, 0),
            (json!({"proxies": ["10.0.0.1:80"], "more": {"a": [1]}}), 1, 1),
        ] {
            assert_eq!(count_text(pool.to_string()), pool_of(total, usable), "{pool}");
        }
        let counted = count_text(json!(["10.0.0.1:80", "words", 7]).to_string());
        assert_eq!((counted.total, counted.usable), (3, 1));
        assert_eq!(
            counted.problem.as_deref(),
            Some("1 of 3 entries are not objects, 1 of 3 entries have no host or no port")
        );
    }

    #[test]
    fn entries_that_are_no_proxies_are_counted_and_named() {
        let pool = json!([proxy("Elite"), {"port": 1}, {"host": "", "port": 1}, {"host": "h", "port": 0}, {"host": "h", "port": "x"}, "10.0.0.1:80", 7, null, [1, [2]], true, 1.5, -1]);
        let counted = count_text(pool.to_string());
        assert_eq!((counted.total, counted.usable, counted.is_unreadable), (12, 1, false));
        assert_eq!(
            counted.problem.as_deref(),
            Some("7 of 12 entries are not objects, 4 of 12 entries have no host or no port")
        );
    }

    #[test]
    fn texts_that_are_no_pool_count_as_nothing_and_say_where() {
        for (text, half_written, says) in [
            (&b""[..], true, "it is empty: 0 bytes"),
            (b" ", true, "it ends in the middle, at byte 1"),
            (b"[{\"host\":", true, "it ends in the middle, at byte 9"),
            (b"[1] x", true, "it is not JSON: trailing characters at byte 4"),
            (b"[1, x]", true, "it is not JSON: expected value at byte 4"),
            (b"\xef\xbb\xbf[]", true, "it is not JSON: expected value at byte 0"),
            (b"[\"\xff\"]", true, "it is not UTF-8: 0xff at byte 2"),
            (b"[{\"a\": \"\xc3\"}]", true, "it is not UTF-8: 0xc3 at byte 8"),
            (
                b"{\"a\": 1}",
                false,
                "it is an object without a list, not a list of proxies",
            ),
            (
                b"{\"a\": [], \"b\": []}",
                false,
                "it is an object with 2 lists, not with one",
            ),
            (b"\"words\"", false, "it is a text, not a list of proxies"),
            (b"null", false, "it is null, not a list of proxies"),
            (b"3", false, "it is a number, not a list of proxies"),
            (b"false", false, "it is a boolean, not a list of proxies"),
            (b"[1, null]", false, "it names no proxy: 2 of 2 entries are not objects"),
            (
                b"[\"words\"]",
                false,
                "it names no proxy: 1 of 1 entries have no host or no port",
            ),
        ] {
            let counted = count_text(text);
            assert_eq!(
                (counted.usable, counted.is_unreadable, counted.half_written),
                (0, true, half_written),
                "{text:?}"
            );
            assert_eq!(counted.problem.as_deref(), Some(says), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_readable_file_counts_as_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let counted = |file: &Path| count_within(file, &rules(), 16);
        let problem = |file: &Path| {
            let counted = counted(file);
            assert!(counted.is_unreadable, "{counted:?}");
            counted.problem.expect("a reason")
        };
        let missing = counted(&directory.path().join("none.json"));
        assert_eq!(
            (missing.problem.as_deref(), missing.is_unreadable),
            (Some("there is no such file"), false)
        );
        assert_eq!(problem(directory.path()), "it is a directory");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert_eq!(problem(&fifo), "it cannot be read: not a regular file");
        let large = directory.path().join("large.json");
        fs::write(&large, " ".repeat(17)).expect("the file is written");
        assert_eq!(problem(&large), "it is too large: 17 bytes, at most 16 are read");
        let nested = directory.path().join("nested.json");
        fs::write(&nested, "[".repeat(4096)).expect("the file is written");
        assert!(count(&nested, &rules()).is_unreadable);
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(
            not_opened(&large, &denied).problem.as_deref(),
            Some("this user may not read it")
        );
    }

    #[tokio::test]
    async fn a_half_written_file_is_read_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("live_proxies.json");
        let whole = json!([proxy("Elite"), proxy("Elite")]).to_string();
        fs::write(&file, &whole[..whole.len() / 2]).expect("the file is written");
        let finish = async {
            tokio::time::sleep(REREAD_INTERVAL * 2).await;
            fs::write(&file, &whole).expect("the file is written");
        };
        let rules = rules();
        let (counted, ()) = tokio::join!(count_settled(&file, &rules), finish);
        assert_eq!(counted, pool_of(2, 2));

        fs::write(&file, "[").expect("the file is written");
        let counted = count_settled(&file, &rules).await;
        assert!(
            counted
                .problem
                .is_some_and(|problem| problem.contains("ends in the middle")),
            "the last result counts"
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
