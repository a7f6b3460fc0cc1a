//! Signals as facts: the first asks for a stop (or ends it, while nothing runs yet), the second skips the grace periods,
//! the third leaves at once. Signals that come together count once.
//!
//! A plain thread with its own copy of the guard's socket: the runtime may be blocked in the stop itself.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use super::output::say;
use crate::guard::{HurrySwitch, reap_strangers};
use crate::run::{EventKind, Recorder, StopReason};

/// A wrapper (`npm run`, `sudo`, a launcher) relays the Ctrl+C that the terminal sends to orch as well, within this time.
/// Nobody presses a key twice so fast.
const RELAY_TIMEOUT: Duration = Duration::from_millis(300);

/// Signals whose default ends the process at once, and which ask for nothing that orch could do.
const FATAL: [i32; 7] = [SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU];

/// Lets through what this process handles and what the terminal sends: a caller that has blocked it would make orch deaf
/// to any stop. A limit of the size of files becomes an error of the write instead of a death without a word.
pub fn hear() {
    let mut heard = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGCHLD,
        Signal::SIGTSTP,
        Signal::SIGCONT,
        Signal::SIGWINCH,
        Signal::SIGALRM,
    ] {
        heard.add(signal);
    }
    // Neither can fail for valid signals; without them orch is as it was started.
    heard.thread_unblock().ok();
    // A handler, unlike "ignore", is not handed on over exec.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).ok();
}

/// Which of the stages of a stop a signal asks for.
#[derive(Default)]
struct Stages {
    count: u32,
    last: Option<Instant>,
}

impl Stages {
    /// Counts a signal; `None`: it is the last one, relayed.
    fn next(&mut self, now: Instant) -> Option<u32> {
        if self.last.is_some_and(|last| now.duration_since(last) < RELAY_TIMEOUT) {
            return None;
        }
        self.last = Some(now);
        self.count += 1;
        Some(self.count)
    }
}

/// What the thread needs of a run, known only once the guard runs.
pub struct Running {
    pub hurry: HurrySwitch,
    pub recorder: Recorder,
    pub guard_pid: i32,
}

/// The thread's view of the run.
#[derive(Default)]
pub struct Armed(OnceLock<Running>);

impl Armed {
    /// From now on there is something to stop.
    pub fn arm(&self, running: Running) {
        // Armed once a process; a second run in it would keep the first's, which is harmless.
        drop(self.0.set(running));
    }
}

/// Registers the handlers and starts the thread; call before the first child exists.
///
/// # Errors
/// The signals cannot be registered.
pub fn listen() -> std::io::Result<(watch::Receiver<Option<StopReason>>, Arc<Armed>)> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])?;
    // Who starts us under `nohup` wants us to outlive the terminal.
    let ignored = Ignored::by_this_process();
    if !ignored.contains(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    for signal in FATAL.into_iter().filter(|signal| !ignored.contains(*signal)) {
        signals.add_signal(signal)?;
    }
    let (sender, receiver) = watch::channel(None);
    let armed = Arc::new(Armed::default());
    let theirs = Arc::clone(&armed);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stages = Stages::default();
        for signal in signals.forever() {
            if signal == SIGCHLD {
                if let Some(running) = theirs.0.get() {
                    reap_strangers(running.guard_pid);
                }
                continue;
            }
            if FATAL.contains(&signal) {
                die(signal);
                continue;
            }
            let Some(stage) = stages.next(Instant::now()) else {
                continue;
            };
            let reason = match signal {
                SIGINT => StopReason::Interrupt,
                SIGHUP => StopReason::Hangup,
                _ => StopReason::Terminate,
            };
            match stage {
                // Nothing is started yet (another run may be being waited for): there is nothing to stop.
                1 if theirs.0.get().is_none() => leave(signal),
                1 => {
                    sender.send_replace(Some(reason));
                }
                2 => {
                    if let Some(running) = theirs.0.get() {
                        running.hurry.hurry();
                        running.recorder.emit(EventKind::StopHurried);
                    }
                    // What holds up the stop hears that it must not.
                    sender.send_replace(Some(reason));
                }
                // The guard sees the socket close and finishes the work.
                _ => leave(signal),
            }
        }
    })?;
    Ok((receiver, armed))
}

/// Signals that the caller has had ignored, by their bits.
struct Ignored(u64);

impl Ignored {
    fn by_this_process() -> Self {
        // One read: the file is made anew with each.
        let status = std::fs::read("/proc/self/status").unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        let mask = status
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
        Self(mask.unwrap_or_default())
    }

    fn contains(&self, signal: i32) -> bool {
        self.0 & (1 << (signal - 1)) != 0
    }
}

/// Ends as the signal asks, core dump included, with the terminal given back and a word about it.
fn die(signal: i32) {
    crate::ui::release();
    let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
    say(&format!(
        "ended at once by {name}; the guard stops the services\n  hint:  SIGTERM or Ctrl+C ask for an ordered stop"
    ));
    if let Err(error) = signal_hook::low_level::emulate_default_handler(signal) {
        tracing::warn!(%error, name, "could not end by the signal");
        leave(signal);
    }
}

#[expect(
    clippy::exit,
    reason = "the third signal: the runtime may be wedged, and the guard ends what is left"
)]
fn leave(signal: i32) -> ! {
    crate::ui::release();
    std::process::exit(128 + signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_is_one_request() {
        let begin = Instant::now();
        // Milliseconds after the first, and the stage that each asks for.
        for (row, expected) in [
            (vec![0, 5, 100, 299], vec![Some(1), None, None, None]),
            (vec![0, 300, 305, 700], vec![Some(1), Some(2), None, Some(3)]),
            (vec![0, 200, 400], vec![Some(1), None, Some(2)]),
            (vec![0, 60_000], vec![Some(1), Some(2)]),
        ] {
            let mut stages = Stages::default();
            let asked: Vec<Option<u32>> = row
                .iter()
                .map(|ms| stages.next(begin + Duration::from_millis(*ms)))
                .collect();
            assert_eq!(asked, expected, "{row:?}");
        }
    }
}
