//! Signals as facts: the first asks for a stop (or ends it, while nothing runs yet), the second skips the grace periods,
//! the third leaves at once.
//!
//! A plain thread with its own copy of the guard's socket: the runtime may be blocked in the stop itself.

use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use crate::guard::{HurrySwitch, reap_strangers};
use crate::run::{EventKind, Recorder, StopReason};

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
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    let (sender, receiver) = watch::channel(None);
    let armed = Arc::new(Armed::default());
    let theirs = Arc::clone(&armed);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut count = 0_u32;
        for signal in signals.forever() {
            if signal == SIGCHLD {
                if let Some(running) = theirs.0.get() {
                    reap_strangers(running.guard_pid);
                }
                continue;
            }
            count += 1;
            let reason = match signal {
                SIGINT => StopReason::Interrupt,
                SIGHUP => StopReason::Hangup,
                _ => StopReason::Terminate,
            };
            match count {
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

/// Whether the caller has this signal ignored, as the kernel tells; false where it does not.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[expect(
    clippy::exit,
    reason = "the third signal: the runtime may be wedged, and the guard ends what is left"
)]
fn leave(signal: i32) -> ! {
    crate::ui::release();
    std::process::exit(128 + signal)
}
