//! Store of inputs that show a fault, including the input that takes too long.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Input that is read at this moment.
#[derive(Default)]
struct Reading {
    since: Option<Instant>,
    target: String,
    input: Vec<u8>,
}

/// Time from one check of the input to the next: no event announces the end of a time limit.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Watch on the time that each input takes; its thread ends when it is dropped.
pub struct Watch {
    directory: PathBuf,
    reading: Arc<Mutex<Reading>>,
    /// Closed by the drop, which ends the thread.
    _watch: Sender<()>,
}

impl Watch {
    /// Starts the watch: an input that takes longer than `limit` is written into `directory`, then the process ends.
    pub fn begin(directory: PathBuf, limit: Duration) -> Self {
        fs::create_dir_all(&directory).unwrap();
        let reading = Arc::new(Mutex::new(Reading::default()));
        let watched = Arc::clone(&reading);
        let place = directory.clone();
        let (watch, is_dropped) = channel();
        std::thread::spawn(move || {
            while is_dropped.recv_timeout(CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Some((target, input)) = overdue(&watched, limit) {
                    let file = keep(&place, &target, &input);
                    eprintln!("{target}: not read within {limit:?}: {}", file.display());
                    std::process::abort();
                }
            }
        });
        Self {
            directory,
            reading,
            _watch: watch,
        }
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

/// Returns the target and the input that take longer than `limit`, if there are any.
fn overdue(reading: &Mutex<Reading>, limit: Duration) -> Option<(String, Vec<u8>)> {
    let reading = lock(reading);
    let is_over = reading.since.is_some_and(|since| since.elapsed() > limit);
    is_over.then(|| (reading.target.clone(), reading.input.clone()))
}

fn keep(directory: &std::path::Path, target: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let file = directory.join(format!("{}-{:016x}", target.replace(' ', "-"), hasher.finish()));
    fs::write(&file, input).unwrap();
    file
}
