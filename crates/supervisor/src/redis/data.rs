//! The data of an owned Redis on the disk: damaged files are moved aside, and a long append-only file is rewritten.
//!
//! Not here: configuration and process of Redis ([`service`](crate::redis::service)).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connection::{RedisConnection, client};
use orch_base::files::log_stream;
use orch_base::text::printable::one_line;
use orch_base::wall_clock::unix_now;
use orch_journal::RedisProblem;

/// Number of bytes of a log that are searched for the cause of a failed start.
const LOG_WINDOW: u64 = 64 * 1024;
/// Messages of Redis and Valkey when they end because their data cannot be read.
const DAMAGE: [&str; 11] = [
    "Unable to obtain the AOF file",
    "reading the append only file",
    "append only file error",
    "Invalid AOF manifest",
    "AOF manifest",
    "The AOF file",
    "Short read or OOM loading DB",
    "Internal error in RDB",
    "Wrong signature trying to load DB",
    "Can't handle RDB format version",
    "Fatal error loading the DB",
];
/// Messages that contain the same words but no damage: another start may read the data.
const NO_DAMAGE: [&str; 4] = [
    "Permission denied",
    "No space left",
    "Read-only file system",
    "Out Of Memory",
];
/// Names of files and directories with data; Redis keeps no data in others.
const DATA: [&str; 3] = ["appendonlydir", "appendonly.aof", "dump.rdb"];
/// Number of directories with damaged data that are kept, the latest ones.
const KEPT: usize = 3;
/// Prefix of their names.
const DAMAGED: &str = "damaged-";
/// Size in bytes: a shorter append-only file is loaded within a few milliseconds.
const LONG: u64 = 1 << 20;
const REWRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Moves the data away if the log of the start that has just failed, from `offset` on, reports damage; returns the
/// damage. `directory` is that of this Redis; the data is below `data`.
pub(crate) fn move_damaged_aside(directory: &Path, log: &Path, offset: u64) -> Option<RedisProblem> {
    let cause = damage(&read_from(log, offset))?;
    let data = directory.join("data");
    let now = unix_now().as_secs();
    let aside = directory.join(format!("{DAMAGED}{now}"));
    let moved = fs::create_dir(&aside).and_then(|()| {
        DATA.iter()
            .filter(|name| data.join(name).symlink_metadata().is_ok())
            .try_for_each(|name| fs::rename(data.join(name), aside.join(name)))
    });
    match &moved {
        Ok(()) => remove_oldest(directory),
        Err(_) => drop(fs::remove_dir(&aside)),
    }
    Some(RedisProblem::DataDamaged {
        cause,
        data,
        moved_to: aside,
        failure: moved.err().map(|error| error.to_string()),
    })
}

/// Returns the text of the log line that reports damaged data.
fn damage(log: &str) -> Option<String> {
    let says = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
    let lines: Vec<&str> = log.lines().collect();
    if lines.iter().any(|line| says(line, &NO_DAMAGE)) {
        return None;
    }
    // Redis marks warnings with `#`, and notices with other characters.
    let line = lines
        .iter()
        .rev()
        .find(|line| line.contains(" # ") && says(line, &DAMAGE))?;
    let (_, words) = line.split_once(" # ")?;
    let words = words.split(": make a backup").next().unwrap_or(words);
    Some(one_line(words.trim_end()).chars().take(200).collect())
}

fn read_from(log: &Path, offset: u64) -> String {
    let read = log_stream::last_bytes(log, offset, LOG_WINDOW);
    // Without the log the cause is unknown, and nothing is moved.
    read.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn remove_oldest(directory: &Path) {
    let mut damaged: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(DAMAGED))
        .map(|entry| entry.path())
        .collect();
    damaged.sort();
    let surplus = damaged.len().saturating_sub(KEPT);
    for path in damaged.into_iter().take(surplus) {
        let _removed = fs::remove_dir_all(path);
    }
}

/// Lets the server rewrite a long append-only file in the background. After a night the file contains each write of
/// that night, and the next start would read all of them. At the start little data is in memory, so the fork is cheap.
/// A failure only makes the next start slower; Redis logs it.
pub(crate) async fn rewrite_long_file(connection: &RedisConnection, directory: &Path) {
    if appended(&directory.join("data")) < LONG {
        return;
    }
    if let Ok(client) = client(connection) {
        let _outcome = tokio::time::timeout(REWRITE_TIMEOUT, client.rewrite_append_only_file()).await;
    }
}

/// Returns the number of bytes that were appended since the last rewrite.
fn appended(data: &Path) -> u64 {
    let parts = fs::read_dir(data.join("appendonlydir")).into_iter().flatten().flatten();
    let parts: u64 = parts
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".incr.aof"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum();
    // Before Redis 7 there is a single file.
    parts + fs::metadata(data.join("appendonly.aof")).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_recognised_by_the_messages_of_the_server() {
        let line =
            |words: &str| format!("7:M 29 Nov 2026 07:04:37.751 * Server initialized\n7:M 29 Nov 2026 {words}\n");
        for words in [
            "# Bad file format reading the append only file a.1.incr.aof: make a backup of your AOF file, then use ...",
            "# Unexpected end of file reading the append only file a.1.incr.aof. You can: 1) Make a backup ...",
            "# Invalid AOF manifest file format",
            "# The AOF file appendonly.aof.1.base.rdb doesn't exist",
            "# Short read or OOM loading DB. Unrecoverable error, aborting now.",
        ] {
            let cause = damage(&line(words)).expect(words);
            assert!(words.contains(&cause), "{cause}");
        }
        for words in [
            "* Reading RDB base file on AOF loading...",
            "# Warning: Could not create server TCP listening socket 127.0.0.1:80: bind: Address already in use",
            "# Fatal error: can't open the append log file appendonly.aof: Permission denied, The AOF file",
        ] {
            assert_eq!(damage(&line(words)), None, "{words}");
        }
    }

    #[test]
    fn other_files_stay_and_the_oldest_directories_are_removed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().join("data");
        fs::create_dir_all(data.join("appendonlydir")).expect("a directory");
        fs::write(data.join("other"), "x").expect("a file");
        for number in 1..=4 {
            fs::create_dir(directory.path().join(format!("{DAMAGED}{number}"))).expect("a directory");
        }
        let log = directory.path().join("log");
        fs::write(&log, "old\n7:M # Invalid AOF manifest file format\n").expect("a file");
        assert_eq!(
            move_damaged_aside(directory.path(), &log, 60),
            None,
            "the message is of an earlier start"
        );
        let damage = move_damaged_aside(directory.path(), &log, 4).expect("damage");
        let RedisProblem::DataDamaged { cause, failure, .. } = damage else {
            panic!("{damage:?}");
        };
        assert_eq!((cause.as_str(), failure), ("Invalid AOF manifest file format", None));
        assert!(data.join("other").exists() && !data.join("appendonlydir").exists());
        let left = fs::read_dir(directory.path()).expect("a directory").flatten();
        let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(DAMAGED));
        assert_eq!(left.count(), KEPT);
        assert!(!directory.path().join("damaged-1").exists());
    }
}
