//! The configured probes: TCP, HTTP, a line in the log, a file, a command.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::http;
use crate::earlier_listener::EarlierListeners;
use crate::launcher::ProcessLauncher;
use crate::process_name::ProcessName;
use orch_base::files::log_stream;
use orch_base::files::watch::FileWatch;
use orch_base::text::duration_text::shown;
use orch_config::Probe;
use orch_guard::{SpawnOrder, StopPlan};
use orch_journal::ExitStatus;

/// Delay between two attempts of probes without an event to wait for: short at first, since most services start
/// quickly.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(5);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Largest number of bytes of new log that a log probe searches.
const LOG_WINDOW: u64 = 4 * 1024 * 1024;

/// Data that a probe needs besides the settings.
pub struct ProbeContext {
    /// Starts the command of an `exec` probe.
    pub launcher: ProcessLauncher,
    /// Name of the probed service.
    pub service: String,
    pub directory: PathBuf,
    pub environment: Vec<(String, String)>,
    /// The service's log.
    pub log: PathBuf,
    /// Listeners before the last start.
    pub(crate) earlier_listeners: EarlierListeners,
    /// Texts of log probes that were found, each with the highest position from which on the log has the text. The part
    /// of the log that has the text may be removed later.
    found: Mutex<BTreeMap<String, u64>>,
    /// Log for the output of `exec` probes.
    pub probe_log: PathBuf,
}

impl ProbeContext {
    /// Returns the context of a service that is started with this order.
    pub fn new(launcher: ProcessLauncher, order: &SpawnOrder) -> Self {
        Self {
            launcher,
            service: order.service.clone(),
            directory: order.directory.clone(),
            environment: order.environment.clone(),
            log: order.log.clone(),
            earlier_listeners: EarlierListeners::default(),
            found: Mutex::default(),
            probe_log: order.log.with_extension("probe.log"),
        }
    }
}

impl ProbeContext {
    /// Returns whether the log from this position on has a text.
    fn log_contains(&self, position: u64, text: &str) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.get(text).is_some_and(|from| *from >= position) {
            return true;
        }
        let fresh = log_stream::bytes_from(&self.log, position, LOG_WINDOW);
        let contains = fresh.is_ok_and(|fresh| String::from_utf8_lossy(&fresh).contains(text));
        if contains {
            found.insert(text.to_owned(), position);
        }
        contains
    }
}

/// Runs `probe` once, within `timeout`.
///
/// # Errors
/// The probe failed; the text describes how.
pub async fn once(probe: &Probe, context: &ProbeContext, log_offset: u64, timeout: Duration) -> Result<(), String> {
    let attempt = async {
        match probe {
            Probe::Tcp { host, port } => match TcpStream::connect((host.as_str(), *port)).await {
                Ok(_connection) => Ok(()),
                Err(error) => Err(format!("could not connect to {host}:{port}: {error}")),
            },
            Probe::Http { url } => http::probe(url).await,
            Probe::Log { contains } => match context.log_contains(log_offset, contains) {
                true => Ok(()),
                false => Err(format!("`{contains}` is not in {}", context.log.display())),
            },
            Probe::File { path } => match path.exists() {
                true => Ok(()),
                false => Err(format!("{} does not exist", path.display())),
            },
            Probe::Exec { argv } => run(argv, context, timeout).await,
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        // The connection was accepted; the listener may be another program.
        Ok(result) => result.and_then(|()| context.earlier_listeners.check(probe)),
        Err(_elapsed) => Err(format!("no answer within {}", shown(timeout))),
    }
}

/// Repeats `probe` until it passes or the deadline is over.
///
/// # Errors
/// The deadline is over; the text is that of the last attempt.
pub async fn until_passed(
    probe: &Probe,
    context: &ProbeContext,
    log_offset: u64,
    deadline: Instant,
) -> Result<(), String> {
    let mut watch = match probe {
        Probe::Log { .. } => FileWatch::new(&context.log).ok(),
        Probe::File { path } => FileWatch::new(path).ok(),
        Probe::Tcp { .. } | Probe::Http { .. } | Probe::Exec { .. } => None,
    };
    let mut delay = MIN_RETRY_DELAY;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.clamp(Duration::from_millis(50), Duration::from_secs(5));
        let error = match once(probe, context, log_offset, timeout).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        let wait = async {
            match &mut watch {
                // A broken watch is replaced by polling.
                Some(watch) => match watch.changed().await {
                    Ok(()) => {}
                    Err(_broken) => tokio::time::sleep(MAX_RETRY_DELAY).await,
                },
                None => tokio::time::sleep(delay).await,
            }
        };
        let over = tokio::time::sleep_until(deadline.into());
        tokio::select! { () = wait => {} () = over => {} }
        delay = (delay * 2).min(MAX_RETRY_DELAY);
    }
}

async fn run(argv: &[String], context: &ProbeContext, timeout: Duration) -> Result<(), String> {
    // Each run has a separate name: the guard identifies processes by their names.
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let name = ProcessName::Command {
        service: &context.service,
        purpose: &format!("probe:{number}"),
    };
    let order = SpawnOrder {
        service: name.to_string(),
        argv: argv.to_vec(),
        environment: context.environment.clone(),
        directory: context.directory.clone(),
        log: context.probe_log.clone(),
        stop: StopPlan::new(u32::MAX, [(nix::libc::SIGKILL, Duration::from_millis(100))]),
    };
    match context.launcher.run_to_end(order, timeout).await? {
        ExitStatus::Code(0) => Ok(()),
        status => Err(format!("`{}` {}", argv.join(" "), orch_journal::describe_exit(status))),
    }
}
