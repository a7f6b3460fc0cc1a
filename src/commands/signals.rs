//! Signals of the user: the first signal requests a stop (or ends orch, if nothing runs yet), the second skips the
//! grace periods, the third ends orch at once. Signals that arrive together count once.
//!
//! A plain thread with a copy of the guard's socket handles them, because the async runtime may be blocked in the
//! stop itself.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use super::output::print_message;
use orch_guard::{HurrySwitch, reap_orphans};
use orch_journal::{EventKind, Recorder, StopReason};

/// Time in which a second signal counts as relayed: a wrapper (`npm run`, `sudo`, a launcher) relays the Ctrl+C that
/// the terminal also sends to orch directly. Nobody presses a key twice within this time.
const RELAY_TIMEOUT: Duration = Duration::from_millis(300);

/// Signals with a default action that ends the process at once, and for which orch has no better action.
const FATAL: [i32; 7] = [SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU];

/// Unblocks the signals that this process handles and those that the terminal sends: if the caller has blocked them,
/// orch could not be stopped. Also handles SIGXFSZ, so that a limit of the file size becomes a write error instead of a
/// silent death.
pub fn unblock_signals() {
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
    // Both calls cannot fail for valid signals; if they did, the inherited settings would stay.
    heard.thread_unblock().ok();
    // Child processes do not inherit a handler over exec, but they would inherit "ignore".
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).ok();
}

/// Counter that finds the stage of the stop that a signal requests.
#[derive(Default)]
struct StopStages {
    count: u32,
    last: Option<Instant>,
}

impl StopStages {
    /// Counts a signal and returns its stage; `None` if the signal is a relayed copy of the last one.
    fn next(&mut self, now: Instant) -> Option<u32> {
        if self.last.is_some_and(|last| now.duration_since(last) < RELAY_TIMEOUT) {
            return None;
        }
        self.last = Some(now);
        self.count += 1;
        Some(self.count)
    }
}

/// Parts of a run that the signal thread needs; known only when the guard runs.
pub struct StoppableRun {
    pub hurry: HurrySwitch,
    pub recorder: Recorder,
    pub guard_pid: i32,
}

/// Run that the signal thread stops, once it is known.
#[derive(Default)]
pub struct SignalTarget(OnceLock<StoppableRun>);

impl SignalTarget {
    /// Sets the run that signals stop.
    pub fn set_run(&self, running: StoppableRun) {
        // A process calls this once. A second run in the same process would keep the first value, which is harmless.
        drop(self.0.set(running));
    }
}

/// Registers the handlers and starts the thread; call before the first child exists.
///
/// # Errors
/// The signals cannot be registered.
pub fn start_signal_thread() -> std::io::Result<(watch::Receiver<Option<StopReason>>, Arc<SignalTarget>)> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD])?;
    // A caller that uses `nohup` wants orch to outlive the terminal.
    let ignored = IgnoredSignals::by_this_process();
    if !ignored.contains(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    for signal in FATAL.into_iter().filter(|signal| !ignored.contains(*signal)) {
        signals.add_signal(signal)?;
    }
    let (sender, receiver) = watch::channel(None);
    let armed = Arc::new(SignalTarget::default());
    let of_thread = Arc::clone(&armed);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stages = StopStages::default();
        for signal in signals.forever() {
            if signal == SIGCHLD {
                if let Some(running) = of_thread.0.get() {
                    reap_orphans(running.guard_pid);
                }
                continue;
            }
            if FATAL.contains(&signal) {
                end_by_signal(signal);
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
                // Nothing is started yet (orch may be waiting for the end of another run), so there is nothing to stop.
                1 if of_thread.0.get().is_none() => exit_with_signal(signal),
                1 => {
                    sender.send_replace(Some(reason));
                }
                2 => {
                    if let Some(running) = of_thread.0.get() {
                        running.hurry.hurry();
                        running.recorder.emit(EventKind::StopHurried);
                    }
                    // Work that delays the stop sees the changed value and ends at once.
                    sender.send_replace(Some(reason));
                }
                // The guard sees that the socket is closed and stops the services.
                _ => exit_with_signal(signal),
            }
        }
    })?;
    Ok((receiver, armed))
}

/// Bit mask of the signals that the caller has set to "ignore".
struct IgnoredSignals(u64);

impl IgnoredSignals {
    fn by_this_process() -> Self {
        // Reads the file in one call, because the kernel generates the text anew for each read.
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

/// Restores the terminal, prints a message, and ends with the signal's default action, core dump included.
fn end_by_signal(signal: i32) {
    orch_views::release();
    let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
    print_message(&format!(
        "ended at once by {name}; the guard stops the services\n  hint:  SIGTERM or Ctrl+C request an orderly stop"
    ));
    if let Err(error) = signal_hook::low_level::emulate_default_handler(signal) {
        tracing::warn!(%error, name, "could not end by the default action of the signal");
        exit_with_signal(signal);
    }
}

#[expect(
    clippy::exit,
    reason = "the third signal: the runtime may be wedged, and the guard ends what is left"
)]
fn exit_with_signal(signal: i32) -> ! {
    orch_views::release();
    std::process::exit(128 + signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_arrive_together_are_one_request() {
        let begin = Instant::now();
        // Milliseconds after the first signal, and the stage that each signal requests.
        for (row, expected) in [
            (vec![0, 5, 100, 299], vec![Some(1), None, None, None]),
            (vec![0, 300, 305, 700], vec![Some(1), Some(2), None, Some(3)]),
            (vec![0, 200, 400], vec![Some(1), None, Some(2)]),
            (vec![0, 60_000], vec![Some(1), Some(2)]),
        ] {
            let mut stages = StopStages::default();
            let asked: Vec<Option<u32>> = row
                .iter()
                .map(|ms| stages.next(begin + Duration::from_millis(*ms)))
                .collect();
            assert_eq!(asked, expected, "{row:?}");
        }
    }
}
