//! The gate of a run: reads the memory when sites wait for their turn, and says why they wait, once.

use std::time::Duration;

use crate::memory::{Admissions, Gate, News, Reader, Sites, shown};
use crate::run::SiteName;
use crate::run::{EventKind, Level, Recorder};

/// See the module.
#[derive(Clone, Debug)]
pub struct MemoryWatch {
    gate: Gate,
    reader: Reader,
    /// It was said that nothing can be read.
    is_blind: bool,
}

impl MemoryWatch {
    /// From one look to the next.
    pub const EVERY: Duration = Duration::from_secs(1);

    /// So many bytes are to stay available; 0: there is nothing to watch.
    pub fn new(reserve: u64) -> Option<Self> {
        (reserve > 0).then(|| Self {
            gate: Gate::new(reserve),
            reader: Reader::of_this_process(),
            is_blind: false,
        })
    }

    /// So long what has begun may not hold yet what it will.
    pub const SETTLED_AFTER: Duration = Duration::from_secs(60);

    /// How many sites may begin now.
    pub(super) fn look(&mut self, sites: Sites, now: Duration, recorder: &Recorder) -> Admissions {
        let reading = match self.reader.read() {
            Ok(reading) => reading,
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    let message = format!("sites begin whether there is memory or not: {error}");
                    tell(recorder, Level::Warning, message);
                }
                return Admissions::All;
            }
        };
        let (admissions, news) = self.gate.look(&reading, sites, now);
        match news {
            Some(News::Shut(shortage)) => tell(recorder, Level::Warning, format!("no further site begins: {shortage}")),
            Some(News::Opened) => tell(recorder, Level::Info, "there is memory again: sites begin".to_owned()),
            Some(News::AllTheSame(shortage)) => {
                let message =
                    format!("a site begins all the same, as none runs that could give memory back: {shortage}");
                tell(recorder, Level::Warning, message);
            }
            None => {}
        }
        admissions
    }
}

/// Why this site waits though it has all else.
pub(super) fn tell_unfit(site: &SiteName, memory: u64, recorder: &Recorder) {
    let held = shown(memory);
    let message = format!("{site} waits for memory: it has held {held} in earlier runs, more than is left for it now");
    tell(recorder, Level::Info, message);
}

fn tell(recorder: &Recorder, level: Level, message: String) {
    recorder.emit(EventKind::Noticed { level, message });
}
