//! Settings of apps from earlier runs, in `<state>/app-settings.json`: an entry is valid while the files that the
//! import has read are unchanged.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use orch_base::files::{atomic, regular};

/// Largest number of entries, one for each app or environment of an app.
const MOST_ENTRIES: usize = 8;
/// Limit in bytes for reading the file.
const LARGEST: u64 = 8 << 20;

/// A file that determines the settings: path, modification time, change time of the inode, size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceFile(String, i128, i128, u64);

impl SourceFile {
    fn is_unchanged(&self) -> bool {
        let Ok(now) = fs::metadata(&self.0) else { return false };
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        now.is_file()
            && nanoseconds(now.mtime(), now.mtime_nsec()) == self.1
            && nanoseconds(now.ctime(), now.ctime_nsec()) == self.2
            && now.len() == self.3
    }
}

#[derive(Serialize, Deserialize)]
struct CacheEntry {
    /// Hash of interpreter, app, directory, settings and environment.
    key: u64,
    files: Vec<SourceFile>,
    settings: Value,
}

/// Returns the settings with this key, if every file is unchanged.
pub(crate) fn find(file: &Path, key: u64) -> Option<Value> {
    let entry = read(file).into_iter().find(|entry| entry.key == key)?;
    let holds = !entry.files.is_empty() && entry.files.iter().all(SourceFile::is_unchanged);
    holds.then_some(entry.settings)
}

/// Saves the settings; the oldest entries are dropped.
pub(crate) fn remember(file: &Path, key: u64, files: Vec<SourceFile>, settings: &Value) {
    let mut entries = read(file);
    entries.retain(|entry| entry.key != key);
    entries.push(CacheEntry {
        key,
        files,
        settings: settings.clone(),
    });
    let surplus = entries.len().saturating_sub(MOST_ENTRIES);
    entries.drain(..surplus);
    let written = serde_json::to_vec(&entries)
        .map_err(std::io::Error::from)
        .and_then(|bytes| atomic::replace(file, &bytes));
    if let Err(error) = written {
        // The next start asks the app again.
        tracing::warn!(%error, file = %file.display(), "could not save the app's settings");
    }
}

fn read(file: &Path) -> Vec<CacheEntry> {
    let bytes = regular::read(file, LARGEST).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(path: &Path) -> SourceFile {
        let now = fs::metadata(path).expect("there");
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        SourceFile(
            path.display().to_string(),
            nanoseconds(now.mtime(), now.mtime_nsec()),
            nanoseconds(now.ctime(), now.ctime_nsec()),
            now.len(),
        )
    }

    #[test]
    fn an_entry_holds_until_one_of_its_files_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = directory.path().join("app-settings.json");
        let (app, other) = (directory.path().join("app.py"), directory.path().join("other.py"));
        fs::write(&app, "x = 1").expect("written");
        fs::write(&other, "").expect("written");
        let settings = json!({ "control_exchange": "c" });
        remember(&cache, 1, vec![source(&app), source(&other)], &settings);
        assert_eq!(find(&cache, 1), Some(settings.clone()));
        assert_eq!(find(&cache, 2), None);
        fs::write(&app, "x = 12").expect("written");
        assert_eq!(find(&cache, 1), None);
        remember(&cache, 1, vec![source(&app)], &settings);
        fs::remove_file(&app).expect("removed");
        assert_eq!(find(&cache, 1), None);
        // An entry without a file that could show a change is not accepted.
        remember(&cache, 1, Vec::new(), &settings);
        assert_eq!(find(&cache, 1), None);
    }

    #[test]
    fn the_oldest_entries_are_dropped_and_a_damaged_file_has_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = directory.path().join("app-settings.json");
        let app = directory.path().join("app.py");
        fs::write(&app, "").expect("written");
        for key in 0..=MOST_ENTRIES as u64 {
            remember(&cache, key, vec![source(&app)], &json!(key));
        }
        assert_eq!(find(&cache, 0), None);
        assert_eq!(find(&cache, 1), Some(json!(1)));
        for damage in ["", "{}", "[{}]", "[1, 2", "[{\"key\":1,\"files\":7,\"settings\":0}]"] {
            fs::write(&cache, damage).expect("written");
            assert_eq!(find(&cache, 1), None, "{damage}");
        }
        remember(&cache, 1, vec![source(&app)], &json!(1));
        assert_eq!(find(&cache, 1), Some(json!(1)));
        // A directory in place of the file causes no failure.
        fs::remove_file(&cache).expect("removed");
        fs::create_dir(&cache).expect("made");
        remember(&cache, 1, vec![source(&app)], &json!(1));
        assert_eq!(find(&cache, 1), None);
    }
}
