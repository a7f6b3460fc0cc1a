//! Keeps inputs that show a fault, also the one that is never read to its end.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What is read at this moment.
#[derive(Default)]
struct Reading {
    since: Option<Instant>,
    target: String,
    input: Vec<u8>,
}

/// Its thread ends with it.
pub struct Watch {
    directory: PathBuf,
    reading: Arc<Mutex<Reading>>,
}

impl Watch {
    /// What takes longer than `limit` ends the process, after its input was kept in `directory`.
    pub fn begin(directory: PathBuf, limit: Duration) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let reading = Arc::new(Mutex::new(Reading::default()));
        let watched = Arc::downgrade(&reading);
        let place = directory.clone();
        std::thread::spawn(move || {
            while let Some(over) = is_over(&watched, limit) {
                if let Some((target, input)) = over {
                    let file = keep(&place, &target, &input);
                    eprintln!("{target}: not read within {limit:?}: {}", file.display());
                    std::process::abort();
                }
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
        Self { directory, reading }
    }

    pub fn reads(&self, target: &str, input: &[u8]) {
        let mut reading = lock(&self.reading);
        reading.since = Some(Instant::now());
        reading.target.clear();
        reading.target.push_str(target);
        reading.input.clear();
        reading.input.extend_from_slice(input);
    }

    pub fn has_read(&self) {
        lock(&self.reading).since = None;
    }

    pub fn keep(&self, target: &str, input: &[u8]) -> PathBuf {
        keep(&self.directory, target, input)
    }
}

fn lock(reading: &Mutex<Reading>) -> MutexGuard<'_, Reading> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The input that takes too long, if there is one; `None` when nobody reads any more.
#[expect(clippy::option_option, reason = "the end of the watch, and what it has seen")]
fn is_over(reading: &Weak<Mutex<Reading>>, limit: Duration) -> Option<Option<(String, Vec<u8>)>> {
    let reading = reading.upgrade()?;
    let reading = lock(&reading);
    let over = reading.since.is_some_and(|since| since.elapsed() > limit);
    Some(over.then(|| (reading.target.clone(), reading.input.clone())))
}

fn keep(directory: &std::path::Path, target: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let file = directory.join(format!("{}-{:016x}", target.replace(' ', "-"), hasher.finish()));
    fs::write(&file, input).unwrap();
    file
}
